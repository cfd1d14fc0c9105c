// What every part of the page uses: numbers out of text, colors of the theme, small DOM, a stepper. No network, no framework.
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
  // ---- small charts: what surrounds the drawing, at the same inset in all of them ---------------------------------------
  const INSET = { left: 42, bottom: 26, top: 4, right: 4 };
  const axes = (context, width, height, xs, ys, xlabel, ylabel) => {
    context.fillStyle = tone("muted"); context.strokeStyle = tone("grid"); context.lineWidth = 1; context.font = "11px system-ui, sans-serif";
    context.textAlign = "center"; context.textBaseline = "top";
    for (const [x, text] of xs) context.fillText(text, clamp(x, INSET.left + 4, width - 14), height - INSET.bottom + 4);
    context.textAlign = "right"; context.fillText(xlabel, width - INSET.right, height - 12);
    context.textBaseline = "middle";
    for (const [y, text] of ys) {
      context.textAlign = "right"; context.fillText(text, INSET.left - 5, y);
    }
    context.save(); context.translate(8, (height - INSET.bottom) / 2); context.rotate(-Math.PI / 2); context.textAlign = "center"; context.fillText(ylabel, 0, 0); context.restore();
  };
  const ticks = (count, most) => {
    const raw = count / most, unit = 10 ** Math.floor(Math.log10(Math.max(raw, 1))), step = Math.max(1, [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw));
    return Array.from({ length: Math.floor((count - 1) / step) + 1 }, (_, i) => i * step);
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

  // one patch is looked at, in every tab: whoever moves to another one tells the rest
  const cursors = new Set();
  const cursor = {
    patch: null,
    follow: (element, moved) => cursors.add({ element, moved }),
    move: (patch, by) => {
      if (patch === cursor.patch) return;
      cursor.patch = patch;
      for (const one of cursors) if (!one.element.isConnected) cursors.delete(one); else if (one.element !== by) one.moved(patch);
    },
  };

  // what is running here, for a view that is saved
  window.wb = { source: document.currentScript.textContent, kit: { bytes, floats, words, clamp, format, extent, dark, tone, whenThemed, ramp, HEAT, GRAY, SPLIT, shade, make, fit, sheet, segments, INSET, axes, ticks, remembered, stepper, cursor } };
})();
