/* Long work: start it, watch it, stop it. */

import { announce, button, h, newId } from "./dom.js";
import { StudioError, call } from "./api.js";

const EVERY = 500; // milliseconds between questions

/** "about 2 min" */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 3) return "a moment";
  return seconds < 90 ? `about ${Math.round(seconds)} s` : `about ${Math.round(seconds / 60)} min`;
}

export class Job {
  /** title: what is being done; the element is a card with a progress bar, hidden while nothing runs. */
  constructor(title) {
    const id = newId("job");
    this.bar = h("progress", { max: 1, value: 0, "aria-labelledby": id });
    this.text = h("p", { class: "quiet-note" }, "Starting…");
    this.stop = button("Cancel", () => this.cancel(), { kind: "quiet", icon: "close" });
    this.element = h("div", { class: "job", hidden: true }, h("p", { id, class: "job-title" }, title), this.bar, h("div", { class: "job-foot" }, this.text, this.stop));
    this.id = null;
  }

  get running() {
    return !this.element.hidden;
  }

  /** Run an operation that answers with a job; resolves to the job's reply, or null where it was cancelled. */
  async run(operation, request) {
    this.element.hidden = false;
    this.cancelled = false;
    this.#show({ fraction: 0, message: "Starting…" });
    try {
      this.id = (await call(operation, request)).job;
      for (;;) {
        if (this.cancelled) return null;
        const state = await call("job", { id: this.id });
        if (this.cancelled || state.state === "cancelled") return null;
        if (state.state === "failed") throw new StudioError(state.message || "This did not work.");
        this.#show(state);
        if (state.state === "done") {
          announce("Done");
          return state.reply;
        }
        await new Promise((resolve) => setTimeout(resolve, EVERY));
      }
    } finally {
      this.element.hidden = true;
      this.id = null;
    }
  }

  async cancel() {
    this.cancelled = true;
    this.element.hidden = true;
    if (this.id) await call("cancel", { id: this.id }).catch(() => {});
  }

  #show({ state, fraction, message, eta, before }) {
    this.bar.value = fraction ?? 0;
    const share = fraction > 0 ? `${Math.round(100 * fraction)} %` : "";
    const left = eta > 0 ? `${duration(eta)} left` : "";
    this.text.textContent = [state === "queued" ? waiting(before) : message, share, left].filter(Boolean).join(" · ");
  }
}

const waiting = (before) => (before > 0 ? `Waiting behind ${before} other${before > 1 ? "s" : ""}` : "Starting…");
