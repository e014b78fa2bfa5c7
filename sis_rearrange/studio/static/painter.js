/* The canvas: shows a document (a plane, its history, perhaps a picture below) and draws in it. */

import { announce, h } from "./dom.js";
import { History } from "./history.js";
import { union } from "./plane.js";
import { watchPointers } from "./pointer.js";
import { View } from "./view.js";

/** A plane with its history. `below`: image to paint over; `opacity`: of the paint on it. `version` rises with changes. */
export class Sheet {
  constructor(plane, { below = null, opacity = 1, changed } = {}) {
    Object.assign(this, { plane, below, opacity, history: new History(changed), version: 0 });
  }

  /** Replace everything as one step that can be undone. */
  replace(change) {
    const rect = this.plane.whole;
    const before = this.plane.cut(rect);
    change(this.plane);
    this.history.push({ rect, before, after: this.plane.cut(rect) });
  }
}

export class Painter {
  /** brush: {tool, value, size (share of the side), mirror}; onstroke() while drawing, oncommit() after; onpick(value). */
  constructor(label, brush, { onstroke, oncommit, onpick, onhistory }) {
    Object.assign(this, { brush, onstroke, oncommit, onpick, onhistory });
    this.view = new View();
    this.canvas = h("canvas", {
      class: "sheet", tabindex: "0", role: "application", "aria-label": label,
      "aria-roledescription": "drawing area", "aria-keyshortcuts": "ArrowUp ArrowDown ArrowLeft ArrowRight Space Enter",
    });
    this.ring = h("div", { class: "ring", hidden: true });
    this.axis = h("div", { class: "axis", hidden: true });
    this.hint = h("p", { class: "stage-hint", hidden: true });
    this.element = h("div", { class: "stage" }, this.canvas, this.axis, this.ring, this.hint);
    this.paper = document.createElement("canvas");
    this.cursor = [0.5, 0.5];
    this.penDown = false;
    this.stroke = null;
    watchPointers(this.canvas, this);
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("blur", () => this.#lift());
    new ResizeObserver(() => this.#resize()).observe(this.element);
  }

  /** Show another sheet; its undo history comes with it. */
  open(sheet) {
    this.#lift();
    this.sheet = sheet;
    sheet.history.changed = () => this.onhistory?.(sheet.history);
    this.paper.width = this.paper.height = sheet.plane.side;
    this.view.reset();
    this.refresh();
    this.onhistory?.(sheet.history);
  }

  /** Everything again, after the plane was changed from outside. */
  refresh() {
    this.#repaint(this.sheet.plane.whole);
  }

  undo() {
    this.#step("undo");
  }

  redo() {
    this.#step("redo");
  }

  /** One step that changes the whole sheet, such as clearing it. */
  replace(change) {
    this.#lift();
    this.sheet.replace(change);
    this.refresh();
    this.oncommit();
  }

  /** Put pixels back as one step; none where they are there already. */
  restore(data) {
    if (this.sheet.plane.data.some((value, at) => value !== data[at])) this.replace((plane) => plane.data.set(data));
  }

  clear() {
    this.replace((plane) => plane.data.fill(plane.blank));
  }

  zoomBy(factor) {
    this.zoom(0.5, 0.5, factor);
  }

  zoomFit() {
    this.view.reset();
    this.draw();
  }

  /** Show the symmetry axis and the ring at the brush's present size. */
  brushChanged() {
    this.axis.hidden = !this.brush.mirror;
    this.#placeAxis();
    this.#placeRing();
    this.canvas.dataset.tool = this.brush.tool;
  }

  // ------------------------------------------------------------ what the pointer tells

  wantsPan() {
    return this.brush.tool === "move";
  }

  down(u, v, pressure, event) {
    const [x, y] = this.#pixel(u, v);
    if (this.brush.tool === "pick" || event?.altKey) return this.#pick(x, y);
    if (this.brush.tool === "fill") return this.#fill(x, y);
    this.#begin();
    this.#mark(x, y, x, y, pressure);
  }

  drag(places) {
    if (!this.stroke) return;
    for (const [u, v, pressure] of places) {
      const [x, y] = this.#pixel(u, v);
      this.#mark(...this.stroke.last, x, y, pressure);
    }
    this.onstroke?.();
  }

  up() {
    this.#commit();
  }

  /** A second finger came: the stroke was not meant. */
  cancel() {
    if (!this.stroke) return;
    this.sheet.plane.data.set(this.stroke.before);
    this.stroke = null;
    this.refresh();
    this.onstroke?.();
  }

  hover(u, v) {
    this.cursor = this.view.inside(u, v);
    this.ring.hidden = false;
    this.#placeRing();
  }

  leave() {
    this.ring.hidden = document.activeElement !== this.canvas || !this.penDown;
  }

  pan(du, dv) {
    this.view.move(du, dv);
    this.draw();
  }

  zoom(u, v, factor) {
    this.view.zoomAt(u, v, factor);
    this.draw();
    this.#placeRing();
  }

  // ------------------------------------------------------------ drawing

  /** Radius of the brush in pixels of the plane. */
  get radius() {
    return Math.max(0.5, (this.brush.size * this.sheet.plane.side) / 2);
  }

  #value() {
    return this.brush.tool === "eraser" ? this.sheet.plane.blank : this.brush.value;
  }

  #begin() {
    this.stroke = { before: this.sheet.plane.data.slice(), rect: null, last: null };
  }

