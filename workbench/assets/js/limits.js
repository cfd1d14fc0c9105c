// A number that is typed outside of what its field allows: said in a line of ours, and put to the nearest that there is.
(() => {
  "use strict";
  const { make } = wb.kit;
  const edge = (text) => (text === "" || text === null ? NaN : Number(text));
  // Gradio gives sliders their limits on the range beside the number; a field by itself has its own
  const limits = (field) => {
    const range = field.closest(".block, .form, fieldset")?.querySelector("input[type=range]");
    return ["min", "max"].map((name) => edge(field.getAttribute(name) ?? range?.getAttribute(name)));
  };
  const outside = (field) => {
    const value = field.value === "" ? NaN : Number(field.value), [low, high] = limits(field);
    return value < low ? low : value > high ? high : null;
  };
  const ours = (event) => event.target instanceof HTMLInputElement && event.target.type === "number" && !event.target.closest(".wb-stepper, .wb-rc") && event.target.closest(".gradio-container");

  const say = (field, words) => {
    const block = field.closest(".block") || field.parentElement;
    const line = block.querySelector(".wb-limit") || block.appendChild(make("p", { class: "wb-limit", role: "alert" }));
    line.textContent = words;
    clearTimeout(line.timer);
    line.timer = setTimeout(() => line.remove(), 12000);
  };
  // before Gradio hears of it: half of a number that is being typed, such as the 3 of 32, is none yet
  document.addEventListener("input", (event) => { if (ours(event) && outside(event.target) !== null) event.stopImmediatePropagation(); }, true);
  document.addEventListener("change", (event) => {
    const nearest = ours(event) ? outside(event.target) : null;
    if (nearest === null) return;
    event.stopImmediatePropagation();
    const field = event.target, given = field.value, [low, high] = limits(field);
    const allowed = Number.isNaN(high) ? `${low} or more` : Number.isNaN(low) ? `${high} or less` : `${low} to ${high}`;
    const name = (field.getAttribute("aria-label") || field.closest(".block")?.querySelector("label")?.textContent || "").trim().replace(/^number input for /i, "");
    say(field, `${name ? `${name}: ` : ""}${given} is not possible, expected ${allowed}; set to ${nearest}.`);
    field.value = nearest;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
})();
