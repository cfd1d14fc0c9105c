// A table of rows: filters, order, groups, pins; and the chart whose points the rows are.
(() => {
  "use strict";
  const { make, remembered } = wb.kit;
  const LETTERS = "AB";
  // numbers that lead to what made them, and its name
  const LINKED = new Set(["score", "agreement", "file"]);
  // rows that are drawn before somebody asks for more: each has a dozen cells, and every tab pays for them
  const FIRST = 50;

  const grid = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-grid"), id = root.dataset.key, chart = root.dataset.chart;
    const view = remembered.get(id) || { text: "", filters: {}, group: "", sort: null, down: false, pins: [], marked: null, at: null, model: null, whole: false };
    remembered.set(id, view);
    let data = null, place = {};

    const words = (row, key) => row.cells[place[key]][0];
    const value = (row, key) => row.cells[place[key]][1];
    const search = make("input", { type: "search", class: "wb-grid-text", placeholder: "Filter by words", "aria-label": "filter rows by words",
      oninput: () => { view.text = search.value; draw(); } });
    const selects = make("span", { class: "wb-grid-filters" });
    const group = make("select", { "aria-label": "group rows by", onchange: () => { view.group = group.value; draw(); } });
    const clear = make("button", { type: "button", class: "wb-small", onclick: () => { reset(); draw(); search.focus(); } }, "Clear filters");
    const save = make("button", { type: "button", class: "wb-small", onclick: () => exportCsv() }, "Save CSV");
    const count = make("span", { class: "wb-note wb-grid-count", "aria-live": "polite" });
    const head = make("thead"), body = make("tbody");
    const scroll = make("div", { class: "wb-grid-scroll", tabindex: 0, role: "region", "aria-label": "results" },
      make("table", { class: "wb-table" }, head, body));
    const chosen = make("p", { class: "wb-note wb-grid-chosen", role: "status" });
    root.replaceChildren(chosen, make("div", { class: "wb-grid-tools" }, search, selects, clear, save), count, scroll);

    const reset = () => { view.text = ""; view.filters = { model: data.model }; };
    const passes = (row) => {
      const asked = view.text.toLowerCase().split(/\s+/).filter(Boolean);
      if (!Object.entries(view.filters).every(([key, wanted]) => !wanted || words(row, key) === wanted)) return false;
      if (!asked.length) return true;
      const said = row.cells.map((cell) => cell[0]).join(" ").toLowerCase();
      return asked.every((word) => said.includes(word));
    };
    const compare = (one, other) => {
      const [a, b] = [value(one, view.sort), value(other, view.sort)];
      // what is not known comes last either way
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return view.down ? -order : order;
    };
    const sorted = (rows) => (view.sort ? [...rows].sort(compare) : rows);

    const filters = () => {
      const titles = Object.fromEntries(data.columns.map((column) => [column.key, column.title]));
      selects.replaceChildren(...data.filters.map((key) => {
        // offered is what the other filters leave; what is chosen stays offered
        const rest = { ...view.filters, [key]: "" };
        const open = data.rows.filter((row) => Object.entries(rest).every(([other, wanted]) => !wanted || words(row, other) === wanted));
        const offered = [...new Set(open.map((row) => words(row, key)))];
        if (view.filters[key] && !offered.includes(view.filters[key])) offered.push(view.filters[key]);
        offered.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
        const all = key === "model" ? "All models" : `${titles[key]}: all`;
        const select = make("select", { "aria-label": `filter by ${titles[key].toLowerCase()}`, "data-key": key,
          onchange: () => { view.filters[key] = select.value; draw(); selects.querySelector(`[data-key=${key}]`).focus(); } },
        make("option", { value: "" }, all), ...offered.map((name) => make("option", { value: name }, name)));
        select.value = view.filters[key] || "";
        select.classList.toggle("wb-on", Boolean(select.value));
        return select;
      }), group);
      group.replaceChildren(make("option", { value: "" }, "Not grouped"), ...data.groups.map((key) => make("option", { value: key }, `Group by ${titles[key].toLowerCase()}`)));
      group.value = view.group;
    };

    const way = (row, words, said) => (row.way ? make("a", { class: "wb-way", href: row.way, tabindex: -1, title: `what made it: ${said}` }, words) : words);
    const line = (row, columns) => {
      const pin = view.pins.indexOf(row.id), letter = LETTERS[pin] || "";
      const said = `${words(row, "method")} ${words(row, "bits")}, ${words(row, "calib")}, score ${words(row, "score")}`;
      const box = make("input", { type: "checkbox", "aria-label": `pin ${said}`, tabindex: -1, "data-id": row.id, onchange: () => pinned(row.id, box.checked) });
      box.checked = pin >= 0;
      return make("tr", {
        class: [row.own && "wb-own", pin >= 0 && "wb-pinned", row.id === view.marked && "wb-marked"].filter(Boolean).join(" "), "data-id": row.id,
        "aria-current": row.id === view.marked ? "true" : null,
        onclick: (event) => { if (event.target !== box && !event.target.closest("a")) mark(row.id === view.marked ? null : row.id); },
      }, make("td", { class: "wb-grid-pin" }, make("label", {}, box, make("b", {}, letter))),
      ...columns.map(([column, k]) => make("td", { class: column.number ? "wb-n" : null }, LINKED.has(column.key) && row.cells[k][0] !== "–" ? way(row, row.cells[k][0], said) : row.cells[k][0])));
    };
    const draw = () => {
      if (!data) return;
      filters();
      if (document.activeElement !== search) search.value = view.text;
      const shown = sorted(data.rows.filter(passes)), kept = new Set(view.pins);
      const top = view.pins.map((pin) => data.rows.find((row) => row.id === pin)).filter(Boolean);
      const rest = shown.filter((row) => !kept.has(row.id)), all = [...top, ...rest];
      const columns = data.columns.map((column, k) => [column, k]).filter(([column, k]) => {
        const told = new Set(all.map((row) => row.cells[k][0]));
        return all.length === 0 || (told.size > 1 ? true : !column.quiet && !told.has("–"));
      });
      const width = columns.length + 1;
      const sorter = (column) => {
        const on = view.sort === column.key, arrow = on ? (view.down ? " ↓" : " ↑") : "";
        return make("th", { scope: "col", class: column.number ? "wb-n" : null, "aria-sort": on ? (view.down ? "descending" : "ascending") : "none" },
          make("button", { type: "button", title: column.hint || null, "data-sort": column.key, onclick: () => {
            // numbers begin with the largest; a third press takes the order away
            const first = column.number;
            if (!on) { view.sort = column.key; view.down = first; } else if (view.down === first) view.down = !first; else view.sort = null;
            draw();
            head.querySelector(`[data-sort=${column.key}]`)?.focus();
          } }, column.title, make("span", { "aria-hidden": "true" }, arrow)));
      };
      choose();
      head.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "wb-grid-pin", title: "tick two rows to compare them" }, "Pin"),
        ...columns.map(([column]) => sorter(column))));
      const lines = top.map((row) => line(row, columns));
      const groups = new Map();
      for (const row of rest) { const name = view.group ? words(row, view.group) : ""; groups.set(name, [...(groups.get(name) || []), row]); }
      const ordered = [...groups.values()].flat(), upTo = (id) => 1 + ordered.findIndex((row) => row.id === id);
      const drawn = view.whole ? ordered.length : Math.max(FIRST, upTo(view.marked), upTo(view.at));
      let left = drawn;
      for (const [name, rows] of groups) {
        if (left <= 0) break;
        if (view.group) lines.push(make("tr", { class: "wb-grid-group" }, make("th", { scope: "rowgroup", colspan: width },
          make("span", {}, `${name} `), make("span", { class: "wb-note" }, `${rows.length} ${rows.length === 1 ? "row" : "rows"}`))));
        lines.push(...rows.slice(0, left).map((row) => line(row, columns)));
        left -= rows.length;
      }
      if (drawn < ordered.length) lines.push(make("tr", { class: "wb-grid-rest" }, make("td", { colspan: width }, make("button", { type: "button", class: "wb-small",
        onclick: () => { view.whole = true; draw(); body.querySelector(`input[data-id="${CSS.escape(ordered[drawn].id)}"]`)?.focus(); } },
      `Show the other ${ordered.length - drawn} rows`))));
      if (!all.length) lines.push(make("tr", {}, make("td", { colspan: width, class: "wb-note" }, nothing())));
      body.replaceChildren(...lines);
      const first = body.querySelector(`input[data-id="${CSS.escape(view.at || "")}"]`) || body.querySelector("input");
      if (first) first.tabIndex = 0;
      const of = data.rows.filter((row) => !view.filters.model || words(row, "model") === view.filters.model).length;
      count.textContent = `${shown.length} of ${of} rows${top.length ? `, ${top.length} pinned` : ""}${top.length > 2 ? ", the first two are compared" : ""}`;
      clear.hidden = !view.text && Object.entries(view.filters).every(([key, wanted]) => (wanted || "") === (key === "model" ? data.model : ""));
      tell(all.map((row) => row.id));
    };
    const nothing = () => {
      const known = data.rows.some((row) => words(row, "model") === data.model);
      return known || view.filters.model !== data.model ? "No row passes these filters."
        : `Nothing is stored for ${data.model} yet. Run a method, or choose “All models”.`;
    };
    const tell = (shown) => {
      remembered.set(`points ${chart}`, { shown: new Set(shown), marked: view.marked });
      document.getElementById(chart)?.querySelector(".wb-plot")?.dispatchEvent(new CustomEvent("wb:points"));
    };
    // what a point of the chart stands for, with the way to what made it
    const choose = () => {
      const row = data.rows.find((one) => one.id === view.marked);
      chosen.hidden = !row;
      if (!row) return;
      const said = `${words(row, "method")} ${words(row, "bits")}, ${words(row, "calib")}`;
      const link = way(row, `open ${row.own ? "its run" : words(row, "file")}`, said);
      if (link.removeAttribute) link.removeAttribute("tabindex");
      chosen.replaceChildren(make("b", {}, `${words(row, "score")} `), `is of ${said}. `, ...(row.way ? [link] : []));
    };
    const mark = (row, seen = false, tell = true) => {
      view.marked = row;
      const { own, run } = data.rows.find((one) => one.id === row) || {};
      // rows of this session are known by their run, which stays when the session has ended
      if (tell) wb.address.put("quantize", ["row", "run"], [own ? null : row, own ? run : null]);
      // a point that was clicked is shown, whatever the filters say of its row
      draw();
      if (seen) body.querySelector(`tr[data-id="${CSS.escape(row)}"]`)?.scrollIntoView({ block: "nearest" });
    };
    const pinned = (row, on) => {
      view.pins = on ? [...view.pins, row] : view.pins.filter((pin) => pin !== row);
      view.at = row;
      draw();
      body.querySelector(`input[data-id="${CSS.escape(row)}"]`)?.focus({ preventScroll: true });
      trigger("select", { pins: view.pins });
    };
    body.addEventListener("keydown", (event) => {
      const boxes = [...body.querySelectorAll("input")], at = boxes.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: boxes.length - 1 }[event.key];
      if (at < 0) return;
      if (event.key === "Enter") { event.preventDefault(); mark(boxes[at].dataset.id); body.querySelector(`input[data-id="${CSS.escape(view.marked)}"]`).focus(); return; }
      if (to === undefined) return;
      event.preventDefault();
      const next = boxes[Math.min(boxes.length - 1, Math.max(0, to))];
      boxes[at].tabIndex = -1; next.tabIndex = 0; view.at = next.dataset.id;
      next.focus();
    });
    document.addEventListener("wb:point", (event) => {
      if (element.isConnected && event.detail.chart === chart && data?.rows.some((row) => row.id === event.detail.id)) mark(event.detail.id, true);
    });
    const exportCsv = () => {
      const rows = sorted(data.rows.filter(passes)).map((row) => row.cells.map((cell) => cell[0]));
      // a spreadsheet takes the text for UTF-8 by its mark
      wb.save.csv(`${data.model || "ouro"}-quantized`, [data.columns.map((column) => column.title), ...rows], "\ufeff");
    };
    const load = () => {
      if (!props.value) return;
      data = JSON.parse(props.value);
      for (const row of data.rows) row.cells = row.cells.map((cell) => (Array.isArray(cell) ? cell : [cell, cell]));
      place = Object.fromEntries(data.columns.map((column, k) => [column.key, k]));
      // another model is looked at: its rows are what is asked for now
      if (view.model !== data.model) { view.model = data.model; view.marked = null; view.whole = false; reset(); }
      const there = new Set(data.rows.map((row) => row.id)), before = view.pins.length;
      view.pins = view.pins.filter((pin) => there.has(pin));
      draw();
      if (view.pins.length !== before) trigger("select", { pins: view.pins });
      find();
    };
    // the row that an address asks for, as soon as it is there
    let asked = null;
    const find = () => {
      const row = asked && data?.rows.find((one) => one.id === asked.row || (asked.run && one.run === asked.run));
      if (!row) return;
      asked = null;
      mark(row.id, true, false);
    };
    wb.address.follow(element, "quantize", ({ row, run }) => { asked = row || run ? { row, run } : null; if (data && !asked && view.marked) mark(null, false, false); find(); });
    load();
    watch("value", load);
  };

  Object.assign(wb, { grid });
})();
