// The button of the top bar that opens the list of jobs.
(() => {
  "use strict";
  const { make } = wb.kit;
  const SETTLED = 300;

  const jobs = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-jobs");
    const count = make("span", { class: "wb-jobcount", "aria-hidden": "true" });
    const opener = make("button", { type: "button", class: "wb-jobopener", "aria-expanded": "false", "aria-controls": "wb-jobs-panel" }, "Jobs", count);
    const panel = make("div", { id: "wb-jobs-panel", class: "wb-jobpanel", role: "region", "aria-label": "Jobs" });
    panel.hidden = true;
    root.append(opener, panel);

    const show = (open) => {
      if (open === !panel.hidden) return;
      panel.hidden = !open;
      opener.setAttribute("aria-expanded", open);
      if (open) trigger("select", { act: "look", name: "0" });
    };
    opener.addEventListener("click", () => show(panel.hidden));
    document.addEventListener("pointerdown", (event) => { if (!root.contains(event.target)) show(false); });
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || panel.hidden) return;
      show(false);
      opener.focus();
    });
    panel.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-act]");
      if (!button) return;
      trigger("select", { act: button.dataset.act, name: button.dataset.name });
      if (button.dataset.act === "open") { show(false); opener.focus(); }
    });

    let atWork = 0;
    const load = () => {
      const fresh = make("div");
      fresh.innerHTML = props.value || "";
      atWork = Number(fresh.firstElementChild?.dataset.atWork || 0);
      count.textContent = atWork || "";
      opener.setAttribute("aria-label", atWork ? `Jobs, ${atWork} at work` : "Jobs");
      const held = panel.contains(document.activeElement) ? document.activeElement.dataset : null;
      const rows = [...fresh.querySelectorAll("li[data-key]")], list = panel.querySelector("ul");
      if (!list || !rows.length) panel.replaceChildren(...fresh.children);
      else {
        // what did not change stays as it is, so that nothing flickers
        const known = new Map([...list.children].map((row) => [row.dataset.key, row]));
        list.replaceChildren(...rows.map((row) => {
          const old = known.get(row.dataset.key);
          return old?.outerHTML === row.outerHTML ? old : row;
        }));
      }
      if (held && !panel.contains(document.activeElement)) {
        const same = [...panel.querySelectorAll("button[data-act]")].filter((button) => button.dataset.name === held.name);
        (same.find((button) => button.dataset.act === held.act) || same[0] || opener).focus();
      }
    };
    load();
    watch("value", load);

    // a job that a tab has just started shows in that tab's bar; from then on the server is asked by the clock
    let timer = null;
    const started = () => {
      timer = null;
      const working = document.querySelector("#wb-tabs .wb-job:is([data-state=running], [data-state=waiting])");
      if (working && !atWork) trigger("select", { act: "look", name: "0" });
    };
    // the tabs are mounted after the top bar, so it is the whole page that is looked at
    const moved = (records) => {
      if (!atWork && records.some((record) => !root.contains(record.target))) timer ??= setTimeout(started, SETTLED);
    };
    new MutationObserver(moved).observe(document.body, { childList: true, subtree: true });
  };

  Object.assign(wb, { jobs });
})();
