/* The Draw workspace: a drawing, a look, and the picture they make. */

import { address, call, picture } from "./api.js";
import { announce, button, choices, h } from "./dom.js";
import { checkFile, dropZone, fileButton } from "./files.js";
import { Latest } from "./latest.js";
import { Links } from "./links.js";
import { LookPicker } from "./look.js";
import { nameOf } from "./looks.js";
import { modeOf, modesOf, planeOf, swatches } from "./modes.js";
import { Painter, Sheet } from "./painter.js";
import { decodeRender } from "./reading.js";
import { Result } from "./result.js";
import { Strip } from "./strip.js";
import { clearErrors } from "./toasts.js";
import { Tools, sheetActions, toolKey } from "./tools.js";
import { Variations } from "./variations.js";
import { Well } from "./well.js";

const FIRST_STEP = { ink: "Draw some lines", index: "Paint a few strokes", well: "Drop in a picture" };
const REFINED = ["segmentation", "scribble"]; // they say which part is where, so the picture can be held against them
const REFINE_STEPS = 6;
const TO_THE_LETTER = ["proxy", "exemplar"]; // they leave nothing open: no variations, no doubt
const FIRST = { look: 6, layout: 11 }; // what the page opens with

export async function draw(panel, app) {
  const workspace = new Draw(app);
  panel.append(workspace.element);
  app.draw = workspace;
  await workspace.begin();
  return workspace;
}

