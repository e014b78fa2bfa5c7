/* What can be drawn: one mode per condition of the pack, each with its own kind of sheet. */

import { EMPTY, Plane } from "./plane.js";

const SIDE = 256; // pixels of a sheet for parts and scribbles: as many as the shipped drawings have
const FINE = 512; // of a sheet for lines
const WORDS = {
  segmentation: ["Parts", "Paint every part in its colour"],
  scribble: ["Scribble", "A few thick strokes; the model fills in the rest"],
  sketch: ["Sketch", "Draw lines; the model sees the shapes"],
  proxy: ["Clusters", "Paint the proxy mask itself, cell by cell"],
  exemplar: ["Exemplar", "Take the layout of another picture"],
  hed: ["Soft edges", "A soft edge map, or a photo"],
  depth: ["Depth", "A depth map, near parts bright"],
};

/** parts for the palette: [{value, name, colour}] of the server's [{name, label, colour}]. */
export const swatches = (parts) => parts.map((part) => ({ value: part.label, name: part.name.replaceAll("_", " "), colour: part.colour }));

/** Colours by label, for a plane. */
export function coloursOf(parts) {
  const colours = [];
  for (const part of parts) colours[part.label] = part.colour;
  return colours;
}

/** {name, label, title, kind: "index" | "ink" | "well", side, parts, blank, brush, compact} */
export function modeOf(name, info, own = null) {
  const [label, title] = own ? [own.label, "Your own parts: paint every part in its colour"] : WORDS[name] ?? [name, `The condition ${name}`];
  const mode = { name, label, title };
  if (own) return { ...mode, own: true, kind: "index", side: SIDE, parts: own.parts, blank: own.parts[0].label, brush: 0.06 };
  if (name === "segmentation") return { ...mode, kind: "index", side: SIDE, parts: info.parts, blank: info.parts[0].label, brush: 0.06 };
  if (name === "scribble") return { ...mode, kind: "index", side: SIDE, parts: info.parts, blank: EMPTY, brush: 0.035 };
  if (name === "proxy") {
    const parts = info.clusters.map((colour, label) => ({ name: `cluster ${label}`, label, colour }));
    return { ...mode, kind: "index", side: info.resolution, parts, blank: 0, brush: 0.06, compact: true };
  }
  if (name === "sketch") return { ...mode, kind: "ink", side: FINE, parts: [], blank: EMPTY, brush: 0.012 };
  return { ...mode, kind: "well", parts: [] };
}

/** An empty plane for a mode. */
export function planeOf(mode) {
  return new Plane(mode.side, { kind: mode.kind, colours: coloursOf(mode.parts), blank: mode.blank });
}

/** Modes of a pack, best first. */
export function modesOf(info) {
  const order = ["segmentation", "scribble", "sketch", "proxy", "exemplar"];
  const place = (name) => (order.indexOf(name) + order.length + 1) % (order.length + 1);
  return [...info.conditions].sort((a, b) => place(a) - place(b)).map((name) => modeOf(name, info));
}