  #mark(x0, y0, x1, y1, pressure = 1) {
    const { plane } = this.sheet;
    const radius = this.radius * (0.35 + 0.65 * pressure);
    let rect = plane.line(x0, y0, x1, y1, radius, this.#value());
    if (this.brush.mirror) rect = union(rect, plane.line(plane.side - x0, y0, plane.side - x1, y1, radius, this.#value()));
    this.stroke.last = [x1, y1];
    if (!rect) return;
    this.stroke.rect = union(this.stroke.rect, rect);
    this.#repaint(rect);
  }

  #commit() {
    const { stroke } = this;
    this.stroke = null;
    if (!stroke?.rect) return;
    const { plane, history } = this.sheet;
    const after = plane.cut(stroke.rect);
    const old = Object.assign(Object.create(Object.getPrototypeOf(plane)), plane, { data: stroke.before });
    const before = old.cut(stroke.rect);
    if (before.every((value, at) => value === after[at])) return;
    history.push({ rect: stroke.rect, before, after });
    this.oncommit();
  }

  #fill(x, y) {
    this.#begin();
    const { plane } = this.sheet;
    const at = [Math.floor(x), Math.floor(y)];
    this.stroke.rect = plane.fill(...at, this.#value());
    if (this.brush.mirror) this.stroke.rect = union(this.stroke.rect, plane.fill(plane.side - 1 - at[0], at[1], this.#value()));
    if (this.stroke.rect) this.#repaint(this.stroke.rect);
    this.#commit();
  }

  #pick(x, y) {
    const { plane } = this.sheet;
    this.onpick?.(plane.data[Math.floor(y) * plane.side + Math.floor(x)]);
  }

  #step(which) {
    this.#lift();
    const rect = this.sheet.history[which](this.sheet.plane);
    if (!rect) return;
    this.#repaint(rect);
    this.oncommit();
    announce(which === "undo" ? "Undone" : "Redone");
  }

  // ------------------------------------------------------------ keyboard

  #key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key] && !event.ctrlKey && !event.metaKey) {
      const step = Math.max(1 / this.sheet.plane.side, this.brush.size / 3) * (event.shiftKey ? 4 : 1);
      const [x, y] = this.cursor;
      this.cursor = [x + steps[event.key][0] * step, y + steps[event.key][1] * step].map((at) => Math.min(1, Math.max(0, at)));
      if (this.penDown) this.#mark(...this.stroke.last, ...this.#atCursor());
      if (this.penDown) this.onstroke?.();
    } else if (event.key === " ") {
      if (!event.repeat) this.penDown ? this.#lift() : this.#lower();
    } else if (event.key === "Enter") {
      if (!this.penDown && !this.wantsPan()) this.down(...this.#shareOfCursor(), 1);
      this.#lift();
      this.#commit();
    } else if (event.key === "Escape" && this.penDown) {
      this.#lift();
    } else return;
    this.view.reveal(...this.cursor);
    this.draw();
    this.ring.hidden = false;
    this.#placeRing();
    event.preventDefault();
  }

  #lower() {
    if (this.wantsPan()) return;
    this.down(...this.#shareOfCursor(), 1);
    this.penDown = Boolean(this.stroke);
    announce(this.penDown ? "Pen down. Arrow keys draw, space lifts the pen." : "Done");
    this.element.classList.toggle("pen-down", this.penDown);
  }

  #lift() {
    if (!this.penDown) return;
    this.penDown = false;
    this.element.classList.remove("pen-down");
    this.#commit();
    announce("Pen up");
  }

  #atCursor() {
    return this.cursor.map((at) => at * this.sheet.plane.side);
  }

  #shareOfCursor() {
    return [(this.cursor[0] - this.view.x) * this.view.zoom, (this.cursor[1] - this.view.y) * this.view.zoom];
  }

  // ------------------------------------------------------------ showing

  #pixel(u, v) {
    return this.view.inside(u, v).map((at) => at * this.sheet.plane.side);
  }

  #repaint(rect) {
    this.sheet.version += 1;
    this.paper.getContext("2d").putImageData(this.sheet.plane.pixels(rect, this.sheet.below ? [0, 0, 0, 0] : undefined), rect.x, rect.y);
    this.draw();
  }

  #resize() {
    const side = Math.round(this.element.clientWidth * (window.devicePixelRatio || 1));
    if (side && this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    this.draw();
    this.brushChanged();
  }

  draw() {
    if (!this.sheet) return;
    const { canvas, view, sheet } = this;
    const context = canvas.getContext("2d");
    const scale = canvas.width * view.zoom;
    context.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = true;
    context.globalAlpha = 1;
    context.clearRect(0, 0, 1, 1);
    if (sheet.below) context.drawImage(sheet.below, 0, 0, 1, 1);
    context.globalAlpha = sheet.below ? sheet.opacity : 1;
    context.imageSmoothingEnabled = sheet.plane.side >= 128 && scale / sheet.plane.side < 6;
    context.drawImage(this.paper, 0, 0, 1, 1);
    this.#placeAxis();
  }

  #placeAxis() {
    this.axis.style.left = `${(0.5 - this.view.x) * this.view.zoom * 100}%`;
  }

  #placeRing() {
    if (!this.sheet || this.ring.hidden) return;
    const [u, v] = this.#shareOfCursor();
    const size = Math.max(4, ((this.radius * 2) / this.sheet.plane.side) * this.view.zoom * this.element.clientWidth);
    const plain = ["fill", "pick", "move"].includes(this.brush.tool);
    Object.assign(this.ring.style, { left: `${u * 100}%`, top: `${v * 100}%`, width: `${plain ? 6 : size}px`, height: `${plain ? 6 : size}px` });
  }
}
