/* The tool panel of a painter: tools, brush size, symmetry, and the palette that the brush is dipped in. */

import { h, iconButton, newId, slider } from "./dom.js";

export const TOOLS = [
  { name: "brush", label: "Brush", key: "b" },
  { name: "eraser", label: "Eraser", key: "e" },
  { name: "fill", label: "Fill", key: "g" },
  { name: "pick", label: "Pick a part", key: "i" },
  { name: "move", label: "Move the view", key: "v" },
];
const FINEST = 0.004; // of the side
const WIDEST = 0.4;

/** Brush width as a share of the side <-> position of the slider, finer at the thin end. */
const toSlider = (size) => Math.round(100 * Math.sqrt((size - FINEST) / (WIDEST - FINEST)));
const fromSlider = (at) => FINEST + (WIDEST - FINEST) * (at / 100) ** 2;

export class Tools {
  /** brush: {tool, value, size, mirror}, changed in place; onchange() after each change. */
  constructor(brush, onchange) {
    Object.assign(this, { brush, onchange });
    this.buttons = new Map();
    const row = h("div", { class: "tool-row", role: "group", "aria-label": "Tools" });
    for (const tool of TOOLS) {
      const made = iconButton(tool.name, tool.label, () => this.use(tool.name), { keys: tool.key.toUpperCase(), pressed: tool.name === brush.tool });
      this.buttons.set(tool.name, made);
      row.append(made);
    }
    this.mirror = iconButton("mirror", "Mirror strokes left and right", () => this.toggleMirror(), { keys: "M", pressed: brush.mirror });
    row.append(h("span", { class: "divider", role: "presentation" }), this.mirror);
    this.size = slider("Brush size", {
      min: 0, max: 100, value: toSlider(brush.size), show: (at) => `${(100 * fromSlider(at)).toFixed(fromSlider(at) < 0.02 ? 1 : 0)} %`,
      oninput: (at) => this.#changed({ size: fromSlider(at) }),
    });
    this.swatches = h("div", { class: "swatches" });
    this.element = h("div", { class: "tools" }, row, this.size.element, this.swatches);
  }

  use(tool) {
    this.#changed({ tool });
  }

  toggleMirror() {
    this.#changed({ mirror: !this.brush.mirror });
  }

  /** One step thinner (-1) or thicker (1). */
  resize(step) {
    this.setSize(fromSlider(Math.min(100, Math.max(0, toSlider(this.brush.size) + 5 * step))));
  }

  setSize(size) {
    this.size.put(toSlider(size));
    this.#changed({ size });
  }

  /** Dip the brush in a part, and take it up where another tool was held. */
  choose(value) {
    if (!this.inputs?.has(value)) return;
    this.inputs.get(value).checked = true;
    const tool = ["brush", "fill"].includes(this.brush.tool) ? this.brush.tool : "brush";
    this.#changed({ value, tool });
  }

  /** Number key: the part with that place in the list. */
  chooseAt(place) {
    if (place < (this.parts?.length ?? 0)) this.choose(this.parts[place].value);
  }

  /** parts: [{value, name, colour}]; none for ink. compact: colours alone (clusters have no names worth reading). */
  palette(parts, { compact = false, legend = "Parts" } = {}) {
    this.parts = parts;
    this.inputs = new Map();
    const name = newId("part");
    const list = h("div", { class: compact ? "swatch-grid" : "swatch-list", role: "radiogroup", "aria-label": legend });
    parts.forEach((part, place) => {
      const input = h("input", { type: "radio", name, value: part.value, class: "sr", "aria-label": part.name, checked: part.value === this.brush.value });
      input.addEventListener("change", () => this.choose(part.value));
      this.inputs.set(part.value, input);
      const key = place < 10 ? String((place + 1) % 10) : null;
      list.append(
        h("label", { class: "swatch", title: key ? `${part.name} (${key})` : part.name }, input,
          h("span", { class: "chip", "--colour": part.colour }),
          compact ? null : h("span", { class: "name" }, part.name),
          compact || !key ? null : h("kbd", { "aria-hidden": "true" }, key)),
      );
    });
    this.swatches.replaceChildren(...(parts.length ? [h("h3", { class: "label" }, legend), list] : []));
    if (parts.length && !this.inputs.has(this.brush.value)) this.choose(parts[0].value);
  }

  #changed(change) {
    Object.assign(this.brush, change);
    for (const [tool, made] of this.buttons) made.setAttribute("aria-pressed", String(tool === this.brush.tool));
    this.mirror.setAttribute("aria-pressed", String(this.brush.mirror));
    this.onchange();
  }
}

/** Undo, redo, zoom and clear for a painter, as a row for its heading. */
export function sheetActions(painter) {
  const undo = iconButton("undo", "Undo", () => painter.undo(), { keys: "Ctrl+Z", disabled: true });
  const redo = iconButton("redo", "Redo", () => painter.redo(), { keys: "Ctrl+Shift+Z", disabled: true });
  painter.onhistory = (history) => {
    undo.disabled = !history.canUndo;
    redo.disabled = !history.canRedo;
  };
  return h("div", { class: "actions" }, undo, redo,
    iconButton("minus", "Zoom out", () => painter.zoomBy(1 / 1.5), { keys: "−" }),
    iconButton("fit", "Show all", () => painter.zoomFit()),
    iconButton("plus", "Zoom in", () => painter.zoomBy(1.5), { keys: "+" }),
    iconButton("trash", "Clear the drawing", () => painter.clear()));
}

/** The keys of a painter and its tools; returns whether the key was one of them. */
export function toolKey(event, painter, tools) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") event.shiftKey ? painter.redo() : painter.undo();
    else if (key === "y") painter.redo();
    else return false;
    return true;
  }
  if (event.altKey) return false;
  const tool = TOOLS.find((each) => each.key === key);
  if (tool) tools.use(tool.name);
  else if (key === "m") tools.toggleMirror();
  else if (key === "[") tools.resize(-1);
  else if (key === "]") tools.resize(1);
  else if (key === "+" || key === "=") painter.zoomBy(1.5);
  else if (key === "-") painter.zoomBy(1 / 1.5);
  else if (/^[0-9]$/.test(key) && event.shiftKey === false) tools.chooseAt((Number(key) + 9) % 10);
  else return false;
  return true;
}

