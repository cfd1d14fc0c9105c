// A Plotly chart.
(() => {
  "use strict";
  const { tone, whenThemed } = wb.kit;

  const colored = (value) => {
    if (typeof value === "string" && value.startsWith("$")) return tone(value.slice(1)) || value;
    if (Array.isArray(value)) return value.map(colored);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colored(v)]));
    return value;
  };
  const plot = (element, props, trigger, watch) => {
    const node = element.querySelector(".wb-plot"), empty = element.querySelector(".wb-empty");
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
      window.Plotly.react(node, colored(figure.data), layout, {
        responsive: false, displaylogo: false, displayModeBar: false,
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

  Object.assign(wb, { plot });
})();
