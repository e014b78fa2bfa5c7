/* Start: ask the server what it has, build the page, pass keys on to the open workspace. */

import { call, forgetPack } from "./api.js";
import { h, iconButton } from "./dom.js";
import { draw } from "./draw.js";
import { edit } from "./edit.js";
import { helpButton } from "./help.js";
import { Intake } from "./intake.js";
import { label } from "./label.js";
import { Looks } from "./looks.js";
import { mix } from "./mix.js";
import { Tabs } from "./tabs.js";
import { themeButton } from "./theme.js";
import { fail, toast } from "./toasts.js";

const SMOOTH = "sis-studio-pixels";

async function start() {
  let tabs = null;
  const help = helpButton(() => tabs?.now ?? "draw");
  const end = document.getElementById("bar-end");
  end.append(pixelsButton(), themeButton(), help.button);
  let info;
  try {
    info = await describe();
  } catch (error) {
    fail(error);
    document.getElementById("panel-draw").append(h("p", { class: "notice" }, `${error.message} Reload the page to try again.`));
    return;
  }
  document.title = `${info.pack} · sis studio`;
  end.prepend(packName(info));
  document.getElementById("credit").textContent = info.credit ?? "";
  const app = { info, psi: 0.9, looks: new Looks(), fail, toast };
  app.photo = new Intake(app);
  app.intake = (then) => app.photo.open(then);
  tabs = new Tabs({ draw: (panel) => draw(panel, app), edit: (panel) => edit(panel, app), mix: (panel) => mix(panel, app), label: (panel) => label(panel, app) });
  app.open = (name) => tabs.open(name);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]") || typing(event.target)) return;
    if (event.key === "?") help.open();
    else if (!tabs.workspace?.key?.(event)) return;
    event.preventDefault();
  });
  // a file dropped beside the places for it would replace the page
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  tabs.start();
}

/** What the server has; a link to a pack that it has no more leads to its first. */
async function describe() {
  try {
    return await call("describe");
  } catch (error) {
    const wanted = forgetPack();
    if (!wanted) throw error;
    const info = await call("describe");
    history.replaceState(null, "", location.pathname + location.hash);
    toast(`This server has no pack ${wanted}: this is ${info.pack}.`);
    return info;
  }
}

/** What is drawn with; a choice where the server has several packs. */
function packName({ pack, packs, img_resolution: side, version }) {
  const title = `${side} pixels, version ${version}`;
  if (packs.length < 2) return h("span", { class: "pack-name", title }, pack);
  const list = h("select", { class: "pack-choice", "aria-label": "Pack", title }, ...packs.map((name) => h("option", { value: name, selected: name === pack }, name)));
  list.addEventListener("change", () => (location.search = new URLSearchParams({ pack: list.value }).toString()));
  return list;
}

/** Whether keys belong to what has the focus. */
function typing(element) {
  if (!(element instanceof HTMLElement)) return false;
  return element.matches("input[type=text], input[type=number], textarea, select") || element.isContentEditable;
}

/** Smooth or as squares: how pictures of few pixels are enlarged. */
function pixelsButton() {
  const root = document.documentElement;
  const put = (pixels) => {
    root.classList.toggle("pixels", pixels);
    made.setAttribute("aria-pressed", String(pixels));
    try {
      localStorage.setItem(SMOOTH, pixels ? "1" : "");
    } catch {
      // it then holds for this visit
    }
  };
  const made = iconButton("pixels", "Show pixels as squares", () => put(!root.classList.contains("pixels")), { pressed: false });
  try {
    put(localStorage.getItem(SMOOTH) === "1");
  } catch {
    put(false);
  }
  return made;
}

start();
