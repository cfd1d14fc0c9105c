// Client side of the workbench: a Plotly view, the attention board and the step map. No network, no framework.
(() => {
  "use strict";
  if (window.wb) return;

  // ---- data ----------------------------------------------------------------------------------------------------
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const words = (text) => new Uint16Array(bytes(text).buffer);
  const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x));
  const format = (x) => {
    if (!Number.isFinite(x)) return "–";
    const size = Math.abs(x);
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) return x.toExponential(1).replace("-", "−");
    return x.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3).replace("-", "−");
  };
  const extent = (values) => {
    let lo = Infinity, hi = -Infinity;
    for (const v of values) if (Number.isFinite(v)) { if (v < lo) lo = v; if (v > hi) hi = v; }
    return lo <= hi ? [lo, hi] : [0, 0];
  };

  // ---- theme ---------------------------------------------------------------------------------------------------
  const dark = () => document.body.classList.contains("dark");
  const tone = (name) => getComputedStyle(document.body).getPropertyValue(`--wb-${name}`).trim();
  const themed = new Set();
  const whenThemed = (element, redraw) => themed.add({ element, redraw });
  const watchTheme = () => new MutationObserver(() => {
    for (const entry of themed) entry.element.isConnected ? entry.redraw() : themed.delete(entry);
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  document.body ? watchTheme() : document.addEventListener("DOMContentLoaded", watchTheme);

  const ramp = (anchors) => {
    const table = new Uint8Array(256 * 3), last = anchors.length - 1;
    for (let i = 0; i < 256; i++) {
      const at = (i / 255) * last, k = Math.min(last - 1, Math.floor(at)), f = at - k;
      for (let c = 0; c < 3; c++) {
        const [a, b] = [anchors[k], anchors[k + 1]].map((hex) => parseInt(hex.slice(1 + 2 * c, 3 + 2 * c), 16));
        table[3 * i + c] = a + (b - a) * f;
      }
    }
    return table;
  };
  const HEAT = ramp(["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"]);
  const GRAY = { light: ramp(["#ffffff", "#45403a"]), dark: ramp(["#1d1b18", "#c9c3b8"]) };
  const SPLIT = {
    light: ramp(["#1c5a9e", "#6fa3d4", "#f4f2ee", "#dfa947", "#9a6200"]),
    dark: ramp(["#7db9f5", "#3a74ad", "#1d1b18", "#b37a17", "#ffd06b"]),
  };
  const shade = () => (dark() ? "dark" : "light");

  // ---- small DOM -----------------------------------------------------------------------------------------------
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const fit = (canvas, height) => {
    const scale = window.devicePixelRatio || 1, width = Math.max(1, canvas.clientWidth);
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    return [context, width, height];
  };
  const sheet = (width, height, paint) => {
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    paint(pixels.data);
    context.putImageData(pixels, 0, 0);
    return canvas;
  };
  const download = (canvas, name) => canvas.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const segments = (label, names, chosen, choose) => {
    const group = make("div", { class: "wb-seg", role: "radiogroup", "aria-label": label });
    const buttons = Object.entries(names).map(([key, text]) => make("button", {
      type: "button", role: "radio", "data-key": key, onclick: () => set(key, true),
    }, text));
    const set = (key, tell) => {
      for (const button of buttons) {
        const on = button.dataset.key === key;
        button.setAttribute("aria-checked", on);
        button.tabIndex = on ? 0 : -1;
      }
      if (tell) choose(key);
    };
    group.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault(); event.stopPropagation();
      const at = buttons.findIndex((button) => button.getAttribute("aria-checked") === "true");
      const next = buttons[(at + move + buttons.length) % buttons.length];
      next.focus(); next.click();
    });
    group.append(...buttons);
    set(chosen, false);
    return { group, set };
  };
  const remembered = new Map();

  // range + play + speed: native keys on the range, Space plays from anywhere in the component
  const stepper = (noun, onstep, pace = 10) => {
    let timer = null, count = 1, at = 0;
    const play = make("button", { type: "button", class: "wb-play", "aria-label": `play through the ${noun}s`, onclick: () => toggle() });
    const range = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": noun });
    const number = make("input", { type: "number", min: 0, max: 0, value: 0, "aria-label": `${noun} number` });
    const total = make("span", { class: "wb-of" });
    const speed = make("select", { "aria-label": "speed" }, ...[4, 10, 25, 60].map((n) => make("option", { value: n }, `${n}/s`)));
    speed.value = String(pace);
    const show = () => {
      range.value = at; if (document.activeElement !== number) number.value = at;
      play.textContent = timer ? "❚❚" : "▶";
      play.setAttribute("aria-pressed", Boolean(timer));
      total.textContent = `of ${count - 1}`;
    };
    const go = (t, tell = true) => {
      at = clamp(Math.round(t), 0, count - 1);
      range.setAttribute("aria-valuetext", `${noun} ${at} of ${count - 1}`);
      show();
      if (tell) onstep(at);
    };
    const stop = () => { clearInterval(timer); timer = null; show(); };
    const toggle = () => {
      if (timer) return stop();
      timer = setInterval(() => {
        if (!bar.isConnected || bar.offsetParent === null) return stop();
        go((at + 1) % count);
      }, 1000 / Number(speed.value));
      show();
    };
    range.addEventListener("input", () => go(Number(range.value)));
    number.addEventListener("input", () => { if (number.value !== "") go(Number(number.value)); });
    speed.addEventListener("change", () => { if (timer) { stop(); toggle(); } });
    const bar = make("div", { class: "wb-stepper" }, play, range, make("label", { class: "wb-num" }, `${noun} `, number, total), speed);
    const key = (event) => {
      if (event.target === number || event.target.tagName === "SELECT") return false;
      const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, "-": -1, "+": 1 }[event.key];
      if (event.key === " ") toggle();
      else if (event.key === "Home") go(0);
      else if (event.key === "End") go(count - 1);
      else if (jump) go(at + jump);
      else return false;
      event.preventDefault();
      return true;
    };
    show();
    return { bar, go, key, stop, setCount: (n) => { count = Math.max(1, n); range.max = number.max = count - 1; go(Math.min(at, count - 1), false); } };
  };

  // ---- Plotly view -----------------------------------------------------------------------------------------------
  const colored = (value) => {
    if (typeof value === "string" && value.startsWith("$")) return tone(value.slice(1)) || value;
    if (Array.isArray(value)) return value.map(colored);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colored(v)]));
    return value;
  };
  const plot = (element, props, trigger, watch) => {
    const node = element.querySelector(".wb-plot"), empty = element.querySelector(".wb-empty");
    let bound = false;
    const draw = () => {
      const figure = props.value ? JSON.parse(props.value) : {};
      const filled = Boolean(figure.data);
      node.hidden = !filled; empty.hidden = filled;
      if (!filled) { empty.textContent = figure.empty || ""; return; }
      node.setAttribute("aria-label", figure.alt || "plot");
      const axis = { gridcolor: tone("grid"), zerolinecolor: tone("grid"), linecolor: tone("grid"), tickcolor: tone("grid") };
      const given = colored(figure.layout || {});
      const layout = {
        ...given, autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: "system-ui, sans-serif", size: 12, ...given.font, color: tone("text") },
        hoverlabel: { font: { family: "system-ui, sans-serif", size: 12 }, ...given.hoverlabel },
        margin: { l: 48, r: 16, t: given.title ? 44 : 28, b: 40, ...given.margin },
      };
      delete layout.template; delete layout.width;
      for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
      layout.xaxis = { ...axis, ...layout.xaxis }; layout.yaxis = { ...axis, ...layout.yaxis };
      if (figure.height) { node.style.height = `${figure.height}px`; layout.height = figure.height; }
      window.Plotly.react(node, colored(figure.data), layout, {
        responsive: false, displaylogo: false, displayModeBar: "hover",
        modeBarButtons: [["toImage"]],
        toImageButtonOptions: { format: "png", scale: 2, filename: figure.name || "ouro" },
      }).then(() => {
        if (bound) return;
        bound = true;
        node.on("plotly_click", (event) => {
          const point = event.points[0];
          trigger("select", { x: point.x, y: point.y, curve: point.curveNumber, data: point.customdata ?? null });
        });
      });
    };
    // Plotly's own script may come later than the page; words need none
    const safe = () => {
      if (window.Plotly || !props.value || !JSON.parse(props.value).data) draw();
      else setTimeout(safe, 100);
    };
    safe();
    watch("value", safe);
    whenThemed(element, safe);
    new ResizeObserver(() => { if (bound && !node.hidden && node.clientWidth) window.Plotly.Plots.resize(node); }).observe(element);
  };

  // ---- attention board ---------------------------------------------------------------------------------------------
  const board = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-board"), id = root.dataset.key;
    const view = remembered.get(id) || { mode: "whole", patch: null, opacity: 0.8, shared: false, smooth: false, outline: true };
    remembered.set(id, view);
    let data = null, sheets = {}, hover = null;

    const names = ["input", "h", "h_p", "diff"], panels = {};
    for (const name of names) {
      const canvas = make("canvas", { role: "img", id: `${id}-${name === "h_p" ? "hp" : name}`, tabindex: name === "input" ? 0 : -1 });
      const note = make("span", { class: "wb-note" }), title = make("b"), low = make("span"), high = make("span");
      const bar = make("canvas", { class: "wb-scale", "aria-hidden": "true" });
      const scale = make("div", { class: "wb-range" }, low, bar, high);
      panels[name] = { canvas, note, title, low, high, bar, scale };
      panels[name].figure = make("figure", {}, make("figcaption", {}, title, note), canvas, scale);
    }
    const mode = segments("what the maps show", { whole: "Whole image", query: "One query patch" }, view.mode, (key) => setMode(key));
    const steps = stepper("patch", (t) => { view.patch = t; if (view.mode !== "query") setMode("query"); else paint(); });
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
    const save = make("button", { type: "button", class: "wb-small", onclick: () => exportPng() }, "Save PNG");
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
      paint();
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
      const images = { h: heat(now.units.h, HEAT), h_p: heat(now.units.h_p, HEAT), diff: heat(now.diff.map((v) => 0.5 + (0.5 * v) / now.top), split) };
      for (const name of names) {
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
        if (asked) mark(context, view.patch, width, height, true);
        if (hover !== null) mark(context, hover, width, height, false);
        panel.title.textContent = data.titles[name];
        panel.note.textContent = asked && name !== "input" ? "" : data.notes[name] || "";
        const where = asked ? `all directions, what the patch in row ${r}, column ${c} attends to` : `${data.place.split(", ").slice(1).join(", ")}, ${data.reduction}`;
        panel.canvas.setAttribute("aria-label", `${data.titles[name]}${name === "input" ? `: ${data.image_name}` : `, ${data.place.split(", ")[0]}, ${where}`}`);
      }
      panels.input.scale.style.visibility = "hidden";
      colorbar(panels.h, HEAT, ...now.ranges.h);
      colorbar(panels.h_p, HEAT, ...now.ranges.h_p);
      colorbar(panels.diff, split, -now.top, now.top);
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
        read.textContent = `row ${y}, column ${x}:  h ${format(now.raw.h[at])}   h_p ${format(now.raw.h_p[at])}   difference of the scaled maps ${format(now.diff[at])}`;
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
    const exportPng = () => {
      const sources = names.map((name) => panels[name].canvas), gap = 12, head = 30;
      const canvas = make("canvas");
      canvas.width = sources.reduce((sum, s) => sum + s.width + gap, -gap); canvas.height = sources[0].height + head;
      const context = canvas.getContext("2d");
      context.fillStyle = dark() ? "#1d1b18" : "#ffffff"; context.fillRect(0, 0, canvas.width, canvas.height);
      context.fillStyle = tone("text"); context.font = "16px system-ui, sans-serif";
      let x = 0;
      sources.forEach((s, i) => {
        context.fillText(`${data.titles[names[i]]}  ${data.notes[names[i]] || ""}`, x + 2, 20);
        context.drawImage(s, x, head); x += s.width + gap;
      });
      download(canvas, "ouro-attention.png");
    };
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
    load();
    watch("value", load);
    whenThemed(element, paint);
    new ResizeObserver(paint).observe(grid);
  };

  // ---- step map: step x channel, played through time ------------------------------------------------------------------
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

  // ---- answers of a model to one image ---------------------------------------------------------------------------------
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
    const save = (canvases) => make("button", { type: "button", class: "wb-small", onclick: () => {
      const gap = 12, width = canvases.reduce((sum, c) => sum + c.width + gap, -gap), out = document.createElement("canvas");
      out.width = width; out.height = Math.max(...canvases.map((c) => c.height));
      let x = 0;
      for (const canvas of canvases) { out.getContext("2d").drawImage(canvas, x, 0); x += canvas.width + gap; }
      download(out, "answers.png");
    } }, "Save PNG");

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
      return [make("div", { class: "wb-tools" }, mode.group, make("label", { class: "wb-slide" }, "Opacity", opacity), save(Object.values(canvases))),
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
      return [make("div", { class: "wb-tools" }, make("label", { class: "wb-slide" }, "Boxes from score", least, said), save(Object.values(canvases))),
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

  // ---- strip of pictures to choose from ------------------------------------------------------------------------------
  const strip = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-strip");
    const load = () => {
      const { items, chosen, label, words: said } = JSON.parse(props.value);
      root.setAttribute("aria-label", label || "images");
      if (!items.length) { root.replaceChildren(make("p", { class: "wb-empty" }, said || "")); return; }
      const buttons = items.map(({ src, name }, i) => make("button", {
        type: "button", role: "radio", "aria-checked": i === chosen, "aria-label": name, title: name, tabindex: i === Math.max(0, chosen) ? 0 : -1,
        onclick: () => { choose(i); trigger("select", { index: i }); },
      }, make("img", { src, alt: "" }), make("span", {}, name)));
      const choose = (i) => buttons.forEach((button, k) => { button.setAttribute("aria-checked", k === i); button.tabIndex = k === i ? 0 : -1; });
      root.replaceChildren(...buttons);
      root.onkeydown = (event) => {
        const at = buttons.indexOf(document.activeElement), move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (at < 0 || !move) return;
        event.preventDefault();
        const next = buttons[(at + move + buttons.length) % buttons.length];
        next.focus(); next.click();
      };
    };
    load();
    watch("value", load);
  };

  // ---- text with buttons ---------------------------------------------------------------------------------------------
  const acts = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-acts");
    const load = () => {
      const held = root.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
      root.innerHTML = props.value || "";
      // whoever works with the keyboard stays where they were
      if (held !== undefined) [...root.querySelectorAll("button[data-act]")].find((button) => button.dataset.name === held)?.focus();
    };
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-act]");
      if (button) trigger("select", { act: button.dataset.act, name: button.dataset.name });
    });
    load();
    watch("value", load);
  };

  // ---- page --------------------------------------------------------------------------------------------------------
  const toggleTheme = () => {
    const now = document.body.classList.toggle("dark");
    try { localStorage.setItem("wb.theme", now ? "dark" : "light"); } catch { /* storage may be blocked */ }
  };
  const applyTheme = () => {
    if (new URLSearchParams(location.search).has("__theme")) return;
    let kept = null;
    try { kept = localStorage.getItem("wb.theme"); } catch { /* storage may be blocked */ }
    if (kept) document.body.classList.toggle("dark", kept === "dark");
  };

  window.wb = { plot, board, stepmap, answers, strip, acts, toggleTheme, applyTheme };
})();
