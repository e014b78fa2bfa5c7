/* Parts of one's own: a list of names and colours that can be changed. */

import { h, iconButton } from "./dom.js";

const COLOURS = ["#262a3a", "#ffc98a", "#8b572a", "#4287d6", "#dc3250", "#78c8a0", "#7e963e", "#6842a8", "#f0be32", "#e28c58", "#3aa0a8", "#b0578d", "#5a6b7b", "#a3c34a", "#c97b63", "#2f7f5f", "#9a6fd0", "#d0a05a", "#375a9e", "#b5404a", "#6fb7d8", "#84623c", "#d46fae", "#4f8f3a"];

export class Classes {
  /** names to begin with; onchange(kind): "names", "colours" or "removed" with the place; onchoose(place). */
  constructor(names, most, { onchange, onchoose }) {
    Object.assign(this, { most, onchange, onchoose });
    this.list = names.map((name, at) => ({ name, colour: COLOURS[at] }));
    this.chosen = Math.min(1, names.length - 1);
    this.rows = h("div", { class: "class-rows", role: "group", "aria-label": "Your parts" });
    this.add = h("button", { type: "button", class: "button quiet", onclick: () => this.#add() }, "Add a part");
    this.element = h("div", { class: "classes" }, h("h3", { class: "label" }, "Your parts"), this.rows, this.add);
    this.#draw();
  }

  choose(place) {
    if (place >= this.list.length) return;
    this.chosen = place;
    [...this.rows.children].forEach((row, at) => row.firstElementChild.setAttribute("aria-pressed", String(at === place)));
    this.onchoose(place);
  }

  lock(on) {
    this.element.inert = on;
  }

  #draw() {
    this.rows.replaceChildren(...this.list.map((each, at) => this.#row(each, at)));
    this.add.disabled = this.list.length >= this.most;
  }

  #row(each, at) {
    const pick = h("button", { type: "button", class: "class-pick", "aria-pressed": String(at === this.chosen), "aria-label": `Paint ${each.name}`, title: `Paint this part (${(at + 1) % 10})`, "--colour": each.colour, onclick: () => this.choose(at) });
    const colour = h("input", { type: "color", value: each.colour, "aria-label": `Colour of ${each.name}`, title: "Change the colour" });
    colour.addEventListener("change", () => {
      each.colour = colour.value;
      pick.style.setProperty("--colour", each.colour);
      this.onchange("colours");
    });
    const name = h("input", { type: "text", value: each.name, maxlength: 40, "aria-label": `Name of part ${at + 1}`, spellcheck: "false" });
    name.addEventListener("input", () => {
      each.name = name.value.trim();
      this.onchange("names");
    });
    name.addEventListener("focus", () => this.choose(at));
    const remove = iconButton("close", `Remove ${each.name}`, () => this.#remove(at), { disabled: this.list.length <= 2 });
    return h("div", { class: "class-row" }, pick, name, colour, remove);
  }

  #add() {
    const used = new Set(this.list.map((each) => each.colour));
    this.list.push({ name: `part ${this.list.length + 1}`, colour: COLOURS.find((colour) => !used.has(colour)) ?? COLOURS[0] });
    this.onchange("colours");
    this.#draw();
    this.choose(this.list.length - 1);
    const name = this.rows.lastElementChild.querySelector("input[type=text]");
    name.focus();
    name.select();
  }

  #remove(at) {
    this.list.splice(at, 1);
    this.chosen = Math.min(this.chosen, this.list.length - 1);
    this.onchange("removed", at);
    this.#draw();
    this.choose(this.chosen);
  }
}
