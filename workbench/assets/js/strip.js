// A strip of pictures to choose from.
(() => {
  "use strict";
  const { make } = wb.kit;

  const strip = (element, props, trigger, watch) => {
    const root = element.querySelector(".wb-strip");
    const load = () => {
      const { items, chosen, label, words: said, place } = JSON.parse(props.value);
      const tell = (i) => {
        if (!place) return;
        wb.address.put("", ["weights"], [place.weights]);
        wb.address.put(place.tab, ["data", "image"], [place.data, i < 0 ? null : place.first + i]);
      };
      root.setAttribute("aria-label", label || "images");
      if (!items.length) { root.replaceChildren(make("p", { class: "wb-empty" }, said || "")); return; }
      const buttons = items.map(({ src, name }, i) => make("button", {
        type: "button", role: "radio", "aria-checked": i === chosen, "aria-label": name, title: name, tabindex: i === Math.max(0, chosen) ? 0 : -1,
        onclick: () => { choose(i); tell(i); trigger("select", { index: i }); },
      }, make("img", { src, alt: "" }), make("span", {}, name)));
      const choose = (i) => buttons.forEach((button, k) => { button.setAttribute("aria-checked", k === i); button.tabIndex = k === i ? 0 : -1; });
      root.replaceChildren(...buttons);
      tell(chosen);
      root.onkeydown = (event) => {
        const at = buttons.indexOf(document.activeElement), move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (at < 0 || !move) return;
        event.preventDefault();
        const next = buttons[(at + move + buttons.length) % buttons.length];
        next.focus(); next.click();
      };
    };
    load();
    watch("value", load);
  };

  // a picture that is pasted goes the way of one that is uploaded, in the tab that is open
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    const row = [...document.querySelectorAll(".wb-pickrow")].find((one) => one.offsetParent !== null);
    const field = row?.querySelector("input[type=file]");
    if (!file || !field) return;
    event.preventDefault();
    const given = new DataTransfer();
    given.items.add(file);
    field.files = given.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });

  Object.assign(wb, { strip });
})();
