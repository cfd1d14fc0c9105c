// The attention board.
(() => {
  "use strict";
  const { bytes, floats, words, clamp, format, extent, dark, tone, whenThemed, HEAT, SPLIT, shade, make, fit, sheet, segments, remembered, stepper, cursor } = wb.kit;

  const board = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-board"), id = root.dataset.key;
    const view = remembered.get(id) || { mode: "whole", patch: null, opacity: 0.8, shared: false, smooth: false, outline: true };
    remembered.set(id, view);
    // what was looked at in another tab before this one was opened
    view.patch ??= cursor.patch;
    const place = id.replace(/^wb-/, "");
    let data = null, sheets = {}, hover = null;

    const names = ["input", "h", "h_p", "diff", "delta"], panels = {};
    const there = () => names.filter((name) => name !== "delta" || data.maps.delta);
    for (const name of names) {
      const canvas = make("canvas", { role: "img", id: `${id}-${name === "h_p" ? "hp" : name}`, tabindex: name === "input" ? 0 : -1 });
      const note = make("span", { class: "wb-note" }), title = make("b"), low = make("span"), high = make("span");
      const bar = make("canvas", { class: "wb-scale", "aria-hidden": "true" });
      const scale = make("div", { class: "wb-range" }, low, bar, high);
      panels[name] = { canvas, note, title, low, high, bar, scale };
      panels[name].figure = make("figure", {}, make("figcaption", {}, title, note), canvas, scale);
    }
    const mode = segments("what the maps show", { whole: "Whole image", query: "One query patch" }, view.mode, (key) => setMode(key));
    const steps = stepper("patch", (t) => { view.patch = t; if (view.mode !== "query") setMode("query"); else { tell(); paint(); } });
    const row = make("input", { type: "number", min: 0, "aria-label": "query row", class: "wb-row" });
    const column = make("input", { type: "number", min: 0, "aria-label": "query column", class: "wb-col" });
    for (const field of [row, column]) field.addEventListener("input", () => {
      if (data && row.value !== "" && column.value !== "") {
        const [H, W] = data.grid;
        pick(clamp(Number(row.value), 0, H - 1) * W + clamp(Number(column.value), 0, W - 1));
      }
    });
    const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: view.opacity, "aria-label": "overlay opacity",
      oninput: (event) => { view.opacity = Number(event.target.value); paint(); } });
    const check = (text, key) => {
      const box = make("input", { type: "checkbox", onchange: (event) => { view[key] = event.target.checked; paint(); } });
      box.checked = view[key];
      return make("label", { class: "wb-check" }, box, text);
    };
    const save = wb.save.canvases("ouro-attention",
      () => there().map((name) => [`${data.titles[name]}  ${data.notes[name] || ""}`, panels[name].canvas]),
      () => {
        const { raw, diff } = shown(), W = data.grid[1];
        const { delta } = data.maps, head = ["row", "column", "h", "h_p", "difference of the scaled maps"];
        return [delta ? [...head, "delta"] : head, ...Array.from(diff, (far, i) => [Math.floor(i / W), i % W, raw.h[i], raw.h_p[i], far, ...(delta ? [delta[i]] : [])])];
      });
    const read = make("p", { class: "wb-read", "aria-live": "polite" });
    const query = make("div", { class: "wb-query" }, steps.bar,
      make("span", { class: "wb-rc" }, make("label", {}, "row ", row), make("label", {}, "column ", column)));
    const grid = make("div", { class: "wb-panels" }, ...names.map((name) => panels[name].figure));
    const outline = check("Object outline", "outline");
    root.replaceChildren(
      make("div", { class: "wb-tools" }, mode.group, make("label", { class: "wb-slide" }, "Overlay", opacity),
        check("Smooth", "smooth"), check("Shared scale", "shared"), outline, save),
      grid, query, read);

    const setMode = (key) => {
      view.mode = key;
      if (key === "query" && view.patch === null && data) view.patch = Math.floor(data.grid[0] / 2) * data.grid[1] + Math.floor(data.grid[1] / 2);
      if (key === "whole") steps.stop();
      mode.set(key, false);
      tell();
      paint();
    };
    const tell = () => {
      wb.address.put(place, ["patch"], [view.mode === "query" ? view.patch : null]);
      if (view.mode === "query") cursor.move(view.patch, element);
    };
    const pick = (patch) => { view.patch = patch; steps.go(patch, false); setMode(data.matrix ? "query" : "whole"); };

    const rowOf = (source) => {
      const [H, W] = data.grid, P = H * W, { codes, low, span } = data.matrix[source];
      const values = new Float32Array(P);
      for (let j = 0; j < P; j++) values[j] = low[view.patch] + (codes[view.patch * P + j] / 65535) * span[view.patch];
      return values;
    };
    const shown = () => {
      const asked = view.mode === "query" && data.matrix;
      const h = asked ? rowOf("h") : data.maps.h, h_p = asked ? rowOf("h_p") : data.maps.h_p;
      const [a, b] = [extent(h), extent(h_p)];
      const both = [Math.min(a[0], b[0]), Math.max(a[1], b[1])];
      const unit = (values, [lo, hi]) => Float32Array.from(values, (v) => (hi > lo ? (v - lo) / (hi - lo) : 0));
      const ranges = { h: view.shared ? both : a, h_p: view.shared ? both : b };
      const units = { h: unit(h, ranges.h), h_p: unit(h_p, ranges.h_p) };
      // a patch has one Delta, whichever patch asks
      if (data.maps.delta) { ranges.delta = extent(data.maps.delta); units.delta = unit(data.maps.delta, ranges.delta); }
      const diff = units.h_p.map((v, i) => v - units.h[i]);
      const top = Math.max(1e-9, ...diff.map(Math.abs));
      return { raw: { h, h_p }, ranges, units, diff, top };
    };
    const heat = (units, table) => {
      const [H, W] = data.grid;
      return sheet(W, H, (pixels) => units.forEach((v, i) => {
        const k = 3 * Math.round(clamp(v, 0, 1) * 255);
        pixels[4 * i] = table[k]; pixels[4 * i + 1] = table[k + 1]; pixels[4 * i + 2] = table[k + 2]; pixels[4 * i + 3] = 255;
      }));
    };
    const cellBox = (patch, width, height) => {
      const [H, W] = data.grid, w = width / W, h = height / H;
      return [(patch % W) * w, Math.floor(patch / W) * h, w, h];
    };
    const mark = (context, patch, width, height, strong) => {
      const [x, y, w, h] = cellBox(patch, width, height);
      context.lineWidth = strong ? 4 : 2; context.strokeStyle = "rgba(0,0,0,.75)"; context.strokeRect(x, y, w, h);
      context.lineWidth = strong ? 2 : 1; context.strokeStyle = strong ? "#4cc9ff" : "#ffffff"; context.strokeRect(x, y, w, h);
    };
    // the states that h_p of a patch sums over
    const drawWindow = (context, patch, width, height) => {
      const [H, W] = data.grid, half = (data.window - 1) / 2, r = Math.floor(patch / W), c = patch % W, [w, h] = [width / W, height / H];
      const [top, left] = [Math.max(0, r - half), Math.max(0, c - half)], [bottom, right] = [Math.min(H, r + half + 1), Math.min(W, c + half + 1)];
      context.setLineDash([4, 3]); context.lineWidth = 2; context.strokeStyle = "#ffffff";
      context.strokeRect(left * w, top * h, (right - left) * w, (bottom - top) * h);
      context.setLineDash([]);
    };
    const around = (patch) => {
      const [H, W] = data.grid, half = (data.window - 1) / 2, { delta } = data.maps, [low, high] = extent(delta), weight = (i) => (data.weights === "uniform" ? 1 : (delta[i] - low) / (high - low || 1));
      let count = 0, heaviest = patch;
      for (let r = Math.max(0, Math.floor(patch / W) - half); r <= Math.min(H - 1, Math.floor(patch / W) + half); r++)
        for (let c = Math.max(0, (patch % W) - half); c <= Math.min(W - 1, (patch % W) + half); c++) {
          count++;
          if (weight(r * W + c) > weight(heaviest)) heaviest = r * W + c;
        }
      const where = (i) => `row ${Math.floor(i / W)}, column ${i % W}`;
      if (count === 1) return "The window holds this patch alone: h_p is h times its weight.";
      return `h_p sums the states of ${count} patches${data.weights === "uniform" ? ", all with weight 1" : ` weighted by Δ: this one has ${weight(patch).toFixed(2)}, the heaviest is ${where(heaviest)} with ${weight(heaviest).toFixed(2)}`}.`;
    };
    const drawOutline = (context, width, height) => {
      const { mask, size: [h, w] } = data, x = width / w, y = height / h;
      context.beginPath();
      for (let r = 0; r < h; r++) for (let c = 0; c < w; c++) {
        const here = mask[r * w + c];
        if (c + 1 < w && here !== mask[r * w + c + 1]) { context.moveTo((c + 1) * x, r * y); context.lineTo((c + 1) * x, (r + 1) * y); }
        if (r + 1 < h && here !== mask[(r + 1) * w + c]) { context.moveTo(c * x, (r + 1) * y); context.lineTo((c + 1) * x, (r + 1) * y); }
      }
      context.lineCap = "round";
      context.lineWidth = 3; context.strokeStyle = "rgba(0,0,0,.55)"; context.stroke();
      context.lineWidth = 1.25; context.strokeStyle = "#ffffff"; context.stroke();
    };
    const colorbar = (panel, table, lo, hi) => {
      const [context, width, height] = fit(panel.bar, 8);
      context.imageSmoothingEnabled = true;
      context.drawImage(sheet(256, 1, (pixels) => {
        for (let i = 0; i < 256; i++) { pixels.set(table.subarray(3 * i, 3 * i + 3), 4 * i); pixels[4 * i + 3] = 255; }
      }), 0, 0, width, height);
      panel.low.textContent = format(lo); panel.high.textContent = format(hi);
    };
    const paint = () => {
      if (!data || !grid.clientWidth) return;
      const now = shown(), split = SPLIT[shade()], asked = view.mode === "query" && data.matrix;
      const [H, W] = data.grid, r = Math.floor((view.patch ?? 0) / W), c = (view.patch ?? 0) % W;
      const images = { h: heat(now.units.h, HEAT), h_p: heat(now.units.h_p, HEAT), diff: heat(now.diff.map((v) => 0.5 + (0.5 * v) / now.top), split), ...(data.maps.delta ? { delta: heat(now.units.delta, HEAT) } : {}) };
      grid.classList.toggle("wb-five", Boolean(data.maps.delta));
      panels.delta.figure.hidden = !data.maps.delta;
      for (const name of there()) {
        const panel = panels[name], height = (panel.canvas.clientWidth * data.size[0]) / data.size[1];
        const [context, width] = fit(panel.canvas, height);
        context.imageSmoothingEnabled = false;
        context.drawImage(name === "input" ? sheets.color : sheets.gray, 0, 0, width, height);
        if (name !== "input") {
          context.globalAlpha = view.opacity; context.imageSmoothingEnabled = view.smooth; context.imageSmoothingQuality = "high";
          context.drawImage(images[name], 0, 0, width, height);
          context.globalAlpha = 1;
        }
        if (data.mask && view.outline) drawOutline(context, width, height);
        if (asked && (name === "h_p" || name === "delta")) drawWindow(context, view.patch, width, height);
        if (asked) mark(context, view.patch, width, height, true);
        if (hover !== null) mark(context, hover, width, height, false);
        panel.title.textContent = data.titles[name];
        panel.note.textContent = asked && !["input", "delta"].includes(name) ? "" : data.notes[name] || "";
        const where = asked && name !== "delta" ? `all directions, what the patch in row ${r}, column ${c} attends to` : `${data.place.split(", ").slice(1).join(", ")}, ${data.reduction}`;
        panel.canvas.setAttribute("aria-label", `${data.titles[name]}${name === "input" ? `: ${data.image_name}` : `, ${data.place.split(", ")[0]}, ${where}`}`);
      }
      panels.input.scale.style.visibility = "hidden";
      colorbar(panels.h, HEAT, ...now.ranges.h);
      colorbar(panels.h_p, HEAT, ...now.ranges.h_p);
      colorbar(panels.diff, split, -now.top, now.top);
      if (data.maps.delta) colorbar(panels.delta, HEAT, ...now.ranges.delta);
      query.hidden = !data.matrix;
      query.classList.toggle("wb-off", !asked);
      outline.hidden = !data.mask;
      if (asked) {
        if (document.activeElement !== row) row.value = r;
        if (document.activeElement !== column) column.value = c;
      }
      const at = hover ?? (asked ? view.patch : null);
      if (at !== null) {
        const [y, x] = [Math.floor(at / W), at % W];
        read.textContent = `row ${y}, column ${x}:  h ${format(now.raw.h[at])}   h_p ${format(now.raw.h_p[at])}   difference of the scaled maps ${format(now.diff[at])}${data.maps.delta ? `   Δ ${format(data.maps.delta[at])}` : ""}${asked && data.maps.delta ? `\n${around(view.patch)}` : ""}`;
      } else read.textContent = data.matrix ? "Click a patch in any panel, or press ▶, to see what that one patch attends to." : "Point at a patch to read its values.";
    };
    const patchAt = (event) => {
      const box = event.currentTarget.getBoundingClientRect(), [H, W] = data.grid;
      return clamp(Math.floor(((event.clientY - box.top) / box.height) * H), 0, H - 1) * W
        + clamp(Math.floor(((event.clientX - box.left) / box.width) * W), 0, W - 1);
    };
    for (const name of names) {
      const { canvas } = panels[name];
      canvas.addEventListener("pointermove", (event) => { if (!data) return; const patch = patchAt(event); if (patch !== hover) { hover = patch; paint(); } });
      canvas.addEventListener("pointerleave", () => { hover = null; paint(); });
      canvas.addEventListener("click", (event) => { if (data && data.matrix) { pick(patchAt(event)); } });
      canvas.addEventListener("keydown", (event) => {
        if (!data || !data.matrix) return;
        const [H, W] = data.grid, at = view.patch ?? Math.floor(H / 2) * W + Math.floor(W / 2);
        const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (event.key === "Escape") setMode("whole");
        else if (move) pick(clamp(Math.floor(at / W) + move[0], 0, H - 1) * W + clamp((at % W) + move[1], 0, W - 1));
        else if (!steps.key(event)) return;
        event.preventDefault(); event.stopPropagation();
      });
    }
    query.addEventListener("keydown", (event) => { if (event.target !== row && event.target !== column) steps.key(event); });
    const load = () => {
      root.hidden = !props.value;
      if (!props.value) return;
      const got = JSON.parse(props.value), [h, w] = got.size, rgb = bytes(got.image);
      for (const source of Object.keys(got.maps)) got.maps[source] = floats(got.maps[source]);
      if (got.matrix) for (const source of Object.keys(got.matrix)) {
        const m = got.matrix[source];
        got.matrix[source] = { codes: words(m.codes), low: floats(m.low), span: floats(m.span) };
      }
      got.mask = got.mask ? bytes(got.mask) : null;
      sheets = {
        color: sheet(w, h, (p) => { for (let i = 0; i < w * h; i++) { p[4 * i] = rgb[3 * i]; p[4 * i + 1] = rgb[3 * i + 1]; p[4 * i + 2] = rgb[3 * i + 2]; p[4 * i + 3] = 255; } }),
        gray: sheet(w, h, (p) => { for (let i = 0; i < w * h; i++) { const g = 0.3 * rgb[3 * i] + 0.59 * rgb[3 * i + 1] + 0.11 * rgb[3 * i + 2]; p[4 * i] = p[4 * i + 1] = p[4 * i + 2] = g; p[4 * i + 3] = 255; } }),
      };
      data = got;
      const P = got.grid[0] * got.grid[1];
      if (view.patch !== null && view.patch >= P) view.patch = null;
      if (!got.matrix && view.mode === "query") { view.mode = "whole"; mode.set("whole", false); }
      steps.setCount(P);
      row.max = got.grid[0] - 1; column.max = got.grid[1] - 1;
      if (view.mode === "query" && view.patch === null) setMode("query"); else paint();
    };
    wb.address.follow(element, place, ({ patch }) => {
      const asked = patch === undefined ? NaN : Number(patch);
      view.mode = Number.isInteger(asked) && asked >= 0 ? "query" : "whole";
      if (view.mode === "query") { view.patch = asked; steps.go(asked, false); }
      mode.set(view.mode, false);
      paint();
    });
    cursor.follow(element, (patch) => { if (data && patch < data.grid[0] * data.grid[1]) { view.patch = patch; steps.go(patch, false); paint(); } });
    load();
    watch("value", load);
    whenThemed(element, paint);
    new ResizeObserver(paint).observe(grid);
  };

  Object.assign(wb, { board });
})();
