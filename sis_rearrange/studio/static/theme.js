/* Light, dark, or as the system says. */

import { iconButton } from "./dom.js";

const ORDER = ["auto", "light", "dark"];
const ICONS = { auto: "auto", light: "sun", dark: "moon" };
const KEY = "sis-studio-theme";

const stored = () => {
  try {
    return ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "auto";
  } catch {
    return "auto"; // a browser that keeps nothing
  }
};

/** A button that goes through the three. */
export function themeButton() {
  let theme = stored();
  const holder = document.createElement("span");
  const put = () => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it then holds for this visit
    }
    holder.replaceChildren(iconButton(ICONS[theme], `Colours: ${theme}. Change`, () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      put();
      holder.firstElementChild.focus();
    }));
  };
  put();
  return holder;
}
