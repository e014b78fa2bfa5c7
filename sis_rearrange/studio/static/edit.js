/* The Edit workspace: a photo, its mask to paint in, and the photo with only that changed. */

import { address, call, download, picture } from "./api.js";
import { button, choices, h, slider } from "./dom.js";
import { PhotoSteps } from "./intake.js";
import { Latest } from "./latest.js";
import { foundFile } from "./looks.js";
import { coloursOf, modeOf, swatches } from "./modes.js";
import { Painter, Sheet } from "./painter.js";
import { Plane } from "./plane.js";
import { Result } from "./result.js";
import { Strip } from "./strip.js";
import { clearErrors } from "./toasts.js";
import { Tools, sheetActions, toolKey } from "./tools.js";

const FACTOR = 256; // pixels of a mask to paint on, about
const FAILED = 0.5; // of a change that shows: below it, say what may help

export function edit(panel, app) {
  const workspace = new Edit(app);
  panel.append(workspace.element);
  return workspace;
}

class Edit {
  constructor(app) {
    this.app = app;
    this.steps = new PhotoSteps(app, (found) => this.open(found));
    this.earlier = h("div", { class: "earlier" });
    this.intro = h("section", { class: "intro", "aria-label": "Choose a photo" },
      h("h2", { class: "intro-title" }, "Change the layout of a picture of your own"),
      h("p", { class: "intro-text" }, "The picture is first found in the generator, which takes a minute or two. Then paint in its mask: bigger ears, other hair, moved eyes. Only what you change changes."),
      this.steps.element, this.earlier);
    this.element = h("div", {}, this.intro);
    app.looks.addEventListener("photos", () => this.#listEarlier());
    this.#listEarlier();
  }

  /** Take a file, as if it had been dropped where one is chosen. */
  take(file) {
    if (this.board) this.#leave();
    return this.steps.take(file);
  }

  /** Edit a photo that was found: see PhotoSteps. */
  async open(found) {
    this.found = found;
    this.kind = found.reply.part_mask && this.app.info.can_edit_parts ? "parts" : "proxy";
    if (!this.board) this.#build();
    const below = await picture(found.original);
    this.sheets = {};
    for (const kind of this.#kinds()) this.sheets[kind] = await this.#sheet(kind, below);
    this.intro.hidden = true;
    this.board.hidden = false;
    this.#facts();
    this.kindRow.hidden = this.#kinds().length < 2;
    this.#use(this.kind);
  }

  #kinds() {
    const { part_mask: parts } = this.found.reply;
    return parts && this.app.info.can_edit_parts ? ["parts", "proxy"] : ["proxy"];
  }

  async #sheet(kind, below) {
    const mask = await picture(address(kind === "parts" ? this.found.reply.part_mask : this.found.reply.proxy_mask));
    const mode = modeOf(kind === "parts" ? "segmentation" : "proxy", this.app.info);
    // a whole multiple, each cell a square: what is not painted must stay the picture's own mask
    const side = mask.width * Math.max(1, Math.round(FACTOR / mask.width));
    const plane = new Plane(kind === "parts" ? side : mask.width, { colours: coloursOf(mode.parts), blank: 0 });
    plane.load(mask, { smooth: false });
    const sheet = new Sheet(plane, { below, opacity: this.opacity?.value ?? 0.6 });
    return Object.assign(sheet, { mode, own: plane.data.slice() });
  }

