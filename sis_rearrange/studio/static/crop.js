/* The square of a photo that is looked at: drag it, pull its corners, or use the arrow keys and + and -. */

import { h } from "./dom.js";

const LEAST = 16; // pixels of the photo

export class Crop {
  /** image: address; width and height in its pixels. value: {x, y, size}. */
  constructor(image, width, height, onchange = () => {}) {
    Object.assign(this, { width, height, onchange });
    const size = Math.min(width, height);
    this.value = { x: Math.floor((width - size) / 2), y: Math.floor((height - size) / 2), size };
    this.box = h("div", {
      class: "crop-box", tabindex: "0", role: "application",
      "aria-label": "Square of the photo to use. Arrow keys move it, plus and minus change its size.",
    }, ...["nw", "ne", "sw", "se"].map((corner) => h("span", { class: `corner ${corner}`, "data-corner": corner })));
    this.element = h("div", { class: "crop", "--ratio": String(width / height) }, h("img", { src: image, alt: "Your photo" }), this.box);
    this.box.addEventListener("pointerdown", (event) => this.#grab(event));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.#put(this.value);
  }

  #put({ x, y, size }) {
    size = Math.round(Math.min(Math.max(size, Math.min(LEAST, this.width, this.height)), this.width, this.height));
    x = Math.round(Math.min(Math.max(0, x), this.width - size));
    y = Math.round(Math.min(Math.max(0, y), this.height - size));
    this.value = { x, y, size };
    const share = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(this.box.style, { left: share(x, this.width), top: share(y, this.height), width: share(size, this.width), height: share(size, this.height) });
    this.onchange(this.value);
  }

  #grab(event) {
    event.preventDefault();
    this.box.focus();
    this.box.setPointerCapture(event.pointerId);
    const start = { ...this.value };
    const scale = this.width / this.element.getBoundingClientRect().width;
    const { corner } = event.target.dataset;
    const move = (now) => {
      const dx = (now.clientX - event.clientX) * scale;
      const dy = (now.clientY - event.clientY) * scale;
      if (!corner) return this.#put({ ...start, x: start.x + dx, y: start.y + dy });
      const [east, south] = [corner.includes("e"), corner.includes("s")];
      const room = Math.min(east ? this.width - start.x : start.x + start.size, south ? this.height - start.y : start.y + start.size);
      const size = Math.min(room, Math.max(LEAST, start.size + ((east ? dx : -dx) + (south ? dy : -dy)) / 2));
      this.#put({ x: east ? start.x : start.x + start.size - size, y: south ? start.y : start.y + start.size - size, size });
    };
    const stop = () => {
      this.box.removeEventListener("pointermove", move);
      this.box.removeEventListener("pointerup", stop);
      this.box.removeEventListener("pointercancel", stop);
    };
    this.box.addEventListener("pointermove", move);
    this.box.addEventListener("pointerup", stop);
    this.box.addEventListener("pointercancel", stop);
  }

  #key(event) {
    const step = Math.max(1, Math.round((event.shiftKey ? 0.1 : 0.02) * Math.min(this.width, this.height)));
    const { x, y, size } = this.value;
    const moved = { ArrowLeft: { x: x - step }, ArrowRight: { x: x + step }, ArrowUp: { y: y - step }, ArrowDown: { y: y + step }, "+": { size: size + step }, "=": { size: size + step }, "-": { size: size - step } }[event.key];
    if (!moved) return;
    event.preventDefault();
    event.stopPropagation();
    this.#put({ x, y, size, ...moved });
  }
}
