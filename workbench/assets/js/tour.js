// A tour of the page in four steps: offered once on Start, there again behind "?".
(() => {
  "use strict";
  const { make } = wb.kit;
  const KEY = "wb.tour";
  const STEPS = [
    { tab: "Start", at: "#wb-model", title: "Choose a model", text: "Every tab looks at the model that is chosen here. Models that come along, those you download and your own checkpoints stand on Start." },
    { tab: "Attention", at: "#wb-attention-board", title: "See what it attends to", text: "Click a patch, or press Space, to see what it attends to in h and in h_p. Outliers shows the same time steps channel by channel: the cursor goes with you." },
    { tab: "Quantize", at: "#wb-quantize-go", title: "Take bits away", text: "Tick methods, choose bits and press Run. Points and rows are what was measured, every number leads to the run that made it; tick two rows to compare them." },
    { tab: "Runs", at: "#wb-share", title: "Find it again, pass it on", text: "Runs keeps whatever was computed here. Share copies a link that opens exactly this view, or the command that computes it." },
  ];
  const seen = () => { try { return Boolean(localStorage.getItem(KEY)); } catch { return false; } };
  const remember = () => {
    try { localStorage.setItem(KEY, "1"); } catch { /* storage may be blocked */ }
    for (const one of document.querySelectorAll(".wb-invite")) one.hidden = true;
  };
  const open = (name) => [...document.querySelectorAll('#wb-tabs [role="tab"]')].find((one) => one.textContent.trim() === name)?.click();

  let card = null, at = 0, before = null, ringed = null;
  const ring = (selector) => {
    ringed?.classList.remove("wb-ringed");
    ringed = selector ? document.querySelector(selector) : null;
    ringed?.classList.add("wb-ringed");
    ringed?.scrollIntoView({ block: "nearest" });
  };
  const close = () => {
    remember(); ring(null);
    card?.remove(); card = null;
    // where it was taken from may be in a tab that is closed now
    (before?.offsetParent ? before : document.getElementById("wb-help"))?.focus();
  };
  const show = (step) => {
    at = step;
    const { tab, at: where, title, text } = STEPS[at], last = at === STEPS.length - 1;
    open(tab);
    const heading = make("h2", { id: "wb-tour-title", tabindex: -1 }, title);
    const button = (words, act, more = {}) => make("button", { type: "button", class: "wb-small", onclick: act, ...more }, words);
    card.replaceChildren(
      make("p", { class: "wb-note" }, `Step ${at + 1} of ${STEPS.length}`), heading, make("p", { id: "wb-tour-text" }, text),
      make("div", { class: "wb-tour-ways" }, button("End tour", close, { id: "wb-tour-end" }),
        ...(at ? [button("Back", () => show(at - 1))] : []),
        button(last ? "Done" : "Next", () => (last ? close() : show(at + 1)), { class: "wb-small wb-strong", id: "wb-tour-next" })));
    heading.focus({ preventScroll: true });
    // a tab that is opened for the first time takes a moment
    const wait = (left) => { if (!card || STEPS[at].at !== where) return; if (document.querySelector(where)?.offsetParent || !left) ring(where); else setTimeout(() => wait(left - 1), 150); };
    wait(40);
  };
  const start = () => {
    before = document.activeElement;
    card ??= document.body.appendChild(make("div", { id: "wb-tour", role: "dialog", "aria-labelledby": "wb-tour-title", "aria-describedby": "wb-tour-text",
      onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); close(); } } }));
    show(0);
  };
  const invite = (element) => {
    const line = element.querySelector(".wb-invite");
    line.hidden = seen();
    line.replaceChildren("New here? A tour of four steps takes a minute. ",
      make("button", { type: "button", class: "wb-small wb-strong", id: "wb-tour-start", onclick: start }, "Take the tour"), " ",
      make("button", { type: "button", class: "wb-small", id: "wb-tour-no", onclick: () => { remember(); document.getElementById("wb-help")?.focus(); } }, "No, thanks"));
  };

  Object.assign(wb, { tour: { start, invite } });
})();
