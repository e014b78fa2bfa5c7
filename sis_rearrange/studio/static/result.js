/* The picture that was made: shown, compared, kept, and told as a command line. */

import { address, download } from "./api.js";
import { CellView } from "./cells.js";
import { Compare } from "./compare.js";
import { h, iconButton, button } from "./dom.js";

export class Result {
  /** before(): address of the picture to compare with. files(): [{name, what, get}] that the command may read; get()
   * gives the address to download, or a promise of it. full(): promise of what to download, where that is more than what is shown. */
  constructor(app, { title = "Picture", before, names, files = () => [], full = null, empty = "" }) {
    Object.assign(this, { app, files, full });
    this.view = new CellView(title, { onprobe: (cell, spoken) => this.onprobe?.(cell, spoken), empty });
    this.compare = new Compare(this.view, before, { names });
    this.status = h("span", { class: "status", role: "status" });
    this.save = iconButton("download", "Download the picture", () => this.#download(), { disabled: true });
    this.copy = iconButton("copy", "Copy as a command line", () => this.#command(), { disabled: true });
    this.dialog = this.#dialog();
    this.element = h("section", { class: "card result", "aria-label": title },
      h("div", { class: "card-head" }, h("h2", { class: "panel-title" }, title), this.status, h("div", { class: "actions" }, this.compare.button, this.copy, this.save)),
      this.view.element);
    this.reply = null;
  }

  /** A reply with image, and perhaps command, milliseconds and warnings. */
  show(reply, { alt = "The picture made of your drawing", name = "studio" } = {}) {
    this.reply = reply;
    this.name = name;
    this.picture = reply.gif ? address(reply.gif, "gif") : address(reply.image);
    this.view.show(this.picture, { alt });
    this.compare.able(true);
    this.compare.refresh();
    this.save.disabled = false;
    this.copy.disabled = !reply.command;
    this.status.textContent = reply.milliseconds ? `${Math.round(reply.milliseconds.working)} ms` : "";
  }

  /** No picture, and why. */
  say(text) {
    this.reply = this.picture = null;
    this.view.say(text);
    this.save.disabled = this.copy.disabled = true;
    this.status.textContent = "";
    this.compare.able(false);
  }

  busy(on) {
    this.element.classList.toggle("busy", on);
  }

  async #download() {
    if (!this.picture) return;
    try {
      download((await this.full?.()) ?? this.picture, `${this.name}.${this.picture.startsWith("data:image/gif") ? "gif" : "png"}`);
    } catch (error) {
      this.app.fail(error);
    }
  }

  async #command() {
    const { command, needs } = this.reply;
    this.text.replaceChildren(...command.split(" ").flatMap((word) => [h("span", {}, word), " "]));
    const offered = new Map(this.files().map((each) => [each.name, each]));
    this.needs.hidden = !needs.length;
    this.needs.lastElementChild.replaceChildren(...needs.map((name) => this.#file(name, offered.get(name))));
    this.dialog.showModal();
    try {
      await navigator.clipboard.writeText(command);
      this.copied.textContent = "Copied.";
    } catch {
      this.copied.textContent = "Select the line and copy it.";
    }
  }

  /** A file that the command reads, to be kept under the name it has there. */
  #file(name, offered) {
    if (!offered) return h("li", {}, name);
    const keep = async () => {
      try {
        download(await offered.get(), name);
      } catch (error) {
        this.app.fail(error);
      }
    };
    return h("li", {}, button(name, keep, { icon: "download", title: `Download ${name}` }), h("span", { class: "quiet-note" }, offered.what));
  }

  #dialog() {
    this.text = h("code", { class: "command", tabindex: "0" });
    this.copied = h("p", { class: "quiet-note", role: "status" });
    this.needs = h("div", { class: "needs" }, h("h3", { class: "label" }, "It reads these files, by these names"), h("ul", {}));
    const dialog = h("dialog", { class: "dialog wide", "aria-label": "As a command line" },
      h("div", { class: "dialog-head" }, h("h2", {}, "As a command line"), iconButton("close", "Close", () => dialog.close())),
      h("p", {}, "This makes the same picture in a terminal, from the files it names."), this.text, this.copied, this.needs);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
    return dialog;
  }
}
