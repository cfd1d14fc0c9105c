// Answers of a model to one image.
(() => {
  "use strict";
  const { bytes, words, clamp, tone, whenThemed, HEAT, make, fit, sheet, segments, remembered, stepper } = wb.kit;

  const answers = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-answers"), id = root.dataset.key;
    const view = remembered.get(id) || { mode: "classes", opacity: 0.65, least: 0.3, step: null, cell: null };
    remembered.set(id, view);
    let data = null, paint = () => {}, stepsOf = null;
    const hex = (color) => [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16));
    const read = make("p", { class: "wb-read", "aria-live": "polite" });
    const figureOf = (panel, body) => make("figure", {}, make("figcaption", {}, make("b", {}, panel.title), make("span", { class: "wb-note" }, panel.note)), body);
    const canvasOf = (panel) => make("canvas", { role: "img", id: `${id}-${panel.key}`, tabindex: panel.key === "image" ? -1 : 0, "aria-label": `${panel.title}: ${panel.said}` });
    const blank = () => make("figure", { class: "wb-blank" }, make("figcaption", {}, make("b", {}, "Quantized"), make("span")), make("div", { class: "wb-empty" }, data.none));
    const legend = (numbers) => make("div", { class: "wb-legend" }, ...numbers.map((k) => make("span", {}, make("i", { style: `background:${data.colors[k]}` }), nameOf(k))));
    const nameOf = (k) => (k === 255 ? "unknown" : data.names.length ? data.names[k] : `class ${k}`);
    const picture = (tint) => {
      const [h, w] = data.size;
      return sheet(w, h, (pixels) => {
        for (let i = 0; i < h * w; i++) {
          const [r, g, b] = [0, 1, 2].map((c) => data.image[3 * i + c]);
          const [base, color, share] = tint(i, r, g, b);
          for (let c = 0; c < 3; c++) pixels[4 * i + c] = base[c] * (1 - share) + color[c] * share;
          pixels[4 * i + 3] = 255;
        }
      });
    };
    const plain = () => picture((i, r, g, b) => [[r, g, b], [0, 0, 0], 0]);
    const put = (canvas, image) => {
      const [h, w] = data.size, [context, width, height] = fit(canvas, (canvas.clientWidth * h) / w);
      context.imageSmoothingEnabled = false;
      context.drawImage(image, 0, 0, width, height);
      return [context, width, height];
    };
    const save = (canvases, rows) => wb.save.canvases("ouro-answers", () => data.panels.map((panel) => [panel.title, canvases[panel.key]]), rows);

    // a class for every pixel
    const segmentation = () => {
      const sides = data.panels.filter((panel) => panel.key !== "image"), { truth, float, quantized } = data.classes;
      const modes = { classes: "Classes", ...(quantized ? { changed: "Changed by rounding" } : {}), ...(truth ? { wrong: "Wrong" } : {}) };
      if (!(view.mode in modes)) view.mode = "classes";
      const mode = segments("what is colored", modes, view.mode, (key) => { view.mode = key; sheets = null; paint(); });
      const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: view.opacity, "aria-label": "opacity of the classes",
        oninput: (event) => { view.opacity = Number(event.target.value); sheets = null; paint(); } });
      const canvases = Object.fromEntries(data.panels.map((panel) => [panel.key, canvasOf(panel)]));
      const figures = data.panels.map((panel) => figureOf(panel, canvases[panel.key]));
      let sheets = null;
      const rgb = data.colors.map(hex);
      const render = (key) => {
        const classes = data.classes[key];
        if (!classes) return plain();
        // what is not meant fades into the page, so that the gray of the ground stays to be seen
        const faint = hex(tone("card"));
        const marked = (i) => (view.mode === "changed" ? key !== "truth" && float[i] !== quantized[i] : view.mode === "wrong" ? key !== "truth" && truth[i] !== 255 && truth[i] !== classes[i] : true);
        return picture((i, r, g, b) => {
          const gray = (r + g + b) / 3, color = rgb[classes[i]] || [0, 0, 0], ground = data.ground && classes[i] === 0;
          if (view.mode === "classes") return [[r, g, b], color, classes[i] === 255 ? 0 : ground ? Math.min(0.3, view.opacity) : view.opacity];
          return [faint.map((v) => 0.35 * gray + 0.65 * v), color, marked(i) ? Math.max(view.opacity, 0.5) : 0];
        });
      };
      paint = () => {
        if (!root.clientWidth) return;
        sheets = sheets || Object.fromEntries(data.panels.map(({ key }) => [key, render(key)]));
        for (const { key } of data.panels) {
          const [context, width, height] = put(canvases[key], sheets[key]);
          if (view.cell === null) continue;
          const [h, w] = data.size, x = (view.cell % w) * (width / w), y = Math.floor(view.cell / w) * (height / h);
          context.lineWidth = 3; context.strokeStyle = "rgba(0,0,0,.75)"; context.strokeRect(x - 2, y - 2, width / w + 4, height / h + 4);
          context.lineWidth = 1.5; context.strokeStyle = "#4cc9ff"; context.strokeRect(x - 2, y - 2, width / w + 4, height / h + 4);
        }
        const at = view.cell;
        read.textContent = at === null ? "Point at a pixel, or move with the arrow keys, to read its classes."
          : `row ${Math.floor(at / data.size[1])}, column ${at % data.size[1]}: ${sides.map((panel) => `${panel.title.toLowerCase()} ${nameOf(data.classes[panel.key][at])}`).join(" · ")}`;
      };
      for (const canvas of Object.values(canvases)) {
        const cellAt = (event) => {
          const box = canvas.getBoundingClientRect(), [h, w] = data.size;
          return clamp(Math.floor(((event.clientY - box.top) / box.height) * h), 0, h - 1) * w + clamp(Math.floor(((event.clientX - box.left) / box.width) * w), 0, w - 1);
        };
        canvas.addEventListener("pointermove", (event) => { view.cell = cellAt(event); paint(); });
        canvas.addEventListener("keydown", (event) => {
          const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key], [h, w] = data.size;
          if (!move) return;
          event.preventDefault();
          const at = view.cell ?? Math.floor(h / 2) * w + Math.floor(w / 2), far = event.shiftKey ? 8 : 1;
          view.cell = clamp(Math.floor(at / w) + far * move[0], 0, h - 1) * w + clamp((at % w) + far * move[1], 0, w - 1);
          paint();
        });
      }
      if (view.cell !== null && view.cell >= data.size[0] * data.size[1]) view.cell = null;
      return [make("div", { class: "wb-tools" }, mode.group, make("label", { class: "wb-slide" }, "Opacity", opacity), save(canvases, () => {
        const keys = sides.map((panel) => panel.key), W = data.size[1];
        return [["row", "column", ...keys], ...Array.from(float, (_, i) => [Math.floor(i / W), i % W, ...keys.map((key) => nameOf(data.classes[key][i]))])];
      })),
        make("div", { class: "wb-panels" }, ...figures, ...(data.none ? [blank()] : [])), legend(data.there), read];
    };

    // boxes
    const overlap = (a, b) => {
      const side = (k) => Math.max(0, Math.min(a[k + 2], b[k + 2]) - Math.max(a[k], b[k])), area = (x) => (x[2] - x[0]) * (x[3] - x[1]);
      const both = side(0) * side(1);
      return both / Math.max(area(a) + area(b) - both, 1e-9);
    };
    const detection = () => {
      const canvases = Object.fromEntries(data.panels.map((panel) => [panel.key, canvasOf(panel)])), image = plain();
      const least = make("input", { type: "range", min: 0.3, max: 0.95, step: 0.05, value: view.least, "aria-label": "least score of a box",
        oninput: (event) => { view.least = Number(event.target.value); paint(); } });
      const said = make("span", { class: "wb-note" });
      const kept = (key) => data.boxes[key].filter((row) => key === "truth" || row[5] >= view.least);
      const missedBy = (key) => (data.boxes.truth || []).filter((one) => one[5] === 0 && !kept(key).some((row) => row[4] === one[4] && overlap(one, row) >= 0.5));
      const label = (row, key) => `${nameOf(row[4])}${key === "truth" ? "" : ` ${row[5].toFixed(2)}`}`;
      const mark = (context, scale, row, words, color, dashed) => {
        const [x, y, w, h] = [row[0] * scale, row[1] * scale, (row[2] - row[0]) * scale, (row[3] - row[1]) * scale];
        context.setLineDash(dashed ? [6, 4] : []);
        context.lineWidth = 4; context.strokeStyle = "rgba(0,0,0,.6)"; context.strokeRect(x, y, w, h);
        context.lineWidth = 2; context.strokeStyle = color; context.strokeRect(x, y, w, h);
        context.setLineDash([]);
        context.font = "600 11px system-ui, sans-serif"; context.textBaseline = "top"; context.textAlign = "left";
        const wide = context.measureText(words).width + 8, left = clamp(x - 1, 0, Math.max(0, context.canvas.clientWidth - wide)), top = y >= 16 ? y - 16 : y + 1;
        context.fillStyle = "rgba(20,18,16,.82)"; context.fillRect(left, top, wide, 15);
        context.fillStyle = dashed ? "#ffb3ad" : "#ffffff"; context.fillText(words, left + 4, top + 2);
      };
      paint = () => {
        if (!root.clientWidth) return;
        said.textContent = view.least.toFixed(2);
        for (const panel of data.panels) {
          const [context, width] = put(canvases[panel.key], image), scale = width / data.size[1];
          if (!data.boxes[panel.key]) continue;
          const rows = kept(panel.key), lost = panel.key === "truth" ? [] : missedBy(panel.key);
          for (const row of [...rows].reverse()) mark(context, scale, row, label(row, panel.key), data.colors[row[4]], false);
          for (const row of lost) mark(context, scale, row, `missed: ${nameOf(row[4])}`, "#ff5a4f", true);
          canvases[panel.key].parentElement.querySelector("figcaption span").textContent = panel.key === "truth" ? `${rows.length} object${rows.length === 1 ? "" : "s"}`
            : `${rows.length} box${rows.length === 1 ? "" : "es"}${data.boxes.truth ? `, ${lost.length} missed` : ""}`;
          canvases[panel.key].setAttribute("aria-label", `${panel.title}: ${rows.map((row) => label(row, panel.key)).join(", ") || "no object"}${lost.length ? `; missed ${lost.map((row) => nameOf(row[4])).join(", ")}` : ""}`);
        }
      };
      const seen = [...new Set(Object.values(data.boxes).flat().map((row) => row[4]))].sort((a, b) => a - b);
      return [make("div", { class: "wb-tools" }, make("label", { class: "wb-slide" }, "Boxes from score", least, said), save(canvases, () => [["side", "class", "score", "x0", "y0", "x1", "y1"],
        ...Object.keys(data.boxes).flatMap((key) => kept(key).map((row) => [key, nameOf(row[4]), key === "truth" ? "" : row[5], ...row.slice(0, 4)]))])),
        make("div", { class: "wb-panels" }, ...data.panels.map((panel) => figureOf(panel, canvases[panel.key])), ...(data.none ? [blank()] : [])), legend(seen)];
    };

    // one class for the image
    const classification = () => {
      const [first, ...sides] = data.panels, canvas = canvasOf(first), image = plain();
      paint = () => { if (root.clientWidth) put(canvas, image); };
      const bars = (panel) => make("ol", { class: "wb-bars", id: `${id}-${panel.key}`, "data-side": panel.key, "aria-label": `${panel.title}: ${panel.said}` }, ...data.bars[panel.key].map(([name, share]) => {
        const right = name === data.truth;
        return make("li", { class: right ? "wb-right" : "" }, make("span", {}, name, right ? make("i", { title: "what the image shows" }, " ✓") : ""), make("b", {}, `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`),
          make("div", { class: "wb-track" }, make("div", { class: "wb-fill", style: `width:${(100 * share).toFixed(1)}%` })));
      }));
      return [make("div", { class: "wb-panels wb-three" }, figureOf(first, canvas), ...sides.map((panel) => figureOf(panel, bars(panel))), ...(data.none ? [blank()] : []))];
    };

    // pictures out of noise
    const diffusion = () => {
      const sides = data.panels.filter(({ key }) => data.strips[key]), last = data.times.length - 1;
      if (view.step === null || view.step > last) view.step = last;
      const frames = Object.fromEntries(sides.map((panel) => [panel.key, make("img", { id: `${id}-${panel.key}`, class: "wb-pixels" })]));
      const canvas = canvasOf(data.panels[0]), image = plain(), gap = sides.length > 1 ? make("canvas", { role: "img", id: `${id}-difference` }) : null;
      const loaded = {};
      for (const { key } of sides) loaded[key] = data.strips[key].map((src) => { const img = new Image(); img.onload = () => paint(); img.src = src; return img; });
      const thumbs = {};
      const strip = (panel) => {
        thumbs[panel.key] = data.strips[panel.key].map((src, k) => make("button", { type: "button", tabindex: -1, "aria-label": `${panel.title}, diffusion time ${data.times[k].toFixed(2)}`, onclick: () => steps.go(k) }, make("img", { src, alt: "" })));
        return make("div", { class: "wb-film" }, make("span", {}, panel.title), make("div", {}, ...thumbs[panel.key]));
      };
      const steps = stepper("step", (k) => { view.step = k; paint(); }, 4);
      stepsOf = steps;
      const pixels = (img) => {
        const out = document.createElement("canvas"), context = out.getContext("2d", { willReadFrequently: true });
        out.width = img.naturalWidth; out.height = img.naturalHeight; context.drawImage(img, 0, 0);
        return context.getImageData(0, 0, out.width, out.height).data;
      };
      paint = () => {
        const t = data.times[view.step].toFixed(2);
        for (const panel of sides) {
          const frame = frames[panel.key];
          frame.src = data.strips[panel.key][view.step];
          frame.alt = `${panel.title}: the picture at diffusion time ${t}`;
          frame.parentElement.querySelector("figcaption span").textContent = `t = ${t}`;
          thumbs[panel.key].forEach((button, k) => button.setAttribute("aria-current", k === view.step));
        }
        read.textContent = `Diffusion time ${t}: step ${view.step} of ${last}, from noise at 0 to a picture at 1.`;
        if (!root.clientWidth) return;
        put(canvas, image);
        const pair = sides.map(({ key }) => loaded[key][view.step]);
        if (!gap || !pair.every((img) => img.complete && img.naturalWidth)) return;
        const [a, b] = pair.map(pixels), [h, w] = [pair[0].naturalHeight, pair[0].naturalWidth], off = new Float32Array(h * w);
        let sum = 0;
        for (let i = 0; i < h * w; i++) { for (let c = 0; c < 3; c++) { const d = a[4 * i + c] - b[4 * i + c]; off[i] += Math.abs(d) / 3; sum += d * d; } }
        const [context, width, height] = fit(gap, (gap.clientWidth * h) / w), far = Math.sqrt(sum / (3 * h * w)) / 255;
        context.imageSmoothingEnabled = false;
        context.drawImage(sheet(w, h, (p) => off.forEach((d, i) => { const k = 3 * Math.round(clamp(4 * d, 0, 255)); p[4 * i] = HEAT[k]; p[4 * i + 1] = HEAT[k + 1]; p[4 * i + 2] = HEAT[k + 2]; p[4 * i + 3] = 255; })), 0, 0, width, height);
        gap.parentElement.querySelector("figcaption span").textContent = `${(100 * far).toFixed(1)} % of the range`;
        gap.setAttribute("aria-label", `difference of float and quantized at diffusion time ${t}: ${(100 * far).toFixed(1)} % of the range of a pixel`);
      };
      root.onkeydown = (event) => { if (data.task === "diffusion") steps.key(event); };
      steps.setCount(data.times.length);
      const made = sides.map((panel) => make("div", { class: "wb-film wb-made" }, make("span", {}, panel.title), make("div", {}, ...data.pictures[panel.key].map((src, k) => make("img", { src, alt: `${panel.title}, picture ${k + 1}`, class: "wb-pixels" })))));
      const figures = [figureOf({ ...data.panels[0], title: "A real picture" }, canvas), ...sides.map((panel) => figureOf(panel, frames[panel.key]))];
      if (gap) figures.push(figureOf({ title: "Difference × 4", note: "" }, gap));
      const parts = [make("div", { class: "wb-panels" }, ...figures, ...(data.none ? [blank()] : [])), make("div", { class: "wb-query" }, steps.bar), ...sides.map(strip), read,
        make("h4", { class: "wb-madehead" }, sides.length > 1 ? "Pictures, each pair from the same noise" : "Pictures"), ...made];
      queueMicrotask(() => steps.go(view.step, false));
      return parts;
    };

    const kinds = { segmentation, detection, classification, diffusion };
    const load = () => {
      if (stepsOf) { stepsOf.stop(); stepsOf = null; }
      root.hidden = !props.value;
      if (!props.value) { data = null; paint = () => {}; root.replaceChildren(); return; }
      data = JSON.parse(props.value);
      data.image = bytes(data.image);
      if (data.classes) for (const key of Object.keys(data.classes)) data.classes[key] = words(data.classes[key]);
      root.replaceChildren(...kinds[data.task]());
      paint();
    };
    load();
    watch("value", load);
    whenThemed(element, load);
    new ResizeObserver(() => paint()).observe(root);
  };

  Object.assign(wb, { answers });
})();
