/* The keys of the open tab, in a dialog. */

import { h, iconButton } from "./dom.js";

const PAINTED = ["draw", "edit", "label"];
const ALL = [...PAINTED, "mix"];
const KEYS = [
  [PAINTED, "B  E  G  I  V", "brush, eraser, fill, pick a part, move the view"],
  [PAINTED, "1 … 9, 0", "part by its place in the list"],
  [PAINTED, "[  ]", "thinner, thicker brush"],
  [PAINTED, "M", "mirror strokes left and right"],
  [PAINTED, "Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  [PAINTED, "+  −, Ctrl+wheel, two fingers", "zoom"],
  [PAINTED, "Alt+click", "pick the part under the pointer"],
  [["draw"], "R", "a look by chance"],
  [["draw", "edit", "mix"], "C", "before and after"],
  [ALL, "?", "this list"],
  [PAINTED, "Arrows, space, Enter", "in the drawing: move, pen down or up, one dab"],
  [["draw"], "Arrows", "in a picture: where did this region come from?"],
];

/** A button that opens the list of the keys that a tab has, tab() being its name; `open()` opens it too. */
export function helpButton(tab) {
  const list = h("dl", { class: "keys" });
  const dialog = h("dialog", { class: "dialog", "aria-label": "Keys" },
    h("div", { class: "dialog-head" }, h("h2", {}, "Keys"), iconButton("close", "Close", () => dialog.close())), list);
  const open = () => {
    const name = tab();
    list.replaceChildren(...KEYS.filter(([tabs]) => tabs.includes(name)).flatMap(([, keys, what]) => [h("dt", {}, keys), h("dd", {}, what)]));
    dialog.showModal();
  };
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  return { button: iconButton("help", "Keys", open, { keys: "?" }), open };
}
