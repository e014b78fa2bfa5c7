/* Choosing a look: by number, by chance, from a page of samples, or a photo of one's own. */

import { CellView } from "./cells.js";
import { button, h, iconButton, newId, slider } from "./dom.js";
import { PAGE, same } from "./looks.js";

const SEEDS = 1_000_000; // the dice stay below it

export class LookPicker {
  /** app: {looks, info, fail, intake(then)}; onchange(look) after each choice; value: {seed, psi} or {picture}. */
  constructor(app, title, value, onchange, { photos = true } = {}) {
    Object.assign(this, { app, onchange, value, photos });
    this.first = Math.floor((value.seed ?? 0) / PAGE) * PAGE;
    this.psi = value.psi ?? app.psi;
    this.source = new CellView(`${title}: its own picture`, { empty: "Choosing…" });
    this.seed = h("input", { type: "number", id: newId("seed"), min: 0, step: 1, value: value.seed ?? 0, inputmode: "numeric" });
    this.seed.addEventListener("change", () => this.#typed());
    const step = (by) => this.choose({ seed: Math.max(0, Math.min(2 ** 53 - 1, (this.value.seed ?? this.first) + by)), psi: this.psi });
    const row = h("div", { class: "seed-row" }, h("label", { for: this.seed.id }, "Seed"), this.seed,
      iconButton("left", "Previous look", () => step(-1)), iconButton("right", "Next look", () => step(1)),
      iconButton("dice", "A look by chance", () => this.random()));
    this.psiSlider = slider("Variety", {
      min: 0, max: 1.3, step: 0.05, value: this.psi, show: (at) => at.toFixed(2), title: "Truncation psi: 0 is the average picture, 1 the full variety",
      onchange: (psi) => this.#vary(psi),
    });
    this.grid = h("div", { class: "gallery", role: "group", "aria-label": `${title}: samples and photos` });
    this.range = h("span", { class: "quiet-note" });
    const pages = h("div", { class: "gallery-foot" },
      iconButton("left", "Earlier samples", () => this.#turn(-PAGE)), this.range, iconButton("right", "Later samples", () => this.#turn(PAGE)),
      !photos ? null : button("Use a photo", () => app.intake((token) => this.choose({ picture: token })), { icon: "photo", kind: "quiet" }));
    this.element = h("section", { class: "look", "aria-label": title },
      h("h2", { class: "panel-title" }, title), this.source.element, h("div", { class: "look-choice" }, row, this.psiSlider.element, this.grid, pages));
    app.looks.addEventListener("photos", () => this.#list());
    this.#reserve();
    this.#list();
  }

  /** Take a look, as if it had been clicked. */
  choose(look) {
    this.put(look);
    this.onchange(look);
  }

  /** Take a look without telling anybody. */
  put(look) {
    this.value = look;
    if (look.seed !== undefined) {
      this.seed.value = look.seed;
      if (look.psi !== undefined && look.psi !== this.psi) this.psiSlider.put((this.psi = look.psi));
      const first = Math.floor(look.seed / PAGE) * PAGE;
      if (first !== this.first) {
        this.first = first;
        this.#list();
      }
    }
    this.#mark();
  }

  random() {
    this.choose({ seed: Math.floor(Math.random() * SEEDS), psi: this.psi });
  }

  #typed() {
    const seed = Math.min(2 ** 53 - 1, Math.max(0, Math.floor(Number(this.seed.value) || 0)));
    this.choose({ seed, psi: this.psi });
  }

  #vary(psi) {
    this.psi = psi;
    this.#list();
    if (this.value.seed !== undefined) this.choose({ seed: this.value.seed, psi });
  }

  #turn(by) {
    this.first = Math.max(0, this.first + by);
    this.#list();
  }

  /** Places of the right size from the start, so that nothing moves when the pictures come. */
  #reserve() {
    this.grid.replaceChildren(...Array.from({ length: PAGE }, () => h("span", { class: "thumb waiting" })));
  }

  async #list() {
    const first = this.first;
    const asked = (this.asked = {});
    this.range.textContent = `${first}–${first + PAGE - 1}`;
    try {
      const page = await this.app.looks.page(first, this.psi);
      if (this.asked !== asked) return;
      const photos = (this.photos ? this.app.looks.photos : []).map((photo) => this.#thumb({ picture: photo.token }, photo.thumb, photo.name));
      this.grid.replaceChildren(...photos, ...page.map(({ seed, image }) => this.#thumb({ seed, psi: this.psi }, image, `seed ${seed}`)));
      this.#mark();
    } catch (error) {
      if (this.asked === asked) this.app.fail(error);
    }
  }

  #thumb(look, image, name) {
    const made = h("button", { type: "button", class: look.picture ? "thumb photo" : "thumb", title: name, "aria-label": `Look: ${name}` }, h("img", { src: image, alt: "" }));
    made.look = look;
    made.addEventListener("click", () => this.choose(look));
    return made;
  }

  #mark() {
    for (const each of this.grid.children) if (each.look) each.setAttribute("aria-pressed", String(same(each.look, this.value)));
  }
}