class Draw {
  constructor(app) {
    this.app = app;
    this.modes = modesOf(app.info);
    this.sheets = new Map();
    this.isCloser = false;
    this.brush = { tool: "brush", value: app.info.parts.at(-1)?.label ?? 0, size: 0.06, mirror: false };
    this.painter = new Painter("Your drawing", this.brush, {
      onstroke: () => this.render(false), oncommit: () => this.render(true), onpick: (value) => this.tools.choose(value),
    });
    this.tools = new Tools(this.brush, () => this.#brushChanged());
    this.well = new Well(app, () => this.render(true));
    this.result = new Result(app, { before: () => this.sourceImage, names: ["look", "picture"], files: () => this.#files(), empty: "The picture appears here." });
    this.look = new LookPicker(app, "Look", { seed: FIRST.look, psi: app.psi }, () => this.render(true));
    this.links = new Links(this.result.view, this.look.source, app.info.resolution);
    this.result.onprobe = (cell, spoken) => this.links.probe(cell, spoken);
    this.strip = new Strip((state) => this.#restore(state));
    this.variations = new Variations(app, () => this.request(), (each) => this.#takeLayout(each));
    this.latest = new Latest("render", { show: (reply, tag) => this.#show(reply, tag), fail: (error) => this.#failed(error), busy: (on) => this.result.busy(on) });
    this.#layout();
    dropZone(this.board, (file) => this.#open(file));
  }

  #layout() {
    this.modeRow = h("div", { class: "modes" });
    this.#listModes();
    this.note = h("p", { class: "quiet-note mode-note" });
    this.start = h("div", { class: "button-row" },
      button("From the look", () => this.startFrom(this.look.value), { kind: "quiet", title: "Begin with the look's own layout" }),
      button("By chance", () => this.startFrom({ seed: Math.floor(Math.random() * 1e6), psi: this.look.psi }), { kind: "quiet", title: "Begin with the layout of another sample" }),
      fileButton("Open a file", (file) => this.#open(file), { kind: "quiet" }));
    this.closer = button("Closer fit", () => this.#setCloser(!this.isCloser), { kind: "quiet", "aria-pressed": "false", title: "After each stroke, correct what the picture shows in the wrong place; takes about half a second" });
    const side = h("aside", { class: "side-panel", "aria-label": "Tools" }, this.modeRow, this.note, this.tools.element, h("div", { class: "button-row" }, this.closer),
      h("div", { class: "start" }, h("h3", { class: "label" }, "Start a drawing"), this.start));
    this.actions = sheetActions(this.painter);
    this.board = h("section", { class: "card board", "aria-label": "Drawing" },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, "Drawing"), this.actions), this.painter.element, this.well.element);
    const lookSide = h("aside", { class: "look-panel", "aria-label": "Look" }, this.look.element);
    this.element = h("div", { class: "workspace draw" }, side,
      h("div", { class: "pair" }, this.board, this.result.element), lookSide,
      h("div", { class: "below" }, this.links.element, this.variations.element, this.strip.element));
  }

  #listModes() {
    this.switch = choices("What you draw", this.modes.map((mode) => ({ value: mode.name, label: mode.label, title: mode.title })), this.mode?.name, (name) => this.use(name));
    this.modeRow.replaceChildren(this.switch.element);
  }

  async begin() {
    const first = this.modes[0];
    this.#openMode(first);
    if (first.kind !== "well") await this.startFrom({ seed: FIRST.layout, psi: this.look.psi }, { keep: false }).catch((error) => this.app.fail(error));
    else this.render(true);
  }

  /** Draw with parts of one's own, once a mapper has learnt them: condition is its token. */
  addOwn(condition, label, parts) {
    this.modes = [...this.modes.filter((mode) => mode.name !== condition), modeOf(condition, this.app.info, { label, parts })];
    this.#listModes();
    this.use(condition);
  }

  use(name) {
    this.#openMode(this.modes.find((mode) => mode.name === name));
    if ((this.mode.own || this.mode.name === "proxy") && this.sheet.plane.isBlank) this.startFrom(this.look.value);
    else this.render(true);
  }

  #openMode(mode) {
    if (this.mode) Object.assign(this.mode, { size: this.brush.size, value: this.brush.value });
    this.mode = mode;
    this.switch.put(mode.name);
    this.note.textContent = mode.title;
    const painted = mode.kind !== "well";
    this.closer.parentElement.hidden = !this.#canRefine;
    this.painter.element.hidden = this.actions.hidden = this.tools.element.hidden = this.start.parentElement.hidden = !painted;
    this.well.element.hidden = painted;
    this.variations.clear();
    this.variations.element.hidden = TO_THE_LETTER.includes(mode.name);
    if (!painted) return this.well.takes(mode.name === "exemplar");
    if (!this.sheets.has(mode.name)) this.sheets.set(mode.name, new Sheet(planeOf(mode)));
    this.brush.value = mode.value ?? (mode.kind === "ink" ? 0 : mode.parts.at(-1).label);
    this.tools.palette(swatches(mode.parts), { compact: mode.compact, legend: mode.compact ? "Clusters" : "Parts" });
    this.tools.setSize(mode.size ?? mode.brush);
    this.sheet = this.sheets.get(mode.name);
    this.painter.open(this.sheet);
  }

  #brushChanged() {
    this.painter.brushChanged();
  }

  // ------------------------------------------------------------ asking for pictures

  /** Whether the picture can be held against the parts that were painted. */
  get #canRefine() {
    return this.app.info.can_edit_parts && REFINED.includes(this.mode.name);
  }

  #setCloser(on) {
    this.isCloser = on;
    this.closer.setAttribute("aria-pressed", String(on));
    this.render(true);
  }

  /** The render request of what is drawn, or null where there is nothing to render; strokes under way are not refined. */
  request({ whole = true } = {}) {
    if (this.#isEmpty()) return null;
    const drawing = this.mode.kind === "well" ? this.well.drawing() : this.#encoded();
    const refine = whole && this.isCloser && this.#canRefine ? REFINE_STEPS : 0;
    return { look: this.look.value, condition: this.mode.name, drawing, refine };
  }

  #isEmpty() {
    return this.mode.kind === "well" ? this.well.drawing() === null : this.mode.name !== "proxy" && this.sheet.plane.isBlank;
  }

  #encoded() {
    const png = this.sheet.plane.png();
    return png.slice(png.indexOf(",") + 1);
  }

  render(commit) {
    if (this.#isEmpty()) {
      this.latest.drop();
      this.links.clear();
      this.#showLook();
      this.strip.mark(null);
      this.variations.clear();
      this.variations.able(false);
      return this.result.say(`${FIRST_STEP[this.mode.kind]}, and the picture appears here.`);
    }
    const tag = commit ? this.#state() : null;
    const key = this.mode.kind === "well" ? null : `${this.mode.name} ${JSON.stringify(this.look.value)} ${this.sheet.version} ${commit && this.isCloser}`;
    this.latest.ask(() => this.request({ whole: commit }), { urgent: commit, tag, key });
    if (commit) this.variations.clear();
  }

  #show(reply, tag) {
    this.result.show(reply, { name: `${this.app.info.pack}-${nameOf(this.look.value, this.app.looks.photos).replaceAll(/[^\w-]+/g, "-")}`, alt: "The picture made of your drawing" });
    this.sourceImage = address(reply.source_image);
    this.look.source.show(this.sourceImage, { alt: `The look: ${nameOf(this.look.value, this.app.looks.photos)}` });
    this.result.compare.refresh();
    this.variations.able(true);
    this.#link(reply);
    for (const line of reply.warnings ?? []) this.app.toast(line);
    clearErrors();
    if (!tag) return;
    this.strip.add(this.result.picture, tag);
    this.onshown?.(reply);
  }

  async #link(reply) {
    const decoded = await decodeRender(reply, this.app.info);
    if (this.result.reply !== reply) return;
    this.links.show(decoded);
    if (TO_THE_LETTER.includes(this.mode.name)) this.links.sure.say("Taken as it is");
  }

