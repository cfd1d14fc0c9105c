// What leaves the page: a figure as PNG, SVG or CSV, and the whole view as one HTML file that needs neither server nor network.
(() => {
  "use strict";
  const { make, dark, tone, format } = wb.kit;
  const MOST = 200;
  const VIEWS = ["plot", "board", "stepmap", "answers"];

  const file = (name, content, type) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

  // ---- canvases side by side, each under its title ---------------------------------------------------------------
  const GAP = 12, HEAD = 30;
  const laid = (panels) => {
    let x = 0;
    const places = panels.map(([title, canvas]) => { const at = x; x += canvas.width + GAP; return { title, canvas, x: at }; });
    return { places, width: x - GAP, height: HEAD + Math.max(...panels.map(([, canvas]) => canvas.height)) };
  };
  const ground = () => (dark() ? "#1d1b18" : "#ffffff");
  const png = (name, panels) => {
    const { places, width, height } = laid(panels), out = make("canvas");
    out.width = width; out.height = height;
    const context = out.getContext("2d");
    context.fillStyle = ground(); context.fillRect(0, 0, width, height);
    context.fillStyle = tone("text"); context.font = "16px system-ui, sans-serif";
    for (const { title, canvas, x } of places) { context.fillText(title, x + 2, 20); context.drawImage(canvas, x, HEAD); }
    out.toBlob((blob) => file(`${name}.png`, blob, "image/png"));
  };
  const svg = (name, panels) => {
    const { places, width, height } = laid(panels);
    const parts = places.map(({ title, canvas, x }) => `<text x="${x + 2}" y="20">${escaped(title)}</text>`
      + `<image x="${x}" y="${HEAD}" width="${canvas.width}" height="${canvas.height}" style="image-rendering:pixelated" href="${canvas.toDataURL("image/png")}"/>`);
    file(`${name}.svg`, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" `
      + `font-family="system-ui, sans-serif" font-size="16" fill="${tone("text")}"><rect width="100%" height="100%" fill="${ground()}"/>${parts.join("")}</svg>`, "image/svg+xml");
  };

  // ---- numbers ---------------------------------------------------------------------------------------------------
  // a spreadsheet computes what begins like a formula, as a person's own name of a model or a class may; numbers stay numbers
  const harmless = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) && !/^[+-][\d.,%()eto\s+-]*$/.test(value) ? `'${value}` : value);
  const csv = (name, rows, mark = "") => {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    file(`${name}.csv`, `${mark}${rows.map((row) => row.map((cell) => quoted(String(harmless(cell) ?? ""))).join(",")).join("\r\n")}\r\n`, "text/csv");
  };
  // What a chart is drawn from: a row for every point, a cell of a heat map is one. Every axis has a column of its own. Where a
  // point stands beside its place, or at a place that means nothing, meta.x or meta.y has the numbers, and meta.point names it.
  const points = (figure) => {
    const axis = (trace, key) => figure.layout?.[(trace[`${key}axis`] || key).replace(/^[xy]/, "$&axis")]?.title?.text || key;
    const told = figure.data.filter((trace) => trace.mode !== "text");
    const [across, up] = ["x", "y"].map((key) => [...new Set(told.map((trace) => axis(trace, key)))]);
    const value = told.find((trace) => trace.z)?.name || "z";
    const head = ["trace", ...across, ...up, value, "x_low", "x_high", "y_low", "y_high", "point"], rows = [];
    const placed = (trace, x, y) => [...across.map((name) => (name === axis(trace, "x") ? x : "")), ...up.map((name) => (name === axis(trace, "y") ? y : ""))];
    const at = (trace, key, k) => { const list = trace.meta?.[key] || trace[key]; return list ? list[k] ?? "" : k; };
    const ends = (value, error, k) => (!error?.array || typeof value !== "number" ? ["", ""] : [value - (error.arrayminus || error.array)[k], value + error.array[k]]);
    for (const trace of told) {
      const name = (trace.name || "").replace(/<[^>]+>/g, "");
      // a map is drawn by logarithms where the numbers themselves stand beside them
      const meant = (z, i, j) => (typeof trace.customdata?.[i]?.[j] === "number" ? trace.customdata[i][j] : z);
      if (trace.z) trace.z.forEach((row, i) => row.forEach((z, j) => rows.push([name, ...placed(trace, at(trace, "x", j), at(trace, "y", i)), meant(z, i, j), "", "", "", "", ""])));
      else for (let k = 0; k < Math.max(trace.x?.length ?? 0, trace.y?.length ?? 0); k++) {
        const x = at(trace, "x", k), y = at(trace, "y", k);
        // an entry of the legend alone has no place
        if (x !== "" || y !== "") rows.push([name, ...placed(trace, x, y), "", ...ends(x, trace.error_x, k), ...ends(y, trace.error_y, k), trace.meta?.point?.[k] ?? ""]);
      }
    }
    const fixed = 1 + across.length + up.length, used = head.map((_, k) => k < fixed || rows.some((row) => row[k] !== ""));
    return [head, ...rows].map((row) => row.filter((_, k) => used[k]));
  };

  // ---- the menu of a figure --------------------------------------------------------------------------------------
  const menu = (actions, words = "Save", label = "save this figure") => {
    const box = make("details", { class: "wb-save" });
    const items = make("div", {});
    // what can be had may change with what is shown; "toggle" would come a frame after the menu is seen
    const fill = () => items.replaceChildren(...Object.entries(typeof actions === "function" ? actions() : actions)
      .map(([name, act]) => make("button", { type: "button", onclick: () => { box.open = false; box.firstChild.focus(); act(); } }, name)));
    box.append(make("summary", { "aria-label": label, onclick: fill }, words), items);
    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") { box.open = false; box.firstChild.focus(); }
    });
    box.addEventListener("focusout", (event) => { if (!box.contains(event.relatedTarget)) box.open = false; });
    return box;
  };
  const canvases = (name, panels, rows) => menu({
    PNG: () => png(name, panels()), SVG: () => svg(name, panels()), CSV: () => csv(name, rows()),
  });
  const chart = (node, figure) => menu({
    PNG: () => window.Plotly.downloadImage(node, { format: "png", scale: 2, filename: figure().name }),
    SVG: () => window.Plotly.downloadImage(node, { format: "svg", filename: figure().name }),
    CSV: () => csv(figure().name, points(figure())),
    "Show as table": () => twin(node, figure()),
  });
  // the numbers of a chart under it, for whoever reads rather than looks; asked for again, they go
  const twin = (node, figure) => {
    const before = node.parentElement.querySelector(".wb-data");
    if (before) { before.remove(); return; }
    const [head, ...rows] = points(figure);
    const cell = (value) => (typeof value === "number" ? format(value) : String(value ?? "–").replace(/<[^>]+>/g, " "));
    const line = (tag, row) => make("tr", {}, ...row.map((value) => make(tag, tag === "th" ? { scope: "col" } : {}, cell(value))));
    node.parentElement.append(make("div", { class: "wb-scroll wb-data", tabindex: 0, role: "region", "aria-label": `numbers of the chart: ${figure.alt}` },
      make("table", { class: "wb-table" }, make("thead", {}, line("th", head)), make("tbody", {}, ...rows.slice(0, MOST).map((row) => line("td", row)))),
      ...(rows.length > MOST ? [make("p", { class: "wb-note" }, `${MOST} of ${rows.length} rows; all are in the CSV file.`)] : [])));
  };

  // ---- the view as one file --------------------------------------------------------------------------------------
  let live = [];
  for (const kind of VIEWS) {
    const mount = wb[kind];
    wb[kind] = (element, props, trigger, watch) => {
      live = live.filter((one) => one.element.isConnected);
      live.push({ kind, element, props });
      mount(element, props, trigger, watch);
    };
  }
  // spelled so that no parser of HTML takes them for tags while they stand in a script
  const OPEN = "<" + "script", CLOSE = "</" + "script>";
  const inline = (script) => script.replace(/<(\/script|!--)/gi, "<\\$1");
  const view = async () => {
    const seen = (element) => element.offsetParent !== null;
    const panel = [...document.querySelectorAll('#wb-tabs [role="tabpanel"]')].find(seen);
    const of = (element) => live.find((one) => one.element === element || element.contains(one.element));
    const blocks = [...panel.querySelectorAll(".html-container")].filter(seen).map((element) => {
      const one = of(element);
      if (!one) {
        const copy = element.cloneNode(true);
        copy.querySelectorAll("button, input, select, .wb-strip, .wb-job").forEach((node) => node.remove());
        return copy.textContent.trim() || copy.querySelector("img, svg") ? `<section>${copy.innerHTML}</section>` : "";
      }
      if (!one.props.value) return "";
      const key = one.element.querySelector("[data-key]")?.dataset.key || "";
      const shell = one.kind === "plot" ? '<div class="wb-plot" role="img" hidden></div><div class="wb-empty"></div>' : `<div class="wb-${one.kind}" data-key="${key}"></div>`;
      return `<section data-kind="${one.kind}">${shell}${OPEN} type="application/json">${one.props.value.replace(/</g, "\\u003c")}${CLOSE}</section>`;
    });
    const { css } = wb, style = getComputedStyle(document.querySelector(".gradio-container"));
    const names = new Set([...css.matchAll(/var\((--(?!wb-)[a-z-]+)/g)].map((match) => match[1]));
    const tokens = [...names].map((name) => `${name}: ${style.getPropertyValue(name).trim()};`).join(" ");
    const plotly = live.some((one) => one.kind === "plot" && seen(one.element)) ? await (await fetch(document.querySelector('script[src*="plotly.min.js"]').src)).text() : "";
    const values = wb.address.values(), title = `${values.tab} · ${values.model || ""}`;
    const facts = Object.entries(values).map(([key, value]) => `<div><dt>${escaped(key)}</dt><dd>${escaped(value)}</dd></div>`).join("");
    const mount = `wb.address.take(new URLSearchParams(${JSON.stringify(new URLSearchParams(values).toString())}));`
      + 'for (const s of document.querySelectorAll("section[data-kind]")) wb[s.dataset.kind](s, { value: s.querySelector("script").textContent }, () => {}, () => {});';
    file(`ouro-${values.tab}-${values.model || "page"}.html`, `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">`
      + `<title>${escaped(title)} · Ouro Workbench</title><style>:root { ${tokens} } body { margin: 0 auto; max-width: 1320px; padding: 20px; background: ${style.getPropertyValue("--body-background-fill")}; `
      + `color: var(--wb-text); font: 15px/1.5 system-ui, sans-serif; } section { margin: 0 0 18px; }\n${css}</style></head><body class="${dark() ? "dark" : ""}">`
      + `<header><h1 class="wb-title">${escaped(title)}</h1><dl class="wb-dl">${facts}</dl><p class="wb-note">Saved from Ouro Workbench on ${new Date().toISOString().slice(0, 10)}. `
      + `The same view: <code>${escaped(`?${new URLSearchParams(values)}`)}</code></p></header>`
      + `<main>${blocks.join("\n")}</main>${plotly ? `${OPEN}>${inline(plotly)}${CLOSE}` : ""}${OPEN}>${inline(wb.source)}${CLOSE}${OPEN}>${inline(mount)}${CLOSE}</body></html>`, "text/html");
  };

  Object.assign(wb, { save: { csv, points, canvases, chart, menu, view } });
})();
