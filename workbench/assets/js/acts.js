// Text with buttons.
(() => {
  "use strict";
  const acts = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-acts");
    const load = () => {
      const held = root.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
      root.innerHTML = props.value || "";
      // whoever works with the keyboard stays where they were
      if (held !== undefined) [...root.querySelectorAll("button[data-act]")].find((button) => button.dataset.name === held)?.focus();
    };
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-act]");
      if (button) trigger("select", { act: button.dataset.act, name: button.dataset.name });
    });
    load();
    watch("value", load);
  };

  Object.assign(wb, { acts });
})();
