/* Several pictures from one drawing: what the drawing leaves open, drawn at random. */

import { address, call } from "./api.js";
import { button, h, slider } from "./dom.js";

const COUNT = 8;

export class Variations {
  /** ask() gives the render request of the present drawing, or null; onpick(alternative) where one is clicked. */
  constructor(app, ask, onpick) {
    Object.assign(this, { app, ask, onpick });
    this.seed = 0;
    this.running = false;
    this.off = true;
    this.number = 0; // of what was asked; a stroke makes it worthless
    this.count = Math.min(COUNT, app.info.limits.samples ?? COUNT);
    this.bold = slider("Boldness", { min: 0, max: 3, step: 0.1, value: 1, show: (at) => at.toFixed(1) });
    this.go = button("Show variations", () => this.run(), { icon: "grid", disabled: true });
    this.grid = h("div", { class: "variation-grid", hidden: true, role: "group", "aria-label": "Variations" });
    this.element = h("section", { class: "variations card", "aria-label": "Variations of this drawing" },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, "Variations"), this.bold.element, this.go), this.grid);
  }

  /** Whether there is a drawing to vary. */
  able(on) {
    this.off = !on;
    this.go.disabled = this.off || this.running;
  }

  async run() {
    this.running = this.go.disabled = true;
    this.grid.hidden = false;
    this.grid.replaceChildren(...Array.from({ length: this.count }, () => h("span", { class: "thumb waiting" })));
    try {
      const mine = (this.number += 1);
      const variation = { samples: this.count, temperature: this.bold.value, layout_seed: this.seed };
      const reply = await call("render", { ...this.ask(), ...variation }, { number: mine, lane: "-variations" });
      if (reply.stale || mine !== this.number) return;
      this.#show([reply, ...reply.alternatives]);
      this.seed += 1;
    } catch (error) {
      this.clear();
      this.app.fail(error);
    } finally {
      this.running = false;
      this.go.disabled = this.off;
    }
  }

  clear() {
    this.number += 1;
    this.grid.hidden = true;
    this.grid.replaceChildren();
  }

  #show(found) {
    this.grid.replaceChildren(...found.map((each, at) => {
      const name = at ? `Variation ${at + 1}` : "The likeliest";
      const made = h("button", { type: "button", class: "thumb", "aria-label": name, title: `${name}: click to take its layout on as a drawing of clusters` }, h("img", { src: address(each.image), alt: "" }));
      made.addEventListener("click", () => this.onpick(each, name));
      return made;
    }));
  }
}
