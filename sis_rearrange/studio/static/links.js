/* Where did it come from? Result, proxy mask, correspondence and confidence share one pointer; the source lights up. */

import { CellView } from "./cells.js";
import { announce, h } from "./dom.js";

/** Bytes of base64. */
export const bytes = (data) => Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));

/** Cells connected to one that have its label: a region of the proxy mask. */
export function region(labels, side, start) {
  const found = new Set([start]);
  const stack = [start];
  while (stack.length) {
    const at = stack.pop();
    const x = at % side;
    const near = [at - side, at + side, x > 0 ? at - 1 : -1, x < side - 1 ? at + 1 : -1];
    for (const next of near) {
      if (next < 0 || next >= labels.length || found.has(next) || labels[next] !== labels[start]) continue;
      found.add(next);
      stack.push(next);
    }
  }
  return found;
}

/** Cells within two of one. */
function* around([row, column], side) {
  for (let y = Math.max(0, row - 2); y <= Math.min(side - 1, row + 2); y++) {
    for (let x = Math.max(0, column - 2); x <= Math.min(side - 1, column + 2); x++) {
      if ((y - row) ** 2 + (x - column) ** 2 <= 5) yield y * side + x;
    }
  }
}

/** Colours that say where in the source a cell comes from: hue runs around, lightness from top to bottom. */
export function placeColour(row, column, side) {
  const u = column / (side - 1);
  const v = row / (side - 1);
  const mix = (a, b, t) => a.map((value, i) => value + (b[i] - value) * t);
  const top = mix([247, 196, 92], [108, 190, 206], u);
  const bottom = mix([188, 64, 84], [52, 58, 140], u);
  return mix(top, bottom, v).map(Math.round);
}

/** Paint side x side cells with colour(cell) -> [r, g, b]; gives a data address. */
export function cellPicture(side, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let cell = 0; cell < side * side; cell++) image.data.set([...colour(cell), 255], cell * 4);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL();
}

export class Links {
  /** source: the CellView of the look. result: the one of the picture; both are lit together with the three here. */
  constructor(result, source, side) {
    Object.assign(this, { result, source, side });
    const probe = (cell, spoken) => this.probe(cell, spoken);
    result.onprobe = probe;
    const view = (label, note) => {
      const made = new CellView(label, { onprobe: probe });
      return { ...{ view: made }, element: h("figure", { class: "small-view" }, made.element, h("figcaption", {}, h("b", {}, label), h("span", {}, note))) };
    };
    const read = view("Read", "the proxy mask the model read");
    const where = view("Where from", "colours are places in the look");
    const sure = view("How sure", "brighter: the mapper is surer");
    [this.read, this.where, this.sure] = [read.view, where.view, sure.view];
    this.all = [result, source, this.read, this.where, this.sure];
    for (const each of this.all) each.side = side;
    this.element = h("div", { class: "small-views" }, read.element, where.element, sure.element);
    this.data = null;
  }

  /** data: {labels, places: [r*r*2] rows and columns of source cells, confidence: bytes, colours: rgb of clusters}. */
  show(data) {
    this.data = data;
    const { side } = this;
    this.read.show(cellPicture(side, (cell) => data.colours[data.labels[cell]] ?? [0, 0, 0]), { alt: "The proxy mask the model read", pixelated: true });
    this.where.show(cellPicture(side, (cell) => placeColour(data.places[2 * cell], data.places[2 * cell + 1], side)), { alt: "Where in the look each cell comes from", pixelated: true });
    this.sure.show(cellPicture(side, (cell) => heat(data.confidence[cell] / 255)), { alt: "How sure the mapper was of each cell", pixelated: true });
  }

  clear() {
    this.data = null;
    for (const view of [this.read, this.where, this.sure]) view.say("");
    this.probe(null);
  }

  /** Light the region at a cell everywhere, and in the source the cells that it came from; spoken: say it in words. */
  probe(cell, spoken = false) {
    const { data, side } = this;
    if (!cell || !data) return this.all.forEach((view) => view.light(null));
    const at = cell[0] * side + cell[1];
    const lit = region(data.labels, side, at);
    for (const near of around(cell, side)) lit.add(near); // single cells are hard to see
    const origin = (target) => data.places[2 * target] * side + data.places[2 * target + 1];
    const from = new Set([...lit].map(origin));
    for (const view of this.all) if (view !== this.source) view.light(lit, at);
    this.source.light(from, origin(at));
    if (!spoken) return undefined;
    const sure = Math.round(data.confidence[at] / 2.55);
    return announce(`Row ${cell[0] + 1}, column ${cell[1] + 1}: from row ${data.places[2 * at] + 1}, column ${data.places[2 * at + 1] + 1} of the look. Sure by ${sure} percent.`);
  }
}

/** 0..1 -> dark blue over viridian to pale yellow. */
function heat(value) {
  const stops = [[38, 40, 66], [44, 110, 112], [122, 178, 120], [246, 232, 170]];
  const at = Math.min(2.999, Math.max(0, value * 3));
  const low = Math.floor(at);
  return stops[low].map((v, i) => Math.round(v + (stops[low + 1][i] - v) * (at - low)));
}
