// The step map: step x channel, played through time.
(() => {
  "use strict";
  const { bytes, floats, clamp, extent, format, tone, whenThemed, HEAT, GRAY, shade, make, fit, sheet, segments, INSET, axes, ticks, remembered, stepper, cursor } = wb.kit;
  // channels of a list that are shown before it unfolds
  const FOLD = 10;
  // characters of a value in the address, see address.py; a list of channels is cut before they run out
  const ADDRESS = 180;

  const stepmap = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-stepmap"), id = root.dataset.key;
    const view = remembered.get(id) || { step: 0, channel: null, colors: "raw", kept: null, brush: null, unfolded: new Set() };
    remembered.set(id, view);
    const place = id.split("-")[1];
    let told = "";
    let data = null, hover = null, layer = null, listed = "", drawn = "", saying = null;
    // the corner that a part of the map is being chosen from, and whether the pointer does it
    let anchor = null, dragged = false;
    const map = make("canvas", { role: "img", tabindex: 0, id: `${id}-map` });
    const profile = make("canvas", { role: "img", id: `${id}-profile` });
    const trace = make("canvas", { role: "img", id: `${id}-trace` });
    const where = make("canvas", { role: "img", class: "wb-where", id: `${id}-where` });
    const colors = segments("colors of the map", { raw: "Outliers", dynamic: "Dynamic list", magnitude: "Magnitude" }, view.colors,
      (key) => { view.colors = key; layer = null; fill(); paint(); });
    const steps = stepper("step", (t) => { view.step = t; paint(); });
    const channel = make("input", { type: "number", min: 0, "aria-label": "channel", oninput: (event) => {
      if (data && event.target.value !== "") { view.channel = clamp(Math.round(Number(event.target.value)), 0, data.C - 1); paint(); } } });
    const relight = make("canvas", { role: "img", id: `${id}-relight` });
    const relightTitle = make("span", { class: "wb-note" });
    const relit = make("div", { class: "wb-relit" }, relightTitle, relight);
    const lists = make("div");
    const keep = make("button", { type: "button", class: "wb-small wb-keep", "aria-keyshortcuts": "c", title: "key c", onclick: () => compare(view.step) },
      "Compare with this step");
    const apart = make("a", { class: "wb-small wb-keep", title: "what that gives back is measured under Sensitivity", id: `${id}-apart` });
    const versus = make("section", { class: "wb-versus", "aria-label": "two steps compared", id: `${id}-versus` });
    const said = make("p", { class: "wb-unseen", role: "status" });
    const drawer = wb.channel(id, (move) => shift(move));
    const read = make("p", { class: "wb-read", "aria-live": "polite" });
    const counts = make("div", { class: "wb-counts" });
    const legend = make("div", { class: "wb-legend" });
    const mapTitle = make("b", {}, "|x| at every time step and channel"), profileTitle = make("b"), traceTitle = make("b");
    const wherePatch = make("span", { class: "wb-note" });
    root.replaceChildren(
      make("div", { class: "wb-tools" }, colors.group, legend, wb.save.canvases("ouro-outliers",
        () => [[data.title, map], [profileTitle.textContent, profile], [traceTitle.textContent, trace]],
        () => [["step", "channel", "magnitude", "outlier", "dynamic list", "static list"],
          ...Array.from(data.magnitude, (v, i) => [Math.floor(i / data.C), i % data.C, v, data.raw[i], data.dynamic[i], data.fixed[i % data.C]])])),
      make("div", { class: "wb-mapgrid" },
        make("figure", { class: "wb-main" }, make("figcaption", {}, mapTitle), map, relit),
        make("figure", { class: "wb-side" }, make("figcaption", {}, make("b", {}, "What this step reads"), wherePatch), where, counts)),
      steps.bar, read, versus, said,
      make("div", { class: "wb-two" },
        make("figure", {}, make("figcaption", {}, profileTitle), profile),
        make("figure", {}, make("figcaption", {}, traceTitle, make("label", { class: "wb-num" }, "channel ", channel)), trace)),
      drawer.node);
    counts.append(lists, keep, apart);

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
    const here = () => ({ t: view.step, c: view.channel ?? data.loudest });
    // a part of the map: steps t[0] to t[1], channels c[0] to c[1]
    const between = (a, b) => ({ t: [Math.min(a.t, b.t), Math.max(a.t, b.t)], c: [Math.min(a.c, b.c), Math.max(a.c, b.c)] });
    const brushed = () => {
      const { t, c } = view.brush, found = [];
      for (let k = c[0]; k <= c[1]; k++) for (let s = t[0]; s <= t[1]; s++) if (marked(s * data.C + k)) { found.push(k); break; }
      return found;
    };
    const paint = () => {
      if (!data || !map.clientWidth) return;
      if (anchor && !dragged) view.brush = between(anchor, here());
      const { L, C } = data, t = view.step;
      layer = layer || render();
      const [context, width, height] = fit(map, map.clientWidth < 560 ? 240 : 350);
      const [w, h] = [width - INSET.left - INSET.right, height - INSET.top - INSET.bottom];
      context.imageSmoothingEnabled = false;
      context.drawImage(layer, INSET.left, INSET.top, w, h);
      axes(context, width, height, ticks(L, width < 500 ? 5 : 10).map((k) => [INSET.left + ((k + 0.5) / L) * w, k]), ticks(C, 7).map((k) => [INSET.top + ((k + 0.5) / C) * h, k]), "time step", "channel");
      const x = INSET.left + ((t + 0.5) / L) * w;
      context.fillStyle = tone("cursor"); context.fillRect(x - 1, INSET.top, 2, h);
      if (view.kept !== null) {
        const a = INSET.left + ((view.kept + 0.5) / L) * w;
        context.strokeStyle = tone("cursor"); context.lineWidth = 1.5; context.setLineDash([5, 4]); context.beginPath();
        context.moveTo(a, INSET.top); context.lineTo(a, INSET.top + h); context.stroke(); context.setLineDash([]);
      }
      if (view.channel !== null) { context.globalAlpha = 0.8; context.fillRect(INSET.left, INSET.top + ((view.channel + 0.5) / C) * h - 0.5, w, 1); context.globalAlpha = 1; }
      if (view.brush) {
        const { t, c } = view.brush, left = INSET.left + (t[0] / L) * w, top = INSET.top + (c[0] / C) * h;
        const box = [left, top, ((t[1] + 1 - t[0]) / L) * w, ((c[1] + 1 - c[0]) / C) * h];
        context.fillStyle = tone("cursor"); context.globalAlpha = 0.16; context.fillRect(...box); context.globalAlpha = 1;
        context.strokeStyle = tone("cursor"); context.lineWidth = 1.5; context.strokeRect(...box);
      }
      if (hover) {
        context.strokeStyle = tone("text"); context.lineWidth = 1;
        context.strokeRect(INSET.left + (hover.t / L) * w - 2, INSET.top + (hover.c / C) * h - 2, w / L + 4, h / C + 4);
      }
      drawProfile(); drawTrace(); drawWhere();
      const at = hover || (view.channel === null ? null : { t, c: view.channel });
      const thing = view.colors === "dynamic" ? "in the dynamic list" : "an outlier";
      const word = ["an inlier", "in the static list only", `${thing}, missed by the static list`, `${thing} and in the static list`];
      read.textContent = at ? `step ${at.t}, channel ${at.c}: |x| ${format(data.magnitude[at.t * C + at.c])}, ${word[kind(at.t, at.c)]}`
        : "Click the map to put the cursor on a step and a channel; Space plays, arrow keys move, comma and period change the channel, c keeps a step to compare with. Drag, or press b and move, to choose a part of it.";
      if (document.activeElement !== channel) channel.value = view.channel ?? data.loudest;
      const tally = [0, 0, 0, 0];
      for (let c = 0; c < C; c++) tally[kind(t, c)]++;
      map.setAttribute("aria-label", `${data.title}: ${L} time steps by ${C} channels; at step ${t} ${tally[2] + tally[3]} outliers, ${tally[2]} of them missed by the static list`);
      drawLists(); drawRelight();
      const c = view.channel ?? data.loudest, now = [data.serial, c, t, map.clientWidth, shade()].join();
      // a pointer over the map changes nothing in there
      if (now !== drawn) { drawn = now; drawer.draw(data, c, t); }
      tell();
    };
    // into the address, and to whoever else looks at the patch that this step reads
    const tell = () => {
      const part = view.brush && [...view.brush.t, ...view.brush.c].join("-");
      const now = [view.step, view.channel, view.kept, part].join();
      // a part that is being chosen is none yet
      if (now === told || anchor) return;
      told = now;
      wb.address.put(place, ["step", "channel", "beside", "part"], [view.step, view.channel, view.kept, part]);
      const patch = data.cells ? data.cells[view.step] : -1;
      if (patch >= 0) cursor.move(patch, element);
    };
    const pick = (c) => { view.channel = c; paint(); };
    const shift = (move) => pick(clamp((view.channel ?? data.loudest) + move, 0, data.C - 1));
    const compare = (t) => { view.kept = t; paint(); };
    const brush = (part) => { view.brush = part; anchor = null; paint(); };
    const group = (key, words, channels, tint) => {
      const open = view.unfolded.has(key), folds = channels.length > FOLD + 1;
      const shown = folds && !open ? channels.slice(0, FOLD) : channels;
      const chips = shown.map((c) => make("button", { type: "button", class: "wb-chip", "data-chip": c, "aria-label": `channel ${c}`, onclick: () => pick(c) }, String(c)));
      if (folds) chips.push(make("button", {
        type: "button", class: "wb-chip wb-fold", "data-chip": key, "aria-expanded": open,
        onclick: () => { open ? view.unfolded.delete(key) : view.unfolded.add(key); paint(); },
      }, open ? "fewer" : `and ${channels.length - FOLD} more`));
      return make("div", { class: "wb-group", role: "group", "aria-label": `${channels.length} ${words}` },
        make("div", {}, make("i", { style: `background:${tint}` }), make("strong", {}, String(channels.length)), ` ${words}`),
        make("div", { class: "wb-chips" }, ...chips));
    };
    // outliers of a step, or of the part that was chosen, lead to the what-if that keeps these channels at more bits, the largest
    // ones where there are many
    const drawApart = (found, steps) => {
      const size = new Map(found.map((c) => [c, 0])), kept = [];
      for (let t = steps[0]; t <= steps[1]; t++) for (const c of found) size.set(c, Math.max(size.get(c), data.magnitude[t * data.C + c]));
      const sorted = [...found].sort((a, b) => size.get(b) - size.get(a));
      for (const c of sorted) if (`${data.path}:${[...kept, c].join()}`.length <= ADDRESS) kept.push(c);
      apart.hidden = !data.path || !kept.length;
      apart.href = `?${new URLSearchParams({ tab: "sensitivity", channels: `${data.path}:${kept.join()}` })}`;
      apart.textContent = kept.length < found.length ? `What if the ${kept.length} largest of them had 8 bits?`
        : kept.length > 1 ? `What if these ${kept.length} outliers had 8 bits?` : "What if this outlier had 8 bits?";
    };
    const range = ([low, high], one, many) => (low === high ? `${one} ${low}` : `${many} ${low} to ${high}`);
    const drawPart = () => {
      const found = brushed(), { t, c } = view.brush, where = `${range(t, "step", "steps")}, ${range(c, "channel", "channels")}`;
      const thing = view.colors === "dynamic" ? "in the dynamic list there" : "outliers there";
      clearTimeout(saying);
      saying = setTimeout(() => { said.textContent = `Chosen: ${where}; ${found.length} ${thing}.`; }, 400);
      drawApart(found, t);
      return [make("b", {}, `In ${where}`), group("part", thing, found, tone("cursor")),
        make("button", { type: "button", class: "wb-small wb-keep", "aria-keyshortcuts": "Escape", title: "key Esc", "data-chip": "whole", onclick: () => brush(null) }, "Choose nothing")];
    };
    const refill = (box, ...parts) => {
      const chip = box.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
      box.replaceChildren(...parts);
      // whoever stood on a channel stands there still, or on the map where it is in no list any more
      if (chip) (box.querySelector(`[data-chip="${chip}"]`) || map).focus({ preventScroll: true });
    };
    const drawLists = () => {
      const t = view.step, now = [data.serial, t, view.kept, JSON.stringify(view.brush), view.colors, shade(), ...view.unfolded].join();
      if (now !== listed) {
        listed = now;
        const found = [[], [], [], []], tints = palette();
        for (let c = 0; c < data.C; c++) found[kind(t, c)].push(c);
        drawVersus();
        const part = view.brush ? drawPart() : [];
        if (!view.brush) drawApart([...found[3], ...found[2]], [t, t]);
        refill(lists, make("b", {}, `At step ${t}`), ...[3, 2, 1].map((k) => group(`kind ${k}`, names()[k], found[k], tints[k])), ...part);
      }
      for (const chip of root.querySelectorAll(".wb-chip")) {
        if (Number(chip.dataset.chip) === view.channel) chip.setAttribute("aria-current", "true");
        else chip.removeAttribute("aria-current");
      }
    };
    const drawVersus = () => {
      const a = view.kept, t = view.step, thing = view.colors === "dynamic" ? "in the dynamic list" : "outliers";
      versus.hidden = a === null;
      clearTimeout(saying);
      if (a === null) { said.textContent = ""; versus.replaceChildren(); return; }
      const only = [], both = [], now = [];
      for (let c = 0; c < data.C; c++) {
        const [then, here] = [marked(a * data.C + c), marked(t * data.C + c)];
        if (then) (here ? both : only).push(c); else if (here) now.push(c);
      }
      const end = make("button", { type: "button", class: "wb-small", "aria-keyshortcuts": "Escape", title: "key Esc", "data-chip": "end", onclick: () => compare(null) }, "End comparison");
      const all = only.length + both.length + now.length;
      const head = make("header", {}, make("b", {}, `Step ${a} beside step ${t}`),
        make("span", { class: "wb-note" }, t === a ? "move to another step" : all ? `${both.length} of ${all} channels the same` : `nothing is ${view.colors === "dynamic" ? "listed" : "an outlier"} at either`), end);
      refill(versus, head, make("div", { class: "wb-versuslists" },
        group("only", `${thing} at step ${a} only`, only, tone("h")),
        group("both", `${thing} at both`, both, tone("map-both")),
        group("now", `${thing} at step ${t} only`, now, tone("cursor"))));
      const words = (list) => (list.length ? ` (${list.length > 1 ? "channels" : "channel"} ${list.join(", ")})` : "");
      // said once the cursor rests
      saying = setTimeout(() => {
        said.textContent = `Step ${a} compared with step ${t}: ${only.length} ${thing} at ${a} and not at ${t}${words(only)}; `
          + `${now.length} at ${t} and not at ${a}${words(now)}; ${both.length} at both${words(both)}.`;
      }, 400);
    };
    const drawRelight = () => {
      relit.hidden = !data.overlap;
      if (!data.overlap) return;
      const { L, overlap } = data, [context, width, height] = fit(relight, 66), known = overlap.filter(Number.isFinite);
      const [w, h] = [width - INSET.left - INSET.right, height - INSET.top - INSET.bottom], [lo, hi] = extent(known);
      const x = (t) => INSET.left + ((t + 0.5) / L) * w, y = (v) => INSET.top + h * (1 - v);
      axes(context, width, height, ticks(L, width < 500 ? 5 : 10).map((k) => [x(k), k]), [[y(0), "0"], [y(1) + 5, "1"]], "time step", "");
      context.fillStyle = tone("grid"); context.fillRect(INSET.left, y(0), w, 1); context.fillRect(INSET.left, y(1), w, 1);
      context.strokeStyle = tone("hp"); context.lineWidth = 1.25; context.beginPath();
      let pen = false;
      for (let t = 0; t < L; t++) {
        if (!Number.isFinite(overlap[t])) { pen = false; continue; }
        pen ? context.lineTo(x(t), y(overlap[t])) : context.moveTo(x(t), y(overlap[t]));
        pen = true;
      }
      context.stroke();
      context.fillStyle = tone("cursor"); context.fillRect(x(view.step) - 1, INSET.top, 2, h);
      const share = (v) => `${Math.round(100 * v)} %`, mean = known.reduce((sum, v) => sum + v, 0) / known.length;
      const words = known.length ? `overlap of the outliers of a step ${share(mean)} on average, from ${share(lo)} to ${share(hi)}` : "no outlier in either picture";
      relightTitle.textContent = `Picture at ${Math.round(100 * data.light)} % brightness: ${words}`;
      relight.setAttribute("aria-label", `${relightTitle.textContent}; at step ${view.step} ${Number.isFinite(overlap[view.step]) ? share(overlap[view.step]) : "no outlier"}`);
    };
    const drawProfile = () => {
      const { C } = data, t = view.step, [context, width, height] = fit(profile, 150);
      const [w, h] = [width - INSET.left - INSET.right, height - INSET.top - INSET.bottom], tints = palette();
      let top = 0;
      for (let c = 0; c < C; c++) top = Math.max(top, data.magnitude[t * C + c]);
      if (data.theta) top = Math.max(top, data.theta[t]);
      const y = (v) => INSET.top + h * (1 - v / (top || 1));
      axes(context, width, height, ticks(C, 8).map((k) => [INSET.left + ((k + 0.5) / C) * w, k]), [[y(0), "0"], [y(top) + 5, format(top)]], "channel", "|x|");
      context.fillStyle = tone("grid"); context.fillRect(INSET.left, y(0), w, 1);
      for (let c = 0; c < C; c++) {
        const v = data.magnitude[t * C + c], k = kind(t, c);
        context.fillStyle = k ? tints[k] : tone("bar");
        context.fillRect(INSET.left + (c / C) * w, y(v), Math.max(1, w / C - (w / C > 3 ? 1 : 0)), y(0) - y(v));
      }
      if (data.theta) {
        context.strokeStyle = tone("text"); context.setLineDash([4, 3]); context.beginPath();
        context.moveTo(INSET.left, y(data.theta[t])); context.lineTo(INSET.left + w, y(data.theta[t])); context.stroke(); context.setLineDash([]);
      }
      profileTitle.textContent = `All channels at step ${t}${data.theta ? " (dashed: threshold)" : ""}`;
      profile.setAttribute("aria-label", `magnitude of every channel at step ${t}; largest ${format(top)}`);
    };
    const drawTrace = () => {
      const { L, C } = data, c = view.channel ?? data.loudest, [context, width, height] = fit(trace, 150);
      const [w, h] = [width - INSET.left - INSET.right, height - INSET.top - INSET.bottom], tints = palette();
      let top = 0;
      for (let t = 0; t < L; t++) top = Math.max(top, data.magnitude[t * C + c]);
      const y = (v) => INSET.top + h * (1 - v / (top || 1)), x = (t) => INSET.left + ((t + 0.5) / L) * w;
      axes(context, width, height, ticks(L, 8).map((k) => [x(k), k]), [[y(0), "0"], [y(top) + 5, format(top)]], "time step", "|x|");
      context.fillStyle = tone("grid"); context.fillRect(INSET.left, y(0), w, 1);
      for (let t = 0; t < L; t++) if (marked(t * C + c)) {
        context.fillStyle = tints[kind(t, c)]; context.globalAlpha = 0.28; context.fillRect(INSET.left + (t / L) * w, INSET.top, w / L + 0.5, h);
      }
      context.globalAlpha = 1; context.strokeStyle = tone("text"); context.lineWidth = 1.25; context.beginPath();
      for (let t = 0; t < L; t++) context.lineTo(x(t), y(data.magnitude[t * C + c]));
      context.stroke();
      context.fillStyle = tone("cursor"); context.fillRect(x(view.step) - 1, INSET.top, 2, h);
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
    const cellAt = (event, nearest = false) => {
      const box = map.getBoundingClientRect(), x = event.clientX - box.left - INSET.left, y = event.clientY - box.top - INSET.top;
      const w = box.width - INSET.left - INSET.right, h = box.height - INSET.top - INSET.bottom;
      if (!nearest && (x < 0 || y < 0 || x >= w || y >= h)) return null;
      return { t: clamp(Math.floor((x / w) * data.L), 0, data.L - 1), c: clamp(Math.floor((y / h) * data.C), 0, data.C - 1) };
    };
    map.addEventListener("pointerdown", (event) => {
      // a finger scrolls the page
      const cell = data && event.button === 0 && event.pointerType !== "touch" && cellAt(event);
      if (!cell) return;
      anchor = cell; dragged = true;
      view.brush = null;
      map.setPointerCapture(event.pointerId);
    });
    map.addEventListener("pointermove", (event) => {
      if (!data) return;
      hover = cellAt(event);
      const cell = dragged && cellAt(event, true);
      if (cell && (view.brush || cell.t !== anchor.t || cell.c !== anchor.c)) view.brush = between(anchor, cell);
      paint();
    });
    const drop = () => { if (dragged) { dragged = false; anchor = null; paint(); } };
    map.addEventListener("pointerup", drop);
    map.addEventListener("pointercancel", drop);
    map.addEventListener("pointerleave", () => { hover = null; paint(); });
    map.addEventListener("click", (event) => {
      const cell = data && cellAt(event);
      // the end of a drag is a click as well
      if (cell && !view.brush) { view.channel = cell.c; steps.go(cell.t); }
    });
    root.addEventListener("keydown", (event) => {
      if (!data || event.target === channel || event.target.closest(".wb-seg")) return;
      // a button is pressed by Space, and nothing else may be meant with the keys of the browser
      if ((event.key === " " && event.target.tagName === "BUTTON") || event.ctrlKey || event.metaKey || event.altKey) return;
      const move = { ",": -1, ".": 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (move && event.target.type !== "number" && event.target.tagName !== "SELECT") {
        event.preventDefault(); shift(move);
      } else if (event.key === "c" && event.target.type !== "number") compare(view.step);
      else if (event.key === "b" && event.target.type !== "number") {
        // once to begin at the cursor, once more to end there
        anchor = anchor ? null : here();
        paint();
      } else if (event.key === "Escape" && view.brush) brush(null);
      else if (event.key === "Escape" && view.kept !== null) {
        // the button that ends it goes away with it
        if (versus.contains(event.target)) map.focus({ preventScroll: true });
        compare(null);
      } else steps.key(event);
    });
    const load = () => {
      root.hidden = !props.value;
      if (!props.value) return;
      const got = JSON.parse(props.value);
      got.magnitude = floats(got.magnitude); got.dynamic = bytes(got.dynamic); got.raw = bytes(got.raw); got.fixed = bytes(got.fixed);
      if (got.theta) got.theta = floats(got.theta);
      if (got.overlap) got.overlap = floats(got.overlap);
      if (got.rounding) {
        const { bytes: small, floats: wide } = got.rounding;
        for (const [name, text] of Object.entries(small)) got.rounding[name] = bytes(text);
        for (const [name, text] of Object.entries(wide)) got.rounding[name] = floats(text);
      }
      got.serial = (data?.serial ?? 0) + 1;
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
      // what was looked at in another tab before this one was opened
      if (told === "" && view.step === 0 && cursor.patch !== null && got.cells) view.step = Math.max(0, got.cells.indexOf(cursor.patch));
      clip();
      channel.max = got.C - 1;
      steps.setCount(got.L);
      steps.go(view.step, false);
      fill();
      paint();
    };
    // what is asked of a map that has fewer steps or channels
    const clip = () => {
      if (view.channel !== null && view.channel >= data.C) view.channel = null;
      if (view.kept !== null && view.kept >= data.L) view.kept = null;
      if (view.brush && (view.brush.t[1] >= data.L || view.brush.c[1] >= data.C)) view.brush = null;
      view.step = Math.min(view.step, data.L - 1);
    };
    const fill = () => {
      const tints = palette();
      legend.replaceChildren(...(view.colors === "magnitude" ? [make("span", {}, "dark: small, bright: large, on a logarithmic scale")]
        : [3, 2, 1].map((k) => make("span", {}, make("i", { style: `background:${tints[k]}` }), names()[k]))));
    };
    wb.address.follow(element, place, (asked) => {
      const whole = (name) => (/^\d+$/.test(asked[name] ?? "") ? Number(asked[name]) : null);
      view.step = whole("step") ?? 0; view.channel = whole("channel"); view.kept = whole("beside");
      const part = (asked.part ?? "").match(/^(\d{1,6})-(\d{1,6})-(\d{1,6})-(\d{1,6})$/)?.slice(1).map(Number);
      view.brush = part ? between({ t: part[0], c: part[2] }, { t: part[1], c: part[3] }) : null;
      anchor = null;
      if (data) { clip(); steps.go(view.step, false); paint(); }
    });
    cursor.follow(element, (patch) => {
      const step = data && data.cells ? data.cells.indexOf(patch) : -1;
      if (step >= 0) { view.step = step; steps.go(step, false); paint(); }
    });
    load();
    watch("value", load);
    whenThemed(element, () => { layer = null; if (data) fill(); paint(); });
    new ResizeObserver(paint).observe(map);
  };

  Object.assign(wb, { stepmap });
})();
