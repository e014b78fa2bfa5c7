/* A photo of one's own, in three steps: choose it, frame it, wait until the generator has found it. */

import { address, base64, call } from "./api.js";
import { Crop } from "./crop.js";
import { button, h, iconButton } from "./dom.js";
import { checkFile, dropZone, fileButton } from "./files.js";
import { Job } from "./jobs.js";
import { bytes } from "./links.js";

const OFFERED = 8; // samples to try with

/** The steps as an element; onfound(found) with {token, name, original, reply}. Used in the dialog and in the Edit tab. */
export class PhotoSteps {
  constructor(app, onfound) {
    Object.assign(this, { app, onfound });
    this.job = new Job("Finding your photo in the generator");
    this.body = h("div", { class: "steps-body" });
    this.error = h("p", { class: "inline-error", role: "alert", hidden: true });
    this.element = h("div", { class: "steps" }, this.error, this.body, this.job.element);
    dropZone(this.element, (file) => this.take(file));
    this.choose();
  }

  /** Step one. */
  choose() {
    const { info } = this.app;
    this.body.replaceChildren(h("div", { class: "drop-well" },
      h("p", { class: "well-title" }, "Drop a picture here"),
      h("p", { class: "quiet-note" }, `PNG, JPEG or WebP, up to ${Math.round(info.limits.upload_bytes / 1e6)} MB. It stays on the machine that runs the studio and is removed when that ends.`),
      fileButton("Choose a file", (file) => this.take(file), { kind: "primary" })), this.samples());
    this.#offer();
  }

  /** For those without a picture at hand: samples of the generator, taken as if they were files. */
  samples() {
    this.row = h("div", { class: "sample-row" }, ...Array.from({ length: OFFERED }, () => h("span", { class: "thumb waiting" })));
    return h("div", { class: "offer" }, h("p", { class: "label" }, "No picture at hand? Try a sample"), this.row);
  }

  async #offer() {
    const { row } = this;
    try {
      const page = await this.app.looks.page(0, this.app.psi);
      row.replaceChildren(...page.slice(0, OFFERED).map(({ seed, image }) => {
        const made = h("button", { type: "button", class: "thumb", "aria-label": `Try sample ${seed}`, title: `Sample ${seed}` }, h("img", { src: image, alt: "" }));
        made.addEventListener("click", () => this.take(new File([bytes(image.slice(image.indexOf(",") + 1))], `sample-${seed}.png`, { type: "image/png" })));
        return made;
      }));
    } catch (error) {
      this.app.fail(error);
    }
  }

  /** Step two: the file is checked here, then by the server, and can be framed. */
  async take(file) {
    if (this.job.running) return;
    this.error.hidden = true;
    try {
      const { address: shown } = await checkFile(file, this.app.info.limits);
      const uploaded = await call("upload", { picture: await base64(file), name: file.name });
      this.#frame({ shown, name: file.name, ...uploaded });
    } catch (error) {
      this.#say({ message: error.message.replace(/^picture: /, `${file.name}: `) }); // the field's name is no help here
    }
  }

  #frame(photo) {
    const crop = new Crop(photo.shown, photo.width, photo.height);
    this.body.replaceChildren(
      crop.element,
      h("p", { class: "quiet-note" }, "Frame it as the generator's samples are framed: the result is as good as the fit."),
      h("div", { class: "button-row" },
        button("Find it in the generator", () => this.#invert(photo, crop.value), { kind: "primary", icon: "play" }),
        button("Another picture", () => this.choose(), { kind: "quiet" })));
    crop.box.focus();
  }

  async #invert(photo, crop) {
    this.error.hidden = true;
    this.body.inert = true;
    try {
      const reply = await this.job.run("invert", { token: photo.token, crop });
      if (!reply) return;
      const found = { token: reply.token, name: photo.name, original: address(reply.original), image: address(reply.image), photo: photo.shown, crop, reply };
      this.app.looks.addPhoto({ token: found.token, name: found.name, thumb: found.image, found });
      this.choose();
      this.onfound(found);
    } catch (error) {
      this.#say(error);
    } finally {
      this.body.inert = false;
    }
  }

  #say(error) {
    this.error.textContent = error.message;
    this.error.hidden = false;
  }
}

/** The same steps in a dialog, for looks. */
export class Intake {
  constructor(app) {
    this.steps = new PhotoSteps(app, (found) => {
      this.dialog.close();
      this.then?.(found.token);
    });
    this.dialog = h("dialog", { class: "dialog wide", "aria-label": "A photo as a look" },
      h("div", { class: "dialog-head" }, h("h2", {}, "A photo as a look"), iconButton("close", "Close", () => this.dialog.close())), this.steps.element);
    this.dialog.addEventListener("close", () => this.steps.job.running && this.steps.job.cancel());
    document.body.append(this.dialog);
  }

  /** then(token) is called when a photo was found. */
  open(then) {
    this.then = then;
    this.dialog.showModal();
  }
}
