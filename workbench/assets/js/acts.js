// Text with buttons, and boxes to tick.
(() => {
  "use strict";
  const acts = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-acts");
    const load = () => {
      const { act, name } = root.contains(document.activeElement) ? document.activeElement.dataset : {};
      const { scrollTop: top = 0, scrollLeft: left = 0 } = root.querySelector(".wb-scroll") || {};
      root.innerHTML = props.value || "";
      // whoever works with the keyboard, or has scrolled, stays where they were
      root.querySelector(".wb-scroll")?.scrollTo({ top, left });
      if (name === undefined) return;
      const same = [...root.querySelectorAll("[data-act]")].filter((control) => control.dataset.name === name);
      (same.find((control) => control.dataset.act === act) || same[0])?.focus();
    };
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-act]");
      if (button) trigger("select", { act: button.dataset.act, name: button.dataset.name });
    });
    root.addEventListener("change", (event) => {
      const { act, name } = event.target.dataset;
      if (act) trigger("select", { act, name, on: event.target.checked });
    });
    const { tab, key } = root.dataset;
    let open = null;
    const unfold = () => {
      const part = open && root.querySelector(`details[data-name="${CSS.escape(open)}"]`);
      if (!part || part.open) return;
      part.open = true;
      part.scrollIntoView({ block: "nearest" });
    };
    if (tab) {
      // `toggle` does not bubble
      root.addEventListener("toggle", ({ target }) => {
        if (!target.isConnected || target.open === (target.dataset.name === open)) return;
        open = target.open ? target.dataset.name : null;
        wb.address.put(tab, [key], [open]);
      }, true);
      wb.address.follow(element, tab, (values) => {
        const before = open;
        open = values[key] ?? null;
        if (before && before !== open) root.querySelector(`details[data-name="${CSS.escape(before)}"]`)?.removeAttribute("open");
        unfold();
      });
    }
    load();
    unfold();
    watch("value", () => { load(); unfold(); });
  };

  Object.assign(wb, { acts });
})();
