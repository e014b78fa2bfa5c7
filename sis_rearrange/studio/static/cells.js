/* A square picture with the cells of a proxy mask over it: one cell can be pointed at, any can be lit. */

import { h } from "./dom.js";

const FINE = 12; // pixels of the overlay per cell

export class CellView {
  /** onprobe([row, column] or null, spoken) where the pointer or the arrow keys go; without it the view only shows. */
  constructor(label, { onprobe = null, empty = "" } = {}) {
    this.onprobe = onprobe;
    this.side = 32;
    this.image = h("img", { class: "picture", alt: "", hidden: true });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.hint = h("p", { class: "stage-hint" }, empty);
    const focus = onprobe ? { tabindex: "0", role: "application", "aria-roledescription": "picture to explore with arrow keys" } : { role: "group" };
    this.element = h("div", { class: "stage cells", ...focus, "aria-label": label }, this.image, this.overlay, this.hint);
    this.label = label;
    if (onprobe) this.#listen();
  }

  /** Show a picture (address), or nothing where it is null. pixelated: show cells as squares, always. */
  show(address, { alt = "", pixelated = false } = {}) {
    this.hint.hidden = Boolean(address);
    this.image.hidden = !address;
    this.image.classList.toggle("pixelated", pixelated);
    if (!address) return this.image.removeAttribute("src");
    if (this.image.src !== address) this.image.src = address;
    this.image.alt = alt;
  }

  /** Say in words why there is no picture. */
  say(text) {
    this.show(null);
    this.hint.textContent = text;
  }

  /** Light the cells (Set of row * side + column) and mark one; null: everything as it is. */
  light(cells, marked = null) {
    const side = this.side;
    const { overlay } = this;
    overlay.width = overlay.height = cells ? side * FINE : 1;
    if (!cells) return;
    const context = overlay.getContext("2d");
    context.fillStyle = "rgba(12, 12, 11, 0.55)";
    context.fillRect(0, 0, overlay.width, overlay.height);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    for (const cell of cells) context.clearRect((cell % side) * FINE, Math.floor(cell / side) * FINE, FINE, FINE);
    context.beginPath();
    for (const cell of cells) this.#edges(context, cells, cell % side, Math.floor(cell / side));
    context.stroke();
    if (marked !== null) this.#mark(context, (marked % side) * FINE, Math.floor(marked / side) * FINE);
  }

  #edges(context, cells, x, y) {
    const lit = (cx, cy) => cx >= 0 && cy >= 0 && cx < this.side && cy < this.side && cells.has(cy * this.side + cx);
    const line = (x0, y0, x1, y1) => {
      context.moveTo(x0 * FINE, y0 * FINE);
      context.lineTo(x1 * FINE, y1 * FINE);
    };
    if (!lit(x, y - 1)) line(x, y, x + 1, y);
    if (!lit(x, y + 1)) line(x, y + 1, x + 1, y + 1);
    if (!lit(x - 1, y)) line(x, y, x, y + 1);
    if (!lit(x + 1, y)) line(x + 1, y, x + 1, y + 1);
  }

  #mark(context, x, y) {
    context.strokeStyle = "#111";
    context.lineWidth = 5;
    context.strokeRect(x, y, FINE, FINE);
    context.strokeStyle = "#ffd34d";
    context.lineWidth = 3;
    context.strokeRect(x, y, FINE, FINE);
  }

  #listen() {
    let at = null;
    const probe = (cell, spoken = false) => {
      if (String(cell) === String(at)) return;
      at = cell;
      this.onprobe(cell, spoken);
    };
    const point = (event) => {
      if (event.target.matches("input")) return probe(null); // before and after: the pointer moves the line
      const box = this.element.getBoundingClientRect();
      const cell = [event.clientY - box.top, event.clientX - box.left].map((v, i) => Math.floor((v / (i ? box.width : box.height)) * this.side));
      return probe(cell.every((v) => v >= 0 && v < this.side) ? cell : null);
    };
    this.element.addEventListener("pointermove", point);
    this.element.addEventListener("pointerdown", point);
    this.element.addEventListener("pointerleave", () => probe(null));
    this.element.addEventListener("blur", () => probe(null));
    this.element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") probe(null);
      if (!step || event.target !== this.element) return;
      event.preventDefault();
      const from = at ?? [this.side >> 1, this.side >> 1];
      probe(from.map((v, i) => Math.min(this.side - 1, Math.max(0, v + step[i] * (event.shiftKey ? 4 : 1)))), true);
    });
  }
}