  /** The look's own picture, while there is nothing to paint in it. */
  async #showLook() {
    const wanted = this.look.value;
    try {
      const { image } = await call("start", { look: wanted });
      if (this.look.value === wanted) this.look.source.show((this.sourceImage = address(image)), { alt: "The look" });
    } catch (error) {
      this.app.fail(error);
    }
  }

  #failed(error) {
    this.app.fail(error);
    if (!this.result.reply) this.result.say(error.message);
  }

  // ------------------------------------------------------------ where drawings come from

  async startFrom(look, { keep = true } = {}) {
    const { mode, sheet } = this;
    try {
      const reply = await call("start", mode.own ? { look, condition: mode.name } : { look });
      const masks = { proxy: reply.proxy_mask, segmentation: reply.part_mask };
      const found = mode.own ? reply.part_mask ?? reply.drawings.segmentation : masks[mode.name] ?? reply.drawings[mode.name];
      if (!found) return this.app.toast("There is no example drawing for this mode.");
      const image = await picture(address(found));
      if (this.sheet !== sheet) return undefined;
      if (keep) return this.painter.replace((plane) => plane.load(image));
      sheet.plane.load(image);
      this.painter.refresh();
      return this.render(true);
    } catch (error) {
      return this.app.fail(error);
    }
  }

  async #open(file) {
    if (this.mode.kind === "well") return this.well.file(file);
    try {
      const { image } = await checkFile(file, this.app.info.limits);
      if (this.sheet.plane.isStrange(image)) return this.#refuse(file);
      this.painter.replace((plane) => plane.load(image));
      return announce("File opened");
    } catch (error) {
      return this.app.fail(error);
    }
  }

  #refuse(file) {
    const edit = async () => (await this.app.open("edit")).take(file);
    this.app.toast(`${file.name} looks like a photo: few of its colours are those of the parts.`, "error", { label: "Edit it as a photo", act: edit });
  }

  #takeLayout(each) {
    const image = address(each.image);
    const proxy = this.modes.find((mode) => mode.name === "proxy");
    if (!proxy || !each.proxy_mask) return this.result.show(each);
    this.#openMode(proxy);
    return picture(address(each.proxy_mask)).then((mask) => this.painter.replace((plane) => plane.load(mask)), () => this.result.view.show(image));
  }

  // ------------------------------------------------------------ going back

  #state() {
    const data = this.mode.kind === "well" ? this.well.state() : this.sheet.plane.data.slice();
    return { mode: this.mode.name, look: this.look.value, data, closer: this.isCloser };
  }

  #restore({ mode, look, data, closer }) {
    this.look.put(look);
    this.isCloser = closer;
    this.closer.setAttribute("aria-pressed", String(closer));
    this.#openMode(this.modes.find((each) => each.name === mode));
    if (this.mode.kind === "well") this.well.put(data);
    else this.painter.restore(data);
    this.render(true);
  }

  #files() {
    const well = this.mode.kind === "well" ? this.well.drawing() : null;
    const drawing = () => (well ? address(well) : this.sheet.plane.png());
    return [{ name: "drawing.png", what: "the drawing", get: drawing }, ...this.app.looks.files(this.look.value, well)];
  }

  key(event) {
    if (event.key.toLowerCase() === "r" && !event.ctrlKey && !event.metaKey && !event.altKey) this.look.random();
    else if (event.key.toLowerCase() === "c" && !event.ctrlKey && !event.metaKey && !event.altKey) this.result.compare.toggle();
    else if (this.mode.kind === "well") return false;
    else return toolKey(event, this.painter, this.tools);
    return true;
  }
}
