// The error of the state through time, a line per scan; the cursor is the patch that every tab looks at.
(() => {
  "use strict";
  const { floats, clamp, extent, tone, whenThemed, make, fit, INSET, axes, ticks, stepper, cursor } = wb.kit;
  const COLORS = ["h", "hp", "good", "float"], HEIGHT = 210;

  const drift = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-drift");
    let data = null, step = 0;
    const canvas = make("canvas", { role: "img", tabindex: 0 });
    const keys = make("p", { class: "wb-note wb-drift-keys" }), read = make("p", { class: "wb-read", "aria-live": "polite" });
    const steps = stepper("step", (t) => go(t));
    const jump = make("button", { type: "button", class: "wb-small", onclick: () => go(data.lines[0].worst) }, "To the worst step");
    root.replaceChildren(keys, canvas, make("div", { class: "wb-query" }, steps.bar, jump), read);

    const scale = (width) => {
      const count = data.lines[0].error.length, top = 1.08 * Math.max(1e-9, ...data.lines.map(({ error }) => extent(error)[1]));
      const [w, h] = [width - INSET.left - INSET.right, HEIGHT - INSET.top - INSET.bottom];
      return { count, top, w, h, x: (t) => INSET.left + (t / Math.max(1, count - 1)) * w, y: (e) => INSET.top + h * (1 - e / top) };
    };
    const places = () => data.lines.map(({ cells }) => (cells[0] === undefined ? -1 : cells.indexOf(data.lines[0].cells[step])));
    const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 2 : 1)} %`;
    const paint = () => {
      if (!data || !root.clientWidth) return;
      const [context, width] = fit(canvas, HEIGHT), { count, top, h, x, y } = scale(width);
      axes(context, width, HEIGHT, ticks(count, 8).map((t) => [x(t), String(t)]), [0, top / 2.16, top / 1.08].map((e) => [y(e), (100 * e).toPrecision(2)]), "time step", "error, %");
      const at = places();
      data.lines.forEach(({ error }, k) => {
        context.strokeStyle = tone(COLORS[k % COLORS.length]); context.lineWidth = 1.6; context.beginPath();
        error.forEach((e, t) => (t ? context.lineTo(x(t), y(e)) : context.moveTo(x(t), y(e))));
        context.stroke();
      });
      context.fillStyle = tone("cursor"); context.fillRect(x(step) - 1, INSET.top, 2, h);
      data.lines.forEach(({ error }, k) => {
        if (at[k] < 0) return;
        context.beginPath(); context.arc(x(at[k]), y(error[at[k]]), 4.5, 0, 7);
        context.fillStyle = tone(COLORS[k % COLORS.length]); context.fill();
        context.lineWidth = 2; context.strokeStyle = tone("cursor"); context.stroke();
      });
      const cell = data.lines[0].cells[step], W = data.grid[1];
      const where = cell < 0 ? "the class token" : `the patch in row ${Math.floor(cell / W)}, column ${cell % W}`;
      read.textContent = `Step ${step} reads ${where}: ${data.lines.map(({ name, error }, k) => (at[k] < 0 ? `${name} –` : `${name} ${percent(error[at[k]])}${k ? ` at its step ${at[k]}` : ""}`)).join(", ")}.`;
      canvas.setAttribute("aria-label", `${data.title}: error of the state over ${count} time steps, ${data.lines.map(({ name, mean, worst, error }) => `${name} ${percent(mean)} on the whole, most at step ${worst} with ${percent(error[worst])}`).join("; ")}`);
    };
    const go = (t, tell = true) => {
      if (!data) return;
      step = clamp(Math.round(t), 0, data.lines[0].error.length - 1);
      steps.go(step, false);
      const cell = data.lines[0].cells[step];
      if (tell && cell >= 0) cursor.move(cell, element);
      paint();
    };
    canvas.addEventListener("click", (event) => {
      const { count, w } = scale(canvas.clientWidth);
      go(((event.offsetX - INSET.left) / w) * (count - 1));
    });
    root.addEventListener("keydown", (event) => { if (steps.key(event)) event.stopPropagation(); });
    const seek = (patch) => { const t = patch === null || !data ? -1 : data.lines[0].cells.indexOf(patch); if (t >= 0) go(t, false); };
    const load = () => {
      root.hidden = !props.value;
      if (!props.value) return;
      data = JSON.parse(props.value);
      for (const line of data.lines) line.error = floats(line.error);
      keys.replaceChildren(...data.lines.map(({ name, mean }, k) => make("span", {}, make("i", { style: `background: var(--wb-${COLORS[k % COLORS.length]})` }), ` ${name}, ${percent(mean)} on the whole `)));
      steps.setCount(data.lines[0].error.length);
      go(step, false);
      seek(cursor.patch);
    };
    cursor.follow(element, seek);
    load();
    watch("value", load);
    whenThemed(element, paint);
    new ResizeObserver(paint).observe(root);
  };

  Object.assign(wb, { drift });
})();
