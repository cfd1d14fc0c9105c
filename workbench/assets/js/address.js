// What is seen stands in the address: written here whenever it changes, read here and by the server when it is changed.
(() => {
  "use strict";
  const { make } = wb.kit;
  const MODEL = ["model", "weights"];
  // another one of these is another view, to which "back" returns; the rest only changes the one that is there
  const VIEWS = new Set(["tab", "model", "data", "image", "layer", "tensor", "run", "set", "entry", "verdict", "kernel", "device", "topic", "row"]);
  const own = () => new URLSearchParams(location.search);
  const ours = (query) => [...query].filter(([key]) => !key.startsWith("__"));

  let page = {}, tabs = {}, tab = "start", timer = null, readers = [], quiet = 0, settled = false;
  const take = (query) => {
    const given = Object.fromEntries(ours(query));
    tab = given.tab || "start"; delete given.tab;
    for (const key of MODEL) { if (key in given) page[key] = given[key]; delete given[key]; }
    tabs[tab] = given;
  };
  take(own());

  const written = () => {
    const query = new URLSearchParams();
    for (const [key, value] of own()) if (key.startsWith("__")) query.set(key, value);
    if (tab !== "start" || own().has("tab")) query.set("tab", tab);
    for (const [key, value] of Object.entries({ ...page, ...tabs[tab] })) if (value !== null && value !== undefined && value !== "") query.set(key, value);
    return query;
  };
  const write = () => {
    // before the page is as its address says, it has nothing to say itself
    if (!settled) return;
    const now = written(), before = own();
    if (String(now) === String(before)) return;
    const other = [...now.keys(), ...before.keys()].some((key) => VIEWS.has(key) && now.get(key) !== before.get(key));
    // what follows an address that was asked for, or the first look of the page, is no step of a person
    history[other && Date.now() > quiet ? "pushState" : "replaceState"](null, "", `?${now}`);
  };
  // several values change together; together they are one step
  const soon = () => { clearTimeout(timer); timer = setTimeout(write, 250); };
  // a run is known by the name of its folder; where anything else lies on the machine is nobody's business
  const said = (value) => {
    const run = typeof value === "string" && value.match(/\/runs\/([0-9a-f]{16})\//);
    return run ? run[1] : typeof value === "string" && /^(folder:)?\//.test(value) ? null : value;
  };
  const put = (of, names, values) => {
    const target = of ? (tabs[of] = tabs[of] || {}) : page;
    names.forEach((name, k) => {
      if (name === "model" && target.model && target.model !== values[k]) delete target.weights;
      target[name] = said(values[k]);
    });
    if (!of || of === tab) soon();
  };
  // a view that reads values of its own: `read` is called with those of its tab now, and whenever the address was changed
  const follow = (element, of, read) => {
    readers.push({ element, of, read });
    read(tabs[of] || {});
  };

  const here = () => {
    const chosen = document.querySelector('#wb-tabs > .tab-wrapper [role="tab"][aria-selected="true"]');
    return chosen ? chosen.textContent.trim().toLowerCase() : tab;
  };
  const start = (element, props, trigger) => {
    quiet = Date.now() + 4000;
    const asked = () => {
      quiet = Date.now() + 4000;
      take(own());
      readers = readers.filter(({ element: where }) => where.isConnected);
      for (const { of, read } of readers) if (of === tab) read(tabs[of]);
      trigger("select", { query: Object.fromEntries(ours(own())) });
    };
    window.addEventListener("popstate", asked);
    // a way from one view to another is a link; a new window opens it as any other
    document.addEventListener("click", (event) => {
      const way = event.target.closest?.('a[href^="?"]');
      if (!way || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      write();
      const query = written(), given = new URLSearchParams(way.getAttribute("href")), to = given.get("tab");
      // what a link does not say stays as it is
      if (to !== tab) for (const key of Object.keys(tabs[tab] || {})) query.delete(key);
      for (const [key, value] of [...Object.entries(to === tab ? {} : tabs[to] || {}), ...given]) if (value === "" || value === null || value === undefined) query.delete(key); else query.set(key, value);
      if (given.has("model") && given.get("model") !== page.model) query.delete("weights");
      history.pushState(null, "", `?${query}`);
      asked();
    });
    // the tabs may come later than this
    new MutationObserver(() => { if (settled && here() !== tab) { tab = here(); soon(); } })
      .observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
    // whoever touches the page takes a step
    for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => { quiet = 0; }, true);
  };

  const settle = (names, values) => {
    names.forEach(([of, name], k) => put(of, [name], [values[k]]));
    settled = true;
    // a tab that was opened meanwhile, unless the address named one
    if (!own().has("tab")) tab = here();
    soon();
  };

  const values = () => Object.fromEntries([["tab", tab], ...ours(written()).filter(([key]) => key !== "tab")]);

  const copied = async (text, words) => {
    const said = document.getElementById("wb-copied") || document.body.appendChild(make("div", { id: "wb-copied", role: "status" }));
    try { await navigator.clipboard.writeText(text); said.textContent = words; }
    catch { said.textContent = text; }
    said.classList.add("wb-on");
    setTimeout(() => said.classList.remove("wb-on"), 4000);
  };

  // what leaves the page as text; a view is computed elsewhere only from values that are known there
  const filled = (template) => {
    const known = values();
    // of the tabs that look at an image, only sets that are called the same everywhere; of what calibrates, only kinds
    const elsewhere = "calib" in known ? ["real", "noise", "synthetic"].includes(known.calib) : wb.recipes.data.includes(known.data);
    if (known.method) known.method = known.method.split(",")[0];
    const kept = template.replace(/\[([^[\]]*{(\w+)}[^[\]]*)\]/g, (_, part, key) => (key in known ? part : ""));
    const missing = [...kept.matchAll(/{(\w+)}/g)].some((match) => !(match[1] in known));
    return missing || !elsewhere ? null : kept.replace(/{(\w+)}/g, (_, key) => known[key]);
  };
  const ways = () => {
    const command = filled(wb.recipes.commands[tab] || "{none}"), python = filled(wb.recipes.python[tab] || "{none}");
    return {
      "Copy link": () => { write(); copied(location.href, "The link to this view is copied."); },
      ...(command ? { "Copy as command": () => copied(command, `Copied: ${command}`) } : {}),
      ...(python ? { "Copy as Python": () => copied(python, "The lines for a notebook are copied.") } : {}),
      "Save as HTML": () => wb.save.view(),
    };
  };

  Object.assign(wb, { address: { start, settle, take, values, put, follow, ways } });
})();
