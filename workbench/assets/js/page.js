// What belongs to the page itself.
(() => {
  "use strict";
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

  Object.assign(wb, { toggleTheme, applyTheme });
})();
