/* Messages at the foot of the page: errors stay until they are closed or overtaken, notes leave by themselves. */

import { button, h, iconButton } from "./dom.js";

const MOST = 3;

/** Show one line. kind: "error" or "note". offer: {label, act} for a button. The same line is never shown twice at once. */
export function toast(text, kind = "note", offer = null) {
  const region = document.getElementById("toasts");
  for (const old of [...region.children]) if (old.dataset.text === text) old.remove();
  const close = () => element.remove();
  const act = offer && button(offer.label, () => (close(), offer.act()), { kind: "quiet" });
  const element = h("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status", "data-text": text }, h("p", {}, text), act, iconButton("close", "Close this message", close));
  region.append(element);
  while (region.children.length > MOST) region.firstElementChild.remove();
  setTimeout(close, kind === "error" ? 12_000 : 4_000);
}

/** Show an error; cancelled requests are none. */
export function fail(error) {
  if (error?.name === "AbortError") return;
  toast(error?.message || "Something went wrong.", "error");
  if (error && !["StudioError"].includes(error.constructor.name)) console.error(error);
}

/** Errors that are gone once something worked again. */
export function clearErrors() {
  document.querySelectorAll("#toasts .error").forEach((element) => element.remove());
}
