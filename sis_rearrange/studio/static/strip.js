/* The history strip: pictures that were made, newest first; one click goes back to the drawing and look behind it. */

import { h } from "./dom.js";

const KEPT = 48;

export class Strip {
  /** onopen(state) with what `add` was given. */
  constructor(onopen, { empty = "Pictures you make appear here." } = {}) {
    this.onopen = onopen;
    this.list = h("ol", { class: "strip-list" });
    this.empty = h("p", { class: "quiet-note" }, empty);
    this.element = h("section", { class: "strip", "aria-label": "History" }, h("h2", { class: "label" }, "History"), this.empty, this.list);
    this.count = 0;
    this.kept = []; // {picture, state, open}, newest first
  }

  /** picture: address; state: whatever brings it back. A picture that is here already is kept once, with its new state.
   * current: whether it is the one that is shown. */
  add(picture, state, { current = true } = {}) {
    const kept = this.kept.find((each) => each.picture === picture) ?? this.#keep(picture);
    kept.state = state;
    if (current) this.mark(kept);
  }

  /** Mark the one that is shown; null: none of them is. */
  mark(kept) {
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    kept?.open.setAttribute("aria-current", "true");
  }

  #keep(picture) {
    this.empty.hidden = true;
    this.count += 1;
    const open = h("button", { type: "button", class: "thumb", "aria-label": `Picture ${this.count}`, title: `Picture ${this.count}: click to go back to it` },
      h("img", { src: picture, alt: "", loading: "lazy" }));
    const kept = { picture, open, state: null };
    open.addEventListener("click", () => {
      this.mark(kept);
      this.onopen(kept.state);
    });
    this.kept.unshift(kept);
    this.list.prepend(h("li", {}, open));
    while (this.kept.length > KEPT) {
      this.kept.pop();
      this.list.lastElementChild.remove();
    }
    return kept;
  }
}
