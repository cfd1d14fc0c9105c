// What belongs to the page itself.
(() => {
  "use strict";
  const { make } = wb.kit;

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

  // what can be done with any view
  const tools = (element) => {
    const share = wb.save.menu(() => wb.address.ways(), "Share", "share this view");
    share.id = "wb-share";
    const theme = make("button", { type: "button", class: "wb-small", id: "wb-theme", "aria-label": "light or dark", title: "light or dark", onclick: toggleTheme }, "◐");
    const help = make("button", { type: "button", class: "wb-small", id: "wb-help", "aria-label": "tour of the page", title: "tour of the page", onclick: () => wb.tour.start() }, "?");
    element.querySelector(".wb-topacts").append(share, theme, help);
    followTab();
  };

  // the row of tabs is wider than a phone: whichever is open, by a link too, is moved into it
  const followTab = () => {
    const row = document.querySelector("#wb-tabs .tab-wrapper");
    if (!row) { setTimeout(followTab, 100); return; }
    const show = () => {
      const tab = row.querySelector("[role=tab][aria-selected=true]");
      if (tab) row.scrollLeft += tab.getBoundingClientRect().left - row.getBoundingClientRect().left - (row.clientWidth - tab.clientWidth) / 2;
    };
    show();
    new MutationObserver(show).observe(row, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
  };

  // into view, again while what stands above it is still drawn; whoever moves the page meanwhile is left alone
  const reveal = (id) => {
    const until = Date.now() + 3000, kinds = ["wheel", "touchmove", "pointerdown", "keydown"];
    let left = false;
    for (const kind of kinds) document.addEventListener(kind, () => { left = true; }, { once: true, passive: true, capture: true });
    const turn = () => {
      if (left || Date.now() > until) return;
      document.getElementById(id)?.scrollIntoView({ block: "center" });
      setTimeout(turn, 200);
    };
    turn();
  };

  Object.assign(wb, { tools, toggleTheme, applyTheme, reveal });
})();
