/* The Label workspace: paint the parts of one sample in your own words, train, and draw with them. */

import { address, call, picture } from "./api.js";
import { button, h, slider } from "./dom.js";
import { Classes } from "./classes.js";
import { Job } from "./jobs.js";
import { LookPicker } from "./look.js";
import { Painter, Sheet } from "./painter.js";
import { EMPTY, Plane } from "./plane.js";
import { Tools, sheetActions, toolKey } from "./tools.js";

const SIDE = 256;
const FIRST = 7;
const NAMES = ["background", "skin", "hair", "clothes"];

export async function label(panel, app) {
  const workspace = new Label(app);
  panel.append(workspace.element);
  workspace.begin();
  return workspace;
}

class Label {
  constructor(app) {
    this.app = app;
    this.brush = { tool: "brush", value: 1, size: 0.05, mirror: false };
    this.painter = new Painter("Parts painted over the sample", this.brush, { oncommit: () => this.#painted(), onpick: (value) => value !== EMPTY && this.classes.choose(value) });
    this.tools = new Tools(this.brush, () => this.painter.brushChanged());
    this.classes = new Classes(NAMES, app.info.limits.classes ?? 24, {
      onchange: (kind, at) => this.#classesChanged(kind, at), onchoose: (place) => this.#dip(place),
    });
    this.look = new LookPicker(app, "Choose a sample", { seed: FIRST, psi: app.psi }, (look) => this.#take(look), { photos: false });
    this.sheets = new Map();
    this.opacity = slider("Opacity", { min: 0.1, max: 1, step: 0.05, value: 0.6, show: (at) => `${Math.round(100 * at)} %`, oninput: (at) => this.#opaque(at) });
    this.job = new Job("Learning your parts");
    this.train = button("Train", () => this.#train(), { kind: "primary", icon: "play" });
    this.missing = h("p", { class: "quiet-note", role: "status" });
    this.learnt = h("div", { class: "learnt", hidden: true });
    const side = h("aside", { class: "side-panel", "aria-label": "Tools" }, this.classes.element, this.tools.element, this.opacity.element);
    const board = h("section", { class: "card board", "aria-label": "Sample" },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, "Sample"), sheetActions(this.painter)), this.painter.element);
    const guide = h("section", { class: "card guide", "aria-label": "Training" },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, "Teach it your parts")),
      h("ol", { class: "guide-steps" },
        h("li", {}, "Name the parts you care about, and choose a sample that shows them all."),
        h("li", {}, "Paint a clean patch inside every part. What you leave unpainted costs nothing."),
        h("li", {}, "Train. It takes a few minutes; you can go on drawing meanwhile."),
        h("li", {}, "Draw new pictures with your own parts.")),
      this.missing, this.train, this.job.element, this.learnt);
    this.element = h("div", { class: "workspace labelling" }, side, h("div", { class: "pair" }, board, guide), h("aside", { class: "look-panel", "aria-label": "Sample" }, this.look.element));
  }

  begin() {
    this.#take(this.look.value);
    this.#dip(this.classes.chosen);
  }

  get plane() {
    return this.painter.sheet?.plane;
  }

  /** Paint on another sample; what was painted on one is kept for it. */
  async #take(look) {
    const key = JSON.stringify(look);
    this.wanted = key;
    try {
      const { image } = await call("start", { look });
      const shown = address(image);
      const below = await picture(shown);
      if (this.wanted !== key) return;
      this.look.source.show(shown, { alt: `Sample ${look.seed}` });
      if (!this.sheets.has(key)) this.sheets.set(key, new Sheet(new Plane(SIDE, { colours: this.#colours(), blank: EMPTY }), { below }));
      const sheet = this.sheets.get(key);
      Object.assign(sheet, { opacity: this.opacity.value });
      sheet.plane.colours = this.#colours();
      this.painter.open(sheet);
      this.#painted();
    } catch (error) {
      this.app.fail(error);
    }
  }

  #colours() {
    return this.classes.list.map((each) => each.colour);
  }

  #dip(place) {
    this.tools.use(["brush", "fill"].includes(this.brush.tool) ? this.brush.tool : "brush");
    this.brush.value = place;
  }

  #opaque(share) {
    if (!this.painter.sheet) return;
    this.painter.sheet.opacity = share;
    this.painter.draw();
  }

  #classesChanged(kind, at) {
    if (kind === "removed") {
      for (const { plane, history } of this.sheets.values()) {
        plane.data.forEach((value, place) => {
          if (value === at) plane.data[place] = EMPTY;
          else if (value > at && value !== EMPTY) plane.data[place] = value - 1;
        });
        history.clear(); // its steps speak of other parts
      }
    }
    for (const { plane } of this.sheets.values()) plane.colours = this.#colours();
    if (this.plane) this.painter.refresh();
    this.#painted();
  }

  /** Say what is still missing before training can begin. */
  #painted() {
    const { list } = this.classes;
    const seen = new Set(this.plane?.data);
    const missing = list.filter((_, at) => !seen.has(at)).map((each) => each.name || "a part without a name");
    const names = list.map((each) => each.name);
    const problem = !this.app.info.can_label ? "This pack cannot learn parts of your own." : names.some((name) => !name) ? "Give every part a name."
      : new Set(names).size < names.length ? "Two parts have the same name."
      : missing.length ? `Not painted yet: ${missing.join(", ")}.` : "";
    this.missing.textContent = problem || "Every part is painted: ready to train.";
    this.train.disabled = Boolean(problem) || this.job.running;
  }

  async #train() {
    const png = this.plane.png();
    const { seed, psi } = this.look.value;
    const classes = this.classes.list.map(({ name, colour }) => ({ name, colour }));
    this.train.disabled = true;
    this.classes.lock(true);
    this.learnt.hidden = true;
    try {
      const reply = await this.job.run("label_train", { seed, psi, mask: png.slice(png.indexOf(",") + 1), classes });
      if (reply) this.#done(reply);
    } catch (error) {
      this.app.fail(error);
    } finally {
      this.classes.lock(false);
      this.#painted();
    }
  }

  #done(reply) {
    const name = `Own (${reply.parts.length})`;
    this.learnt.hidden = false;
    this.learnt.replaceChildren(
      h("p", {}, "Learnt. Other samples, with your parts as it now sees them:"),
      h("img", { src: address(reply.learnt), alt: "Samples beside the parts that were learnt", class: "sheet-of-samples" }),
      button("Draw with your parts", async () => {
        const draw = await this.app.open("draw");
        draw.addOwn(reply.condition, name, reply.parts);
      }, { kind: "primary", icon: "brush" }));
    this.app.toast("Your parts are learnt. Draw with them now.");
  }

  key(event) {
    if (/^[0-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.classes.choose((Number(event.key) + 9) % 10);
      return true;
    }
    return this.painter.sheet ? toolKey(event, this.painter, this.tools) : false;
  }
}
