// The step map: step x channel, played through time.
(() => {
  "use strict";
  const { bytes, floats, clamp, format, tone, whenThemed, HEAT, GRAY, shade, make, fit, sheet, segments, remembered, stepper } = wb.kit;

  const stepmap = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-stepmap"), id = root.dataset.key;
    const view = remembered.get(id) || { step: 0, channel: null, colors: "raw" };
    remembered.set(id, view);
    let data = null, hover = null, layer = null, marks = null;
    const map = make("canvas", { role: "img", tabindex: 0, id: `${id}-map` });
    const profile = make("canvas", { role: "img", id: `${id}-profile` });
    const trace = make("canvas", { role: "img", id: `${id}-trace` });
    const where = make("canvas", { role: "img", class: "wb-where", id: `${id}-where` });
    const colors = segments("colors of the map", { raw: "Outliers", dynamic: "Dynamic list", magnitude: "Magnitude" }, view.colors,
      (key) => { view.colors = key; layer = null; fill(); paint(); });
    const steps = stepper("step", (t) => { view.step = t; paint(); });
    const channel = make("input", { type: "number", min: 0, "aria-label": "channel", oninput: (event) => {
      if (data && event.target.value !== "") { view.channel = clamp(Math.round(Number(event.target.value)), 0, data.C - 1); paint(); } } });
    const read = make("p", { class: "wb-read", "aria-live": "polite" });
    const counts = make("div", { class: "wb-counts" });
    const legend = make("div", { class: "wb-legend" });
    const mapTitle = make("b", {}, "|x| at every time step and channel"), profileTitle = make("b"), traceTitle = make("b");
    const wherePatch = make("span", { class: "wb-note" });
    root.replaceChildren(
      make("div", { class: "wb-tools" }, colors.group, legend),
      make("div", { class: "wb-mapgrid" },
        make("figure", { class: "wb-main" }, make("figcaption", {}, mapTitle), map),
        make("figure", { class: "wb-side" }, make("figcaption", {}, make("b", {}, "What this step reads"), wherePatch), where, counts)),
      steps.bar, read,
      make("div", { class: "wb-two" },
        make("figure", {}, make("figcaption", {}, profileTitle), profile),
        make("figure", {}, make("figcaption", {}, traceTitle, make("label", { class: "wb-num" }, "channel ", channel)), trace)));

    const marked = (i) => (view.colors === "dynamic" ? data.dynamic : data.raw)[i];
    const kind = (t, c) => (marked(t * data.C + c) ? (data.fixed[c] ? 3 : 2) : data.fixed[c] ? 1 : 0);
    const names = () => (view.colors === "dynamic"
      ? ["", "in the static list only", "in the dynamic list only", "in both lists"]
      : ["", "kept by the static list in vain", "outliers the static list misses", "outliers in the static list"]);
    const palette = () => [tone("map-none"), tone("map-static"), tone("map-missed"), tone("map-both")];
    const rgb = (css) => { const m = css.match(/^#(..)(..)(..)$/); return m ? m.slice(1).map((x) => parseInt(x, 16)) : [128, 128, 128]; };
    const level = (value) => clamp((Math.log10(Math.max(value, data.floor)) - data.lo) / (data.hi - data.lo || 1), 0, 1);
    const render = () => {
      const { L, C } = data, tints = palette().map(rgb), table = view.colors === "magnitude" ? HEAT : GRAY[shade()];
      return sheet(L, C, (pixels) => {
        for (let c = 0; c < C; c++) for (let t = 0; t < L; t++) {
          const at = 4 * (c * L + t), v = level(data.magnitude[t * C + c]), k = view.colors === "magnitude" ? 0 : kind(t, c);
          const base = 3 * Math.round(v * (view.colors === "magnitude" ? 255 : 64));
          for (let i = 0; i < 3; i++) pixels[at + i] = k > 1 ? tints[k][i] : k === 1 ? 0.45 * tints[1][i] + 0.55 * table[base + i] : table[base + i];
          pixels[at + 3] = 255;
        }
      });
    };
    const inset = { left: 42, bottom: 26, top: 4, right: 4 };
    const axes = (context, width, height, xs, ys, xlabel, ylabel) => {
      context.fillStyle = tone("muted"); context.strokeStyle = tone("grid"); context.lineWidth = 1; context.font = "11px system-ui, sans-serif";
      context.textAlign = "center"; context.textBaseline = "top";
      for (const [x, text] of xs) context.fillText(text, clamp(x, inset.left + 4, width - 14), height - inset.bottom + 4);
      context.textAlign = "right"; context.fillText(xlabel, width - inset.right, height - 12);
      context.textBaseline = "middle";
      for (const [y, text] of ys) {
        context.textAlign = "right"; context.fillText(text, inset.left - 5, y);
      }
      context.save(); context.translate(8, (height - inset.bottom) / 2); context.rotate(-Math.PI / 2); context.textAlign = "center"; context.fillText(ylabel, 0, 0); context.restore();
    };
    const ticks = (count, most) => {
      const raw = count / most, unit = 10 ** Math.floor(Math.log10(Math.max(raw, 1))), step = Math.max(1, [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw));
      return Array.from({ length: Math.floor((count - 1) / step) + 1 }, (_, i) => i * step);
    };
    const paint = () => {
      if (!data || !map.clientWidth) return;
      const { L, C } = data, t = view.step;
      layer = layer || render();
      const [context, width, height] = fit(map, map.clientWidth < 560 ? 240 : 350);
      const [w, h] = [width - inset.left - inset.right, height - inset.top - inset.bottom];
      context.imageSmoothingEnabled = false;
      context.drawImage(layer, inset.left, inset.top, w, h);
      axes(context, width, height, ticks(L, width < 500 ? 5 : 10).map((k) => [inset.left + ((k + 0.5) / L) * w, k]), ticks(C, 7).map((k) => [inset.top + ((k + 0.5) / C) * h, k]), "time step", "channel");
      const x = inset.left + ((t + 0.5) / L) * w;
      context.fillStyle = tone("cursor"); context.fillRect(x - 1, inset.top, 2, h);
      if (view.channel !== null) { context.globalAlpha = 0.8; context.fillRect(inset.left, inset.top + ((view.channel + 0.5) / C) * h - 0.5, w, 1); context.globalAlpha = 1; }
      if (hover) {
        context.strokeStyle = tone("text"); context.lineWidth = 1;
        context.strokeRect(inset.left + (hover.t / L) * w - 2, inset.top + (hover.c / C) * h - 2, w / L + 4, h / C + 4);
      }
      drawProfile(); drawTrace(); drawWhere();
      const at = hover || (view.channel === null ? null : { t, c: view.channel });
      const thing = view.colors === "dynamic" ? "in the dynamic list" : "an outlier";
      const word = ["an inlier", "in the static list only", `${thing}, missed by the static list`, `${thing} and in the static list`];
      read.textContent = at ? `step ${at.t}, channel ${at.c}: |x| ${format(data.magnitude[at.t * C + at.c])}, ${word[kind(at.t, at.c)]}`
        : "Click the map to put the cursor on a step and a channel; Space plays, arrow keys move, comma and period change the channel.";
      if (document.activeElement !== channel) channel.value = view.channel ?? data.loudest;
      const tally = [0, 0, 0, 0];
      for (let c = 0; c < C; c++) tally[kind(t, c)]++;
      const tints = palette();
      const line = (text, n, tint) => make("div", {}, make("i", { style: `background:${tint}` }), make("strong", {}, String(n)), ` ${text}`);
      counts.replaceChildren(make("b", {}, `At step ${t}`),
        ...[3, 2, 1].map((k) => line(names()[k], tally[k], tints[k])));
      map.setAttribute("aria-label", `${data.title}: ${L} time steps by ${C} channels; at step ${t} ${tally[2] + tally[3]} outliers, ${tally[2]} of them missed by the static list`);
    };
    const drawProfile = () => {
      const { C } = data, t = view.step, [context, width, height] = fit(profile, 150);
      const [w, h] = [width - inset.left - inset.right, height - inset.top - inset.bottom], tints = palette();
      let top = 0;
      for (let c = 0; c < C; c++) top = Math.max(top, data.magnitude[t * C + c]);
      if (data.theta) top = Math.max(top, data.theta[t]);
      const y = (v) => inset.top + h * (1 - v / (top || 1));
      axes(context, width, height, ticks(C, 8).map((k) => [inset.left + ((k + 0.5) / C) * w, k]), [[y(0), "0"], [y(top) + 5, format(top)]], "channel", "|x|");
      context.fillStyle = tone("grid"); context.fillRect(inset.left, y(0), w, 1);
      for (let c = 0; c < C; c++) {
        const v = data.magnitude[t * C + c], k = kind(t, c);
        context.fillStyle = k ? tints[k] : tone("bar");
        context.fillRect(inset.left + (c / C) * w, y(v), Math.max(1, w / C - (w / C > 3 ? 1 : 0)), y(0) - y(v));
      }
      if (data.theta) {
        context.strokeStyle = tone("text"); context.setLineDash([4, 3]); context.beginPath();
        context.moveTo(inset.left, y(data.theta[t])); context.lineTo(inset.left + w, y(data.theta[t])); context.stroke(); context.setLineDash([]);
      }
      profileTitle.textContent = `All channels at step ${t}${data.theta ? " (dashed: threshold)" : ""}`;
      profile.setAttribute("aria-label", `magnitude of every channel at step ${t}; largest ${format(top)}`);
    };
    const drawTrace = () => {
      const { L, C } = data, c = view.channel ?? data.loudest, [context, width, height] = fit(trace, 150);
      const [w, h] = [width - inset.left - inset.right, height - inset.top - inset.bottom], tints = palette();
      let top = 0;
      for (let t = 0; t < L; t++) top = Math.max(top, data.magnitude[t * C + c]);
      const y = (v) => inset.top + h * (1 - v / (top || 1)), x = (t) => inset.left + ((t + 0.5) / L) * w;
      axes(context, width, height, ticks(L, 8).map((k) => [x(k), k]), [[y(0), "0"], [y(top) + 5, format(top)]], "time step", "|x|");
      context.fillStyle = tone("grid"); context.fillRect(inset.left, y(0), w, 1);
      for (let t = 0; t < L; t++) if (marked(t * C + c)) {
        context.fillStyle = tints[kind(t, c)]; context.globalAlpha = 0.28; context.fillRect(inset.left + (t / L) * w, inset.top, w / L + 0.5, h);
      }
      context.globalAlpha = 1; context.strokeStyle = tone("text"); context.lineWidth = 1.25; context.beginPath();
      for (let t = 0; t < L; t++) context.lineTo(x(t), y(data.magnitude[t * C + c]));
      context.stroke();
      context.fillStyle = tone("cursor"); context.fillRect(x(view.step) - 1, inset.top, 2, h);
      let listed = 0;
      for (let t = 0; t < L; t++) listed += marked(t * C + c);
      traceTitle.textContent = `Channel ${c}${view.channel === null ? " (the largest)" : ""}: ${view.colors === "dynamic" ? "listed" : "outlier"} in ${listed} of ${L} steps`;
      trace.setAttribute("aria-label", `channel ${c} over ${L} steps, largest ${format(top)}, outlier in ${listed}${data.fixed[c] ? ", in the static list" : ", not in the static list"}`);
    };
    const drawWhere = () => {
      const has = Boolean(data.image);
      where.parentElement.classList.toggle("wb-noimage", !has);
      if (!has) return;
      const [ih, iw] = data.size, [context, width, height] = fit(where, (where.clientWidth * ih) / iw);
      context.imageSmoothingEnabled = false;
      context.drawImage(data.picture, 0, 0, width, height);
      const cell = data.cells ? data.cells[view.step] : null;
      if (cell === null || cell < 0) {
        wherePatch.textContent = cell === -1 ? "class token" : cell === null ? "" : "padding";
        if (cell !== null) { context.fillStyle = "rgba(0,0,0,.45)"; context.fillRect(0, 0, width, height); }
      } else {
        const [H, W] = data.grid, r = Math.floor(cell / W), c = cell % W, [w, h] = [width / W, height / H];
        wherePatch.textContent = `row ${r}, column ${c}`;
        context.lineWidth = 5; context.strokeStyle = "rgba(0,0,0,.75)"; context.strokeRect(c * w, r * h, w, h);
        context.lineWidth = 2.5; context.strokeStyle = "#4cc9ff"; context.strokeRect(c * w, r * h, w, h);
      }
      where.setAttribute("aria-label", `the image; step ${view.step} reads ${wherePatch.textContent}`);
    };
    const cellAt = (event) => {
      const box = map.getBoundingClientRect(), x = event.clientX - box.left - inset.left, y = event.clientY - box.top - inset.top;
      const w = box.width - inset.left - inset.right, h = box.height - inset.top - inset.bottom;
      if (x < 0 || y < 0 || x >= w || y >= h) return null;
      return { t: Math.floor((x / w) * data.L), c: Math.floor((y / h) * data.C) };
    };
    map.addEventListener("pointermove", (event) => { if (data) { hover = cellAt(event); paint(); } });
    map.addEventListener("pointerleave", () => { hover = null; paint(); });
    map.addEventListener("click", (event) => {
      const cell = data && cellAt(event);
      if (cell) { view.channel = cell.c; steps.go(cell.t); }
    });
    root.addEventListener("keydown", (event) => {
      if (!data || event.target === channel || event.target.closest(".wb-seg")) return;
      const move = { ",": -1, ".": 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (move && event.target.type !== "number" && event.target.tagName !== "SELECT") {
        view.channel = clamp((view.channel ?? data.loudest) + move, 0, data.C - 1);
        event.preventDefault(); paint();
      } else steps.key(event);
    });
    const load = () => {
      root.hidden = !props.value;
      if (!props.value) return;
      const got = JSON.parse(props.value);
      got.magnitude = floats(got.magnitude); got.dynamic = bytes(got.dynamic); got.raw = bytes(got.raw); got.fixed = bytes(got.fixed);
      if (got.theta) got.theta = floats(got.theta);
      const positive = got.magnitude.filter((v) => v > 0).sort(), n = positive.length;
      got.floor = n ? positive[Math.floor(0.02 * n)] : 1e-6;
      got.lo = Math.log10(got.floor); got.hi = Math.log10(n ? positive[n - 1] : 1);
      const sums = new Float64Array(got.C);
      got.magnitude.forEach((v, i) => { sums[i % got.C] += v; });
      got.loudest = sums.indexOf(Math.max(...sums));
      if (got.image) {
        const [h, w] = got.size, source = bytes(got.image);
        got.picture = sheet(w, h, (p) => { for (let i = 0; i < w * h; i++) { p.set(source.subarray(3 * i, 3 * i + 3), 4 * i); p[4 * i + 3] = 255; } });
      }
      data = got; layer = null;
      if (view.channel !== null && view.channel >= got.C) view.channel = null;
      channel.max = got.C - 1;
      steps.setCount(got.L);
      view.step = Math.min(view.step, got.L - 1);
      steps.go(view.step, false);
      fill();
      paint();
    };
    const fill = () => {
      const tints = palette();
      legend.replaceChildren(...(view.colors === "magnitude" ? [make("span", {}, "dark: small, bright: large, on a logarithmic scale")]
        : [3, 2, 1].map((k) => make("span", {}, make("i", { style: `background:${tints[k]}` }), names()[k]))));
    };
    load();
    watch("value", load);
    whenThemed(element, () => { layer = null; if (data) fill(); paint(); });
    new ResizeObserver(paint).observe(map);
  };

  Object.assign(wb, { stepmap });
})();
