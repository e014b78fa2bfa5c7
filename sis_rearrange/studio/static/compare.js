/* Before and after: a second picture over a view, cut off at a line that is a slider to mouse, touch and keys. */

import { h, iconButton } from "./dom.js";

export class Compare {
  /** On a CellView; `before()` gives the address of the other picture, or null. */
  constructor(view, before, { label = "Before and after", names = ["before", "after"] } = {}) {
    Object.assign(this, { view, before });
    this.image = h("img", { class: "picture before", alt: "" });
    this.input = h("input", { type: "range", min: 0, max: 100, value: 50, step: 0.5, "aria-label": label, class: "compare-input" });
    this.line = h("div", { class: "compare-line" });
    this.layer = h("div", { class: "compare", hidden: true }, this.image, this.line,
      h("span", { class: "compare-name left" }, names[0]), h("span", { class: "compare-name right" }, names[1]), this.input);
    view.element.append(this.layer);
    this.input.addEventListener("input", () => this.#place());
    this.button = iconButton("compare", label, () => this.toggle(), { keys: "C", pressed: false, disabled: true });
    this.#place();
  }

  get on() {
    return !this.layer.hidden;
  }

  /** Whether there is a picture to compare. */
  able(on) {
    this.button.disabled = !on;
    if (!on) this.toggle(false);
  }

  toggle(on = !this.on) {
    if (on && this.button.disabled) return;
    this.layer.hidden = !on;
    this.button.setAttribute("aria-pressed", String(on));
    this.refresh();
  }

  /** After either picture changed. */
  refresh() {
    if (!this.on) return;
    const address = this.before();
    this.image.hidden = !address;
    if (address && this.image.src !== address) this.image.src = address;
  }

  #place() {
    this.layer.style.setProperty("--at", `${this.input.value}%`);
    this.input.setAttribute("aria-valuetext", `${Math.round(this.input.value)} percent before`);
  }
}
