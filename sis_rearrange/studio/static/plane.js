/* What is painted on: one byte a pixel. Either the index of a part (crisp, 255: unpainted) or the tone of ink. */

export const EMPTY = 255;
const FAR = 40; // a colour is no part's from here on; what JPEG does to a drawing stays below it
const STRANGE = 0.2; // of the pixels

/** "#rrggbb" -> [r, g, b]. */
export const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** Smallest rectangle around both; null is none. */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const x = Math.min(a.x, b.x);
  const y = Math.min(a.y, b.y);
  return { x, y, w: Math.max(a.x + a.w, b.x + b.w) - x, h: Math.max(a.y + a.h, b.y + b.h) - y };
}

export class Plane {
  /** kind: "index" with colours ["#rrggbb", ...], or "ink": 255 is paper, 0 is black. blank: what erasing leaves. */
  constructor(side, { kind = "index", colours = [], blank = EMPTY } = {}) {
    Object.assign(this, { side, kind, colours, blank });
    this.data = new Uint8Array(side * side).fill(blank);
  }

  get whole() {
    return { x: 0, y: 0, w: this.side, h: this.side };
  }

  get isBlank() {
    return this.data.every((value) => value === this.blank);
  }

  /** A thick line from (x0, y0) to (x1, y1) in pixels; returns the rectangle it may have changed, or null. */
  line(x0, y0, x1, y1, radius, value) {
    const pad = radius + 1;
    const rect = this.#clip(Math.min(x0, x1) - pad, Math.min(y0, y1) - pad, Math.max(x0, x1) + pad, Math.max(y0, y1) + pad);
    if (!rect) return null;
    const dx = x1 - x0;
    const dy = y1 - y0;
    const length = dx * dx + dy * dy;
    const soft = this.kind === "ink";
    const reach = (radius + (soft ? 0.5 : 0)) ** 2;
    for (let y = rect.y; y < rect.y + rect.h; y++) {
      for (let x = rect.x; x < rect.x + rect.w; x++) {
        const px = x + 0.5 - x0;
        const py = y + 0.5 - y0;
        const t = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        const distance = (px - t * dx) ** 2 + (py - t * dy) ** 2;
        if (distance > reach) continue;
        const at = y * this.side + x;
        if (soft) this.#tone(at, value, Math.min(1, radius + 0.5 - Math.sqrt(distance)));
        else this.data[at] = value;
      }
    }
    return rect;
  }

  /** Everything connected to (x, y) that has its value gets another; returns the rectangle it changed, or null. */
  fill(x, y, value) {
    const side = this.side;
    const old = this.data[y * side + x];
    if (old === value || x < 0 || y < 0 || x >= side || y >= side) return null;
    const same = this.kind === "ink" ? (at) => Math.abs(this.data[at] - old) < 64 && this.data[at] !== value : (at) => this.data[at] === old;
    const stack = [y * side + x];
    let [left, top, right, bottom] = [x, y, x, y];
    while (stack.length) {
      const at = stack.pop();
      if (!same(at)) continue;
      this.data[at] = value;
      const cx = at % side;
      const cy = (at - cx) / side;
      left = Math.min(left, cx), right = Math.max(right, cx), top = Math.min(top, cy), bottom = Math.max(bottom, cy);
      if (cx > 0) stack.push(at - 1);
      if (cx < side - 1) stack.push(at + 1);
      if (cy > 0) stack.push(at - side);
      if (cy < side - 1) stack.push(at + side);
    }
    return { x: left, y: top, w: right - left + 1, h: bottom - top + 1 };
  }

  /** Copy of a rectangle's bytes, and the way back. */
  cut({ x, y, w, h }) {
    const out = new Uint8Array(w * h);
    for (let row = 0; row < h; row++) out.set(this.data.subarray((y + row) * this.side + x, (y + row) * this.side + x + w), row * w);
    return out;
  }

  paste({ x, y, w, h }, bytes) {
    for (let row = 0; row < h; row++) this.data.set(bytes.subarray(row * w, row * w + w), (y + row) * this.side + x);
  }

  /** ImageData of a rectangle; unpainted is `paper` [r, g, b, a]. */
  pixels({ x, y, w, h }, paper = [255, 255, 255, 255]) {
    const image = new ImageData(w, h);
    const table = new Uint32Array(256);
    const bytes = new Uint8ClampedArray(table.buffer);
    for (let value = 0; value < 256; value++) {
      const colour = this.kind === "ink" ? [value, value, value] : this.colours[value] && rgb(this.colours[value]);
      bytes.set(colour ? [...colour, 255] : paper, value * 4);
    }
    const out = new Uint32Array(image.data.buffer);
    for (let row = 0; row < h; row++) {
      const from = (y + row) * this.side + x;
      for (let column = 0; column < w; column++) out[row * w + column] = table[this.data[from + column]];
    }
    return image;
  }

