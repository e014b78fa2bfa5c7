/* The Mix workspace: two looks in one picture, in four ways. */

import { address, call } from "./api.js";
import { button, choices, h, slider } from "./dom.js";
import { Job } from "./jobs.js";
import { Latest } from "./latest.js";
import { LookPicker } from "./look.js";
import { nameOf, same } from "./looks.js";
import { Result } from "./result.js";
import { Strip } from "./strip.js";
import { clearErrors } from "./toasts.js";

const FIRST = { a: 11, b: 6 };
const WAYS = {
  rearrange: { label: "Rearrange", note: "The layout of A, painted with the features of B." },
  parts: { label: "Parts", note: "A as it is, with some of its parts in the look of B." },
  layers: { label: "Layers", note: "Coarse layers of A, fine layers of B: StyleGAN's style mixing." },
  morph: { label: "Morph", note: "From the layout of A to that of B, as a short film in the look of A." },
};

export async function mix(panel, app) {
  const workspace = new Mix(app);
  panel.append(workspace.element);
  workspace.begin();
  return workspace;
}

class Mix {
  constructor(app) {
    this.app = app;
    const { info } = app;
    this.a = new LookPicker(app, "A", { seed: FIRST.a, psi: app.psi }, () => this.#looksChanged());
    this.b = new LookPicker(app, "B", { seed: FIRST.b, psi: app.psi }, () => this.#looksChanged());
    this.way = "rearrange";
    this.result = new Result(app, { before: () => this.a.shown, names: ["A", "mixed"], files: () => app.looks.files(this.a.value, this.b.value), empty: "The mixed picture appears here." });
    this.mixing = new Latest("mix", this.#handlers());
    this.transfer = new Latest("transfer", this.#handlers());
    this.strip = new Strip((state) => this.#restore(state), { empty: "Pictures you mix appear here." });
    const ways = Object.keys(WAYS).filter((way) => way !== "parts" || (info.can_transfer && info.parts.length));
    this.switch = choices("How to mix", ways.map((value) => ({ value, label: WAYS[value].label, title: WAYS[value].note })), this.way, (way) => this.use(way));
    this.note = h("p", { class: "quiet-note" }, WAYS[this.way].note);
    this.layer = slider("B from layer", { min: 1, max: info.num_ws - 1, value: Math.ceil(info.num_ws / 2), oninput: () => this.render(false), onchange: () => this.render(true) });
    this.parts = this.#partList(info.parts.filter((part) => part.label > 0));
    this.morph = this.#morphPanel();
    this.options = { rearrange: null, layers: this.layer.element, parts: this.parts.element, morph: this.morph };
    const swap = button("Swap A and B", () => this.swap(), { icon: "swap", kind: "quiet" });
    const middle = h("div", { class: "mix-middle" }, h("div", { class: "modes" }, this.switch.element), this.note, ...Object.values(this.options).filter(Boolean), this.result.element,
      h("div", { class: "button-row" }, swap, button("Draw with this layout", () => this.#drawLayout(), { icon: "brush", kind: "quiet" })), this.strip.element);
    this.element = h("div", { class: "workspace mix" }, h("aside", { class: "look-panel", "aria-label": "Look A" }, this.a.element), middle, h("aside", { class: "look-panel", "aria-label": "Look B" }, this.b.element));
    this.#showOptions();
  }

  begin() {
    this.#looksChanged();
  }

  #handlers() {
    return {
      show: (reply, tag) => this.#show(reply, tag),
      fail: (error) => { this.app.fail(error); if (!this.result.reply) this.result.say(error.message); },
      busy: (on) => this.result.busy(on),
    };
  }

  #partList(parts) {
    const chosen = new Set(parts.slice(-1).map((part) => part.name));
    const inputs = new Map();
    const list = h("div", { class: "check-list", role: "group", "aria-label": "Parts taken from B" }, ...parts.map((part) => {
      const input = h("input", { type: "checkbox", class: "sr", checked: chosen.has(part.name) });
      input.addEventListener("change", () => {
        if (input.checked) chosen.add(part.name);
        else chosen.delete(part.name);
        this.render(true);
      });
      inputs.set(part.name, input);
      return h("label", { class: "check" }, input, h("span", {}, h("span", { class: "chip", "--colour": part.colour }), part.name.replaceAll("_", " ")));
    }));
    const put = (names) => {
      chosen.clear();
      for (const name of names) chosen.add(name);
      for (const [name, input] of inputs) input.checked = chosen.has(name);
    };
    return { element: list, chosen, put };
  }

  #morphPanel() {
    this.frames = slider("Frames", { min: 4, max: this.app.info.limits.frames ?? 60, value: 24 });
    this.through = "masks";
    this.throughSwitch = choices("What is interpolated", [
      { value: "masks", label: "Outlines", title: "The borders of the clusters move" }, { value: "latents", label: "Samples", title: "Each step is the layout of a sample in between" },
    ], this.through, (value) => (this.through = value));
    this.job = new Job("Making the film");
    return h("div", { class: "morph" }, this.throughSwitch.element, this.frames.element, button("Make the film", () => this.#morph(), { icon: "play", kind: "primary" }), this.job.element);
  }

  use(way) {
    this.#turn(way);
    this.render(true);
  }

  #turn(way) {
    this.way = way;
    this.switch.put(way);
    this.note.textContent = WAYS[way].note;
    this.#showOptions();
  }

  #showOptions() {
    for (const [way, element] of Object.entries(this.options)) if (element) element.hidden = way !== this.way;
  }

  swap() {
    const [a, b] = [this.a.value, this.b.value];
    this.a.put(b);
    this.b.put(a);
    this.#looksChanged();
  }

  #looksChanged() {
    for (const picker of [this.a, this.b]) this.#preview(picker);
    this.render(true);
  }

  async #preview(picker) {
    const { value } = picker;
    if (picker.previewed === value) return;
    picker.previewed = value;
    try {
      const { image } = await call("start", { look: value });
      if (picker.previewed !== value) return;
      picker.shown = address(image);
      picker.source.show(picker.shown, { alt: nameOf(value, this.app.looks.photos) });
      this.result.compare.refresh();
    } catch (error) {
      this.app.fail(error);
    }
  }

  render(commit) {
    const [a, b] = [this.a.value, this.b.value];
    const tag = commit ? this.#state() : null;
    const options = { urgent: commit, tag };
    if (this.way === "rearrange") return this.mixing.ask(() => ({ structure: a, look: b }), options);
    if (this.way === "layers") return this.mixing.ask(() => ({ structure: a, look: b, layer: this.layer.value }), options);
    if (this.way === "morph") return this.#showFilm();
    if (!this.parts.chosen.size) {
      this.transfer.drop();
      this.strip.mark(null);
      return this.result.say("Choose at least one part.");
    }
    return this.transfer.ask(() => ({ base: a, donor: b, parts: [...this.parts.chosen] }), options);
  }

  #state() {
    return { a: this.a.value, b: this.b.value, way: this.way, layer: this.layer.value, parts: [...this.parts.chosen], through: this.through, frames: this.frames.value };
  }

  #show(reply, tag) {
    if (tag && tag.way !== this.way) return;
    this.result.show(reply, { alt: `Mixed: ${WAYS[this.way].note}`, name: `${this.app.info.pack}-mixed` });
    clearErrors();
    if (tag) this.strip.add(this.result.picture, tag);
  }

  async #morph() {
    if (this.job.running) return;
    const state = this.#state();
    const { a: first, b: second, through, frames } = state;
    try {
      const reply = await this.job.run("morph", { first, second, through, frames });
      if (!reply) return;
      this.film = { ...state, reply };
      this.strip.add(address(reply.gif, "gif"), this.film, { current: false });
      if (this.way === "morph" && this.#hasFilm) this.#showFilm();
      else this.app.toast("The film is made: see the history.");
    } catch (error) {
      this.app.fail(error);
    }
  }

  /** Whether the last film is one of the present A and B. */
  get #hasFilm() {
    return Boolean(this.film) && same(this.film.a, this.a.value) && same(this.film.b, this.b.value);
  }

  #showFilm() {
    this.mixing.drop();
    this.transfer.drop();
    if (!this.#hasFilm) {
      this.strip.mark(null);
      return this.result.say("Press Make the film; it takes a few seconds.");
    }
    this.result.show(this.film.reply, { alt: "A film from the layout of A to that of B", name: `${this.app.info.pack}-morph` });
    return this.strip.add(this.result.picture, this.film);
  }

  #restore(state) {
    const { a, b, way, layer, parts, through, frames } = state;
    if (state.reply) this.film = state;
    this.a.put(a);
    this.b.put(b);
    this.layer.put(layer);
    this.parts.put(parts);
    this.frames.put(frames);
    this.through = through;
    this.throughSwitch.put(through);
    this.#turn(way);
    this.#looksChanged();
  }

  async #drawLayout() {
    const [layout, look] = [this.a.value, this.b.value];
    const draw = await this.app.open("draw");
    draw.look.put(look);
    draw.startFrom(layout);
  }

  key(event) {
    if (event.key.toLowerCase() !== "c" || event.ctrlKey || event.metaKey || event.altKey) return false;
    this.result.compare.toggle();
    return true;
  }
}
