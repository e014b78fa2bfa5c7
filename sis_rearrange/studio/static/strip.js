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
  }

  /** picture: address; state: whatever brings it back. The same picture twice in a row is kept once. */
  add(picture, state) {
    if (this.last === picture) return;
    this.last = picture;
    this.empty.hidden = true;
    this.count += 1;
    const open = h("button", { type: "button", class: "thumb", "aria-label": `Picture ${this.count}`, title: `Picture ${this.count}: click to go back to it` },
      h("img", { src: picture, alt: "", loading: "lazy" }));
    open.addEventListener("click", () => {
      this.mark(open);
      this.onopen(state);
    });
    this.list.prepend(h("li", {}, open));
    while (this.list.children.length > KEPT) this.list.lastElementChild.remove();
    this.mark(open);
  }

  mark(button) {
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
  }
}
