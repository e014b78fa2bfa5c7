/* The keys, in a dialog. */

import { h, iconButton } from "./dom.js";

const KEYS = [
  ["B  E  G  I  V", "brush, eraser, fill, pick a part, move the view"],
  ["1 … 9, 0", "part by its place in the list"],
  ["[  ]", "thinner, thicker brush"],
  ["M", "mirror strokes left and right"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["+  −, Ctrl+wheel, two fingers", "zoom"],
  ["Alt+click", "pick the part under the pointer"],
  ["R", "a look by chance"],
  ["C", "before and after"],
  ["?", "this list"],
  ["Arrows, space, Enter", "in the drawing: move, pen down or up, one dab"],
  ["Arrows", "in a picture: where did this region come from?"],
];

/** A button that opens the list; `open()` opens it too. */
export function helpButton() {
  const dialog = h("dialog", { class: "dialog", "aria-label": "Keys" },
    h("div", { class: "dialog-head" }, h("h2", {}, "Keys"), iconButton("close", "Close", () => dialog.close())),
    h("dl", { class: "keys" }, ...KEYS.flatMap(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)])));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  return { button: iconButton("help", "Keys", () => dialog.showModal(), { keys: "?" }), open: () => dialog.showModal() };
}
