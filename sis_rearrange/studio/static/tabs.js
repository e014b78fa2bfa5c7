/* Four workspaces, each built when it is first opened. */

import { fail } from "./toasts.js";

const NAMES = ["draw", "edit", "mix", "label"];

export class Tabs {
  /** makers: {draw: (panel) => workspace or promise of it, ...}; a workspace may have key(event) and opened(). */
  constructor(makers) {
    this.makers = makers;
    this.made = {};
    this.now = null;
    NAMES.forEach((name, at) => {
      const tab = this.#tab(name);
      tab.addEventListener("click", () => this.open(name));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: NAMES.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        this.open(NAMES[(to + NAMES.length) % NAMES.length]);
        this.#tab(this.now).focus();
      });
    });
    window.addEventListener("hashchange", () => this.#fromHash());
  }

  /** The workspace that is open, once it is built. */
  get workspace() {
    return this.made[this.now]?.ready;
  }

  start() {
    this.#fromHash();
  }

  async open(name) {
    if (this.now === name) return this.made[name]?.promise;
    this.now = name;
    for (const each of NAMES) {
      const on = each === name;
      this.#tab(each).setAttribute("aria-selected", String(on));
      this.#tab(each).tabIndex = on ? 0 : -1;
      document.getElementById(`panel-${each}`).hidden = !on;
    }
    history.replaceState(null, "", `#${name}`);
    this.made[name] ??= this.#make(name);
    const workspace = await this.made[name].promise;
    workspace?.opened?.();
    return workspace;
  }

  #make(name) {
    const entry = { ready: null };
    entry.promise = Promise.resolve(this.makers[name](document.getElementById(`panel-${name}`))).then(
      (workspace) => (entry.ready = workspace),
      (error) => {
        delete this.made[name];
        fail(error);
      },
    );
    return entry;
  }

  #fromHash() {
    const wanted = location.hash.slice(1);
    this.open(NAMES.includes(wanted) ? wanted : "draw");
  }

  #tab(name) {
    return document.getElementById(`tab-${name}`);
  }
}