  /** data:image/png address, unpainted white. */
  png() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = this.side;
    canvas.getContext("2d").putImageData(this.pixels(this.whole), 0, 0);
    return canvas.toDataURL("image/png");
  }

  /** Take over a picture, resized to the plane: nearest colour for parts (transparent: blank), tone for ink.
   * smooth: few cells become curves; otherwise every cell becomes a square of pixels. */
  load(image, { smooth = true } = {}) {
    const scale = Math.min(this.side / image.width, this.side / image.height);
    if (this.kind === "ink") {
      const { data } = fitted(image, this.side, scale, true);
      for (let at = 0; at < this.data.length; at++) {
        const [r, g, b, a] = data.subarray(at * 4, at * 4 + 4);
        this.data[at] = 255 - Math.round(((255 - 0.299 * r - 0.587 * g - 0.114 * b) * a) / 255);
      }
    } else if (smooth && scale >= 2 && image.width === image.height) this.data.set(enlarged(this.#labels(image, image.width, 1), image.width, this.side));
    else this.data.set(this.#labels(image, this.side, scale));
  }

  /** Whether a picture has so many other colours that it is no drawing of these parts. */
  isStrange(image) {
    if (this.kind === "ink") return false;
    const { data } = fitted(image, this.side, Math.min(this.side / image.width, this.side / image.height), false);
    const table = this.#table();
    let [seen, strange] = [0, 0];
    for (let at = 0; at < data.length; at += 4) {
      const [r, g, b, a] = data.subarray(at, at + 4);
      if (a < 128) continue;
      seen += 1;
      if (apart(table[nearest(table, r, g, b)], r, g, b) > FAR ** 2) strange += 1;
    }
    return strange > STRANGE * seen;
  }

  /** What a pixel may be: the parts, and white where that is left unpainted. */
  #table() {
    const table = this.colours.map(rgb);
    if (this.blank === EMPTY) table.push([255, 255, 255]);
    return table;
  }

  #labels(image, side, scale) {
    const { data } = fitted(image, side, scale, false);
    const table = this.#table();
    const known = new Map();
    return Uint8Array.from({ length: side * side }, (_, at) => {
      const [r, g, b, a] = data.subarray(at * 4, at * 4 + 4);
      if (a < 128) return this.blank;
      const key = (r << 16) | (g << 8) | b;
      if (!known.has(key)) known.set(key, nearest(table, r, g, b));
      const found = known.get(key);
      return found >= this.colours.length ? EMPTY : found;
    });
  }

  #tone(at, value, cover) {
    const old = this.data[at];
    const mixed = Math.round(value * cover + 255 * (1 - cover));
    this.data[at] = value === EMPTY ? Math.max(old, Math.round(255 * cover)) : Math.min(old, mixed);
  }

  #clip(left, top, right, bottom) {
    const x = Math.max(0, Math.floor(left));
    const y = Math.max(0, Math.floor(top));
    const w = Math.min(this.side, Math.ceil(right)) - x;
    const h = Math.min(this.side, Math.ceil(bottom)) - y;
    return w > 0 && h > 0 ? { x, y, w, h } : null;
  }
}

const apart = (colour, r, g, b) => (colour[0] - r) ** 2 + (colour[1] - g) ** 2 + (colour[2] - b) ** 2;

function nearest(table, r, g, b) {
  let best = 0;
  let least = Infinity;
  table.forEach((colour, index) => {
    const distance = apart(colour, r, g, b);
    if (distance < least) [best, least] = [index, distance];
  });
  return best;
}

/** Pixels of a picture in the middle of a square. */
function fitted(image, side, scale, smooth) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  const [w, h] = [image.width * scale, image.height * scale];
  context.drawImage(image, (side - w) / 2, (side - h) / 2, w, h);
  return context.getImageData(0, 0, side, side);
}

/** Labels of few cells as labels of many, with outlines that are curves: each label is enlarged softly, the most wins. */
function enlarged(labels, from, to) {
  const best = new Uint8Array(to * to);
  const most = new Float32Array(to * to).fill(-1);
  const coarse = document.createElement("canvas");
  coarse.width = coarse.height = from;
  const fine = document.createElement("canvas");
  fine.width = fine.height = to;
  const context = fine.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.filter = `blur(${(0.6 * to) / from}px)`;
  for (const label of new Set(labels)) {
    const image = new ImageData(from, from);
    labels.forEach((value, at) => image.data.set(value === label ? [255, 255, 255, 255] : [0, 0, 0, 255], at * 4));
    coarse.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(coarse, 0, 0, to, to);
    const { data } = context.getImageData(0, 0, to, to);
    for (let at = 0; at < best.length; at++) if (data[at * 4] > most[at]) [most[at], best[at]] = [data[at * 4], label];
  }
  return best;
}
