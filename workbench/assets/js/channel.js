// One channel under the step map: its numbers, and how its values are rounded over the steps by two rules.
(() => {
  "use strict";
  const { clamp, extent, format, tone, make, fit, INSET, axes, ticks } = wb.kit;
  const SIDES = { "": { name: "OuroMamba-Quant", tint: "hp" }, static_: { name: "one static step", tint: "h" } };
  const BINS = 48;

  // step: called with -1 or 1 by the buttons beside the heading
  const channel = (id, step) => {
    const title = make("b"), aside = make("span", { class: "wb-note" });
    const turn = (move, sign, words, key) => make("button", { type: "button", class: "wb-chip", "aria-label": words, title: `key ${key}`, "aria-keyshortcuts": key, onclick: () => step(move) }, sign);
    const numbers = make("div", { class: "wb-scroll" });
    const canvas = (name) => make("canvas", { role: "img", id: `${id}-${name}` });
    const views = { values: canvas("values"), sizes: canvas("sizes"), "": canvas("codes"), static_: canvas("static-codes") };
    const captions = { "": make("b"), static_: make("b") };
    const figure = (heading, view) => make("figure", {}, make("figcaption", {}, heading), view);
    const key = (tint, words) => make("span", {}, make("i", { class: `wb-key-${tint}` }), words);
    const node = make("section", { class: "wb-channel", id: `${id}-channel`, "aria-label": "one channel" },
      make("header", {}, title, turn(-1, "‹", "previous channel", ","), turn(1, "›", "next channel", "."), aside,
        make("div", { class: "wb-legend" }, key("text", "float"), key("hp", "OuroMamba-Quant"), key("h", "one static step"))),
      make("div", { class: "wb-two" }, make("figure", {}, numbers), figure(make("b", {}, "Float and rounded values over the steps"), views.values)),
      make("div", { class: "wb-two wb-codes" }, figure(make("b", {}, "Step size over the steps"), views.sizes),
        figure(captions[""], views[""]), figure(captions.static_, views.static_)));

    const draw = (data, c, t) => {
      node.hidden = !data.rounding;
      if (!data.rounding) return;
      const { L, C, rounding: r } = data, of = (array) => Float32Array.from({ length: L }, (_, k) => array[k * C + c]);
      const x = of(r.x), isListed = (k) => r.listed[k * C + c] > 0;
      const shown = {
        "": { rounded: of(r.rounded), size: (k) => (isListed(k) ? r.outlier_step_size : r.step_size)[k],
              zero: (k) => (isListed(k) ? r.outlier_zero : r.zero)[k], grid: (k) => r.grids[isListed(k) ? "outliers" : "inliers"] },
        static_: { rounded: of(r.static_rounded), size: () => r.static_step_size[0], zero: () => r.static_zero[0], grid: () => r.grids.static },
      };
      let often = 0;
      for (let k = 0; k < L; k++) often += isListed(k);
      title.textContent = `Channel ${c} in ${r.bits} bits`;
      aside.textContent = isListed(t) ? `in ${r.outlier_bits} bits at step ${t}, as an outlier` : `an inlier at step ${t}`;
      tell(data, c, t, x, shown, often);
      drawValues(x, shown, t, c);
      drawSizes(shown, t, L, c);
      for (const side in SIDES) drawCodes(side, x, shown[side], t, c);
    };

    const tell = ({ L, C, rounding: r }, c, t, x, shown, often) => {
      const cut = (flags) => { let n = 0; for (let k = 0; k < L; k++) n += flags[k * C + c]; return `${((100 * n) / L).toFixed(1)} %`; };
      const db = (value) => (value === Infinity ? "exact" : Number.isFinite(value) ? `${value.toFixed(1).replace("-", "−")} dB` : "–");
      const [least, most] = extent(Array.from({ length: L }, (_, k) => shown[""].size(k)));
      const row = (name, ours, fixed) => make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "wb-n" }, ours), make("td", { class: "wb-n" }, fixed));
      const fixed = format(r.static_step_size[0]);
      numbers.replaceChildren(make("table", { class: "wb-table" },
        make("thead", {}, make("tr", {}, make("th", {}), ...Object.values(SIDES).map(({ name }) => make("th", { scope: "col", class: "wb-n" }, name)))),
        make("tbody", {},
          row(`Step size (scale) at step ${t}`, format(shown[""].size(t)), fixed),
          row("over all steps", `${format(least)} – ${format(most)}`, fixed),
          row("Largest |x|", format(Math.max(...x.map(Math.abs))), format(Math.max(...x.map(Math.abs)))),
          row("SQNR", db(r.sqnr[c]), db(r.static_sqnr[c])),
          row("Values clipped", cut(r.clipped), cut(r.static_clipped)),
          row("Steps rounded as an outlier", `${often} of ${L}`, "0"))),
        make("p", { class: "wb-note" }, `Steps fitted to ${r.n} calibration images, without learning. The quantizer lists outliers only where the inliers exceed the range of their static step, so its list may be shorter than the dynamic list of the map.`));
    };

    const plot = (view, height) => {
      const [context, width] = fit(view, height);
      return [context, width, width - INSET.left - INSET.right, height - INSET.top - INSET.bottom];
    };
    const line = (context, L, x, y) => {
      context.lineWidth = 1.25; context.beginPath();
      for (let k = 0; k < L; k++) context.lineTo(x(k), y(k));
      context.stroke();
    };
    const overSteps = (view, height, L, [lo, hi], ylabel) => {
      const [context, width, w, h] = plot(view, height);
      const x = (k) => INSET.left + ((k + 0.5) / L) * w, y = (v) => INSET.top + h * (1 - (v - lo) / (hi - lo || 1));
      axes(context, width, height, ticks(L, width < 420 ? 5 : 8).map((k) => [x(k), k]), [[y(lo) - 3, lo ? format(lo) : "0"], [y(hi) + 5, format(hi)]], "time step", ylabel);
      context.fillStyle = tone("grid"); context.fillRect(INSET.left, y(clamp(0, lo, hi)), w, 1);
      return [context, x, y, h];
    };
    const mark = (context, x, h) => { context.fillStyle = tone("cursor"); context.fillRect(x - 1, INSET.top, 2, h); };

    const drawValues = (values, shown, t, c) => {
      const L = values.length, [context, x, y, h] = overSteps(views.values, 190, L, extent([...values, ...shown[""].rounded, ...shown.static_.rounded]), "x");
      context.strokeStyle = tone("text");
      line(context, L, x, (k) => y(values[k]));
      for (const side of ["static_", ""]) {
        context.fillStyle = tone(SIDES[side].tint);
        for (let k = 0; k < L; k++) context.fillRect(x(k) - 1.25, y(shown[side].rounded[k]) - 1.25, 2.5, 2.5);
      }
      mark(context, x(t), h);
      views.values.setAttribute("aria-label", `channel ${c} over ${L} steps; at step ${t} ${format(values[t])}, rounded to ${format(shown[""].rounded[t])}, by the static step to ${format(shown.static_.rounded[t])}`);
    };
    const drawSizes = (shown, t, L, c) => {
      const sizes = (side) => Array.from({ length: L }, (_, k) => shown[side].size(k)), both = { "": sizes(""), static_: sizes("static_") };
      const [context, x, y, h] = overSteps(views.sizes, 150, L, [0, extent([...both[""], ...both.static_])[1]], "step size");
      for (const side in both) {
        context.strokeStyle = tone(SIDES[side].tint);
        line(context, L, x, (k) => y(both[side][k]));
      }
      mark(context, x(t), h);
      views.sizes.setAttribute("aria-label", `step size of channel ${c} over ${L} steps; at step ${t} ${format(both[""][t])} against ${format(both.static_[t])}`);
    };

    // floats upwards, what they become downwards, and the codes of this step's grid as lines
    const drawCodes = (side, values, { rounded, size, zero, grid }, t, c) => {
      const view = views[side], { name, tint } = SIDES[side], height = 150, [context, width, w, h] = plot(view, height);
      const [lo, hi] = extent([...values, ...rounded]), reach = hi - lo || 1, middle = INSET.top + h * 0.62;
      const x = (v) => INSET.left + ((v - lo) / reach) * w;
      axes(context, width, height, [[x(lo) + 12, format(lo)], [x(hi) - 4, format(hi)]], [], "", "");
      const [low, high] = grid(t), step = size(t), lines = (step / reach) * w >= 3;
      if (lines) {
        context.fillStyle = tone(tint); context.globalAlpha = 0.45;
        for (let code = low; code <= high; code++) {
          const at = (code - zero(t)) * step;
          if (at >= lo - 1e-6 && at <= hi + 1e-6) context.fillRect(x(at) - 0.5, INSET.top, 1, h);
        }
        context.globalAlpha = 1;
      }
      const bars = (list, bins, color, up) => {
        const counts = new Float32Array(bins);
        for (const v of list) counts[clamp(Math.floor(((v - lo) / reach) * bins), 0, bins - 1)]++;
        const most = Math.max(...counts);
        context.fillStyle = color;
        counts.forEach((n, k) => {
          const size = (n / most) * (up ? middle - INSET.top : INSET.top + h - middle);
          context.fillRect(INSET.left + (k / bins) * w, up ? middle - size : middle, Math.max(1, w / bins - 1), size);
        });
      };
      bars(values, BINS, tone("bar"), true);
      bars(rounded, 3 * BINS, tone(tint), false);
      context.fillStyle = tone("text"); context.fillRect(INSET.left, middle, w, 1);
      mark(context, x(values[t]), h);
      const codes = `${high - low + 1} codes, ${format(step)} apart${lines ? "" : ", too close to draw"}`;
      captions[side].replaceChildren(name[0].toUpperCase() + name.slice(1), make("span", { class: "wb-note" }, ` ${codes}`));
      view.setAttribute("aria-label", `values of channel ${c} from ${format(lo)} to ${format(hi)} above, what ${name} rounds them to below: ${new Set(rounded).size} different values; the grid at step ${t} has ${codes}`);
    };
    return { node, draw };
  };

  Object.assign(wb, { channel });
})();
