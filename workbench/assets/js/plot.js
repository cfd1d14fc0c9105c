// A Plotly chart.
(() => {
  "use strict";
  const { tone, whenThemed, remembered } = wb.kit;

  const colored = (value) => {
    if (typeof value === "string" && value.startsWith("$")) return tone(value.slice(1)) || value;
    if (Array.isArray(value)) return value.map(colored);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colored(v)]));
    return value;
  };
  // a table beside the chart may say which points are shown, and which one is marked; points go by their customdata
  const pointed = (trace, { shown, marked }) => {
    const ids = trace.customdata;
    if (!Array.isArray(ids)) return trace;
    const at = ids.flatMap((id, i) => (shown.has(id) ? [i] : []));
    const cut = (value) => {
      if (Array.isArray(value)) return value.length === ids.length ? at.map((i) => value[i]) : value;
      return value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, cut(v)])) : value;
    };
    return { ...cut(trace), selectedpoints: marked && shown.has(marked) ? at.flatMap((i, k) => (ids[i] === marked ? [k] : [])) : null };
  };
  const plot = (element, props, trigger, watch) => {
    const node = element.querySelector(".wb-plot"), empty = element.querySelector(".wb-empty");
    // Gradio has ids of its own in between
    const chart = node.closest('[id^="wb-"]')?.id;
    let bound = false;
    const saved = wb.save.chart(node, () => JSON.parse(props.value));
    element.append(saved);
    const draw = () => {
      const figure = props.value ? JSON.parse(props.value) : {};
      const filled = Boolean(figure.data);
      node.hidden = saved.hidden = !filled; empty.hidden = filled;
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
      const points = remembered.get(`points ${chart}`);
      const traces = points ? figure.data.map((trace) => pointed(trace, points)) : figure.data;
      window.Plotly.react(node, colored(traces), layout, {
        responsive: false, displaylogo: false, displayModeBar: false,
      }).then(() => {
        if (bound) return;
        bound = true;
        node.on("plotly_click", (event) => {
          const point = event.points[0];
          node.dispatchEvent(new CustomEvent("wb:point", { bubbles: true, detail: { chart, id: point.customdata } }));
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
    node.addEventListener("wb:points", safe);
    whenThemed(element, safe);
    new ResizeObserver(() => { if (bound && !node.hidden && node.clientWidth) window.Plotly.Plots.resize(node); }).observe(element);
  };

  Object.assign(wb, { plot });
})();