  #build() {
    const { info } = this.app;
    this.brush = { tool: "brush", value: info.parts.at(-1)?.label ?? 0, size: 0.06, mirror: false };
    this.painter = new Painter("Mask of your photo", this.brush, {
      onstroke: () => this.render(false), oncommit: () => this.render(true), onpick: (value) => this.tools.choose(value),
    });
    this.tools = new Tools(this.brush, () => this.painter.brushChanged());
    this.result = new Result(this.app, {
      title: "Edited photo", before: () => this.found.original, names: ["original", "edited"], empty: "Paint in the mask, and the photo changes here.",
      files: () => this.#files(), full: () => this.#whole(),
    });
    this.shown = h("div", { class: "shown", role: "status" });
    this.latest = new Latest("edit", { show: (reply, tag) => this.#show(reply, tag), fail: (error) => this.app.fail(error), busy: (on) => this.result.busy(on) });
    this.strip = new Strip((state) => this.#back(state));
    this.kindSwitch = choices("What you paint in", [
      { value: "parts", label: "Parts", title: "What the pack's segmenter sees" }, { value: "proxy", label: "Clusters", title: "What the rearranger moves" },
    ], "parts", (kind) => this.#use(kind));
    this.kindRow = h("div", { class: "modes" }, this.kindSwitch.element);
    this.opacity = slider("Opacity", { min: 0, max: 1, step: 0.05, value: 0.6, show: (at) => `${Math.round(100 * at)} %`, oninput: (at) => this.#opaque(at) });
    this.feather = slider("Soft border", { min: 0, max: 4, step: 0.25, value: 1.5, title: "Width of the border in cells of the proxy mask", onchange: () => this.render(true) });
    this.facts = h("div", { class: "facts" });
    const side = h("aside", { class: "side-panel", "aria-label": "Tools" }, this.kindRow, this.tools.element, this.opacity.element, this.feather.element);
    const drawing = h("section", { class: "card", "aria-label": "Mask" },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, "Mask"), this.#actions()), this.painter.element);
    this.board = h("div", { class: "workspace" }, side, h("div", { class: "pair" }, h("div", { class: "board" }, drawing), this.result.element, this.shown),
      h("aside", { class: "look-panel", "aria-label": "Your photo" }, this.facts), h("div", { class: "below" }, this.strip.element));
    this.element.append(this.board);
  }

  #actions() {
    const row = sheetActions(this.painter);
    // clearing a mask means going back to the photo's own
    const clear = row.lastElementChild.cloneNode(true);
    clear.title = "Back to the photo's own mask";
    clear.setAttribute("aria-label", clear.title);
    clear.addEventListener("click", () => this.painter.replace((plane) => plane.data.set(this.sheet.own)));
    row.lastElementChild.replaceWith(clear);
    return row;
  }

  #facts() {
    const { name, image, reply } = this.found;
    const notes = reply.warnings.map((line) => line[0].toUpperCase() + line.slice(1));
    const figure = (source, caption) => h("figure", { class: "fact" }, h("span", { class: "thumb" }, h("img", { src: source, alt: "", class: "picture-in" })), h("figcaption", { class: "quiet-note" }, caption));
    this.facts.replaceChildren(
      h("h2", { class: "panel-title" }, name),
      h("div", { class: "fact-row" }, figure(this.found.original, "your photo"), figure(image, "as the generator shows it"), figure(address(reply.error_map), "red: not found")),
      h("p", { class: "quiet-note" }, `Found to ${reply.psnr.toFixed(1)} dB.`),
      ...notes.map((note) => h("p", { class: "inline-error" }, note)),
      h("div", { class: "button-row" },
        button("Draw with this look", () => this.#draw(), { icon: "brush" }),
        button("Save what was found", () => this.#save(), { icon: "download", kind: "quiet" }),
        button("Another photo", () => this.#leave(), { icon: "photo", kind: "quiet" })));
  }

  get sheet() {
    return this.sheets[this.kind];
  }

  #use(kind) {
    this.#turn(kind);
    this.render(true);
  }

  #turn(kind) {
    this.kind = kind;
    this.kindSwitch.put(kind);
    const { mode } = this.sheet;
    this.tools.palette(swatches(mode.parts), { compact: mode.compact, legend: mode.compact ? "Clusters" : "Parts" });
    this.painter.open(this.sheet);
    this.#opaque(this.opacity.value);
  }

  #opaque(share) {
    this.sheet.opacity = share;
    this.painter.draw();
  }

  render(commit) {
    const { sheet, found, kind } = this;
    if (sheet.plane.data.every((value, at) => value === sheet.own[at])) {
      this.latest.drop();
      this.shown.replaceChildren();
      this.strip.mark(null);
      this.result.say("Paint in the mask, and the photo changes here.");
      return this.result.view.show(found.original, { alt: "Your photo, unchanged" });
    }
    const tag = commit ? { kind, data: sheet.plane.data.slice(), token: found.token, feather: this.feather.value } : null;
    const key = `${found.token} ${kind} ${sheet.version} ${this.feather.value}`;
    return this.latest.ask(() => this.#request(), { urgent: commit, tag, key });
  }

  #request(whole = false) {
    const png = this.#png();
    return { token: this.found.token, mask: png.slice(png.indexOf(",") + 1), kind: this.kind, feather: this.feather.value, whole };
  }

  #png() {
    return this.sheet.plane.png();
  }

  #show(reply, tag) {
    this.result.show(reply, { alt: "Your photo, changed where you painted", name: `${this.found.name.replace(/\.\w+$/, "")}-edited` });
    clearErrors();
    if (!tag) return; // the pen is down: nothing may move on the page
    this.#tellsHowMuch(reply.shows);
    this.strip.add(this.result.picture, tag);
  }

  async #back({ kind, data, token, feather }) {
    if (token !== this.found.token) await this.open(this.app.looks.photos.find((each) => each.token === token).found);
    this.feather.put(feather);
    if (kind !== this.kind) this.#turn(kind);
    this.painter.restore(data);
    this.render(true);
  }

  /** How much of what was painted came to be. */
  #tellsHowMuch(share) {
    this.shown.replaceChildren(
      h("p", { class: "quiet-note" }, `The change shows in ${Math.round(100 * share)} % of what you painted.`),
      ...(share < FAILED ? [h("p", { class: "inline-error" }, "Most of this change does not show; try a larger or simpler change.")] : []));
  }

  async #whole() {
    return address((await call("edit", this.#request(true))).image);
  }

  #files() {
    const { name, photo, token } = this.found;
    return [
      { name, what: "your photo", get: () => photo }, { name: "mask.png", what: "the mask you painted", get: () => this.#png() },
      ...this.app.looks.files({ picture: token }),
    ];
  }

  async #save() {
    try {
      const { name, data } = await foundFile(this.found.token);
      download(data, name);
    } catch (error) {
      this.app.fail(error);
    }
  }

  async #draw() {
    const draw = await this.app.open("draw");
    draw.look.choose({ picture: this.found.token });
  }

  #leave() {
    this.board.hidden = true;
    this.intro.hidden = false;
    this.#listEarlier();
  }

  #listEarlier() {
    const { photos } = this.app.looks;
    this.earlier.replaceChildren(...(photos.length ? [h("h3", { class: "label" }, "Photos found before"), h("div", { class: "gallery" }, ...photos.map((photo) => {
      const made = h("button", { type: "button", class: "thumb", "aria-label": `Edit ${photo.name}`, title: photo.name }, h("img", { src: photo.thumb, alt: "" }));
      made.addEventListener("click", () => this.open(photo.found));
      return made;
    }))] : []));
  }

  key(event) {
    if (!this.board || this.board.hidden) return false;
    if (event.key.toLowerCase() === "c" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.result.compare.toggle();
      return true;
    }
    return toolKey(event, this.painter, this.tools);
  }
}

