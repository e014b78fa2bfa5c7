/* A drawing that is not drawn: the layout of a sample by seed, or a picture that was dropped in. */

import { address, base64, call } from "./api.js";
import { CellView } from "./cells.js";
import { h, iconButton, newId } from "./dom.js";
import { checkFile, fileButton } from "./files.js";

export class Well {
  /** onchange() after each choice. */
  constructor(app, onchange) {
    Object.assign(this, { app, onchange });
    this.value = { seed: 11 };
    this.view = new CellView("The picture whose layout is taken", { empty: "Choose a sample or drop a picture." });
    this.seed = h("input", { type: "number", id: newId("layout"), min: 0, step: 1, value: 11, inputmode: "numeric" });
    this.seed.addEventListener("change", () => this.#put({ seed: Math.max(0, Math.floor(Number(this.seed.value) || 0)) }));
    this.chooser = h("span", { class: "seed-row chooser" }, h("label", { for: this.seed.id }, "Sample"), this.seed,
      iconButton("dice", "A sample by chance", () => this.#put({ seed: Math.floor(Math.random() * 1e6) })));
    this.samples = true;
    this.element = h("div", { class: "well", hidden: true }, this.view.element,
      h("div", { class: "seed-row" }, this.chooser,
        fileButton("A picture", (file) => this.file(file), { kind: "quiet" })));
    this.shown = null;
  }

  /** Whether a sample may give the layout; otherwise only a picture may. */
  takes(samples) {
    this.samples = samples;
    this.chooser.hidden = !samples;
    this.view.show(this.drawing() === null ? null : this.shown || null);
  }

  /** What `render` takes as the drawing; null where nothing was chosen. */
  drawing() {
    const { data } = this.value;
    if ((data === undefined) !== this.samples) return null;
    if (this.shown === null) this.#preview();
    return data ?? this.value;
  }

  state() {
    return { value: this.value, shown: this.shown || null }; // one that is on its way is asked for again
  }

  put({ value, shown }) {
    Object.assign(this, { value, shown });
    if (value.seed !== undefined) this.seed.value = value.seed;
    this.view.show(shown, { alt: "The picture whose layout is taken" });
  }

  /** A file: taken as it is, or, where its layout is wanted, as soon as it is found in the generator. */
  async file(file) {
    if (this.samples) return this.#find(file);
    try {
      const { address: shown } = await checkFile(file, this.app.info.limits);
      return this.#put({ data: await base64(file) }, shown);
    } catch (error) {
      return this.app.fail(error);
    }
  }

  #find(file) {
    const { looks, photo } = this.app;
    photo.open((token) => this.#put({ picture: token }, looks.photos.find((each) => each.token === token).thumb));
    return photo.steps.take(file);
  }

  #put(value, shown = null) {
    this.put({ value, shown });
    this.onchange();
  }

  async #preview() {
    const { value } = this;
    if (value.seed === undefined) return;
    this.shown = "";
    try {
      const { looks } = await call("gallery", { first_seed: value.seed, count: 1, psi: this.app.psi });
      if (this.value === value) this.put({ value, shown: address(looks[0].image) });
    } catch (error) {
      this.app.fail(error);
    }
  }
}

