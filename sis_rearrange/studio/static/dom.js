/* Building elements. Text goes in as text nodes only, so nothing a server or a file says is ever read as markup. */

/** h("button", {class: "quiet", onclick: f, "aria-label": "Undo"}, "Undo") -> element. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set attributes, listeners (on...), properties (hidden, value, checked, disabled) and style variables (--x). */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (["hidden", "value", "checked", "disabled", "selected", "open"].includes(name)) element[name] = value;
    else if (value === null || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

let serial = 0;

/** A fresh id, for labels and what they describe. */
export const newId = (stem) => `${stem}-${++serial}`;

/** Say something to screen readers without moving anything on the page. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

const ICONS = {
  brush: "M4 20c3 0 5-1.2 5-4 0-1.3-1-2.3-2.3-2.3C4.9 13.7 5 16 4 17c-.6.6-1.2.8-1.2.8S3 20 4 20Zm5.5-6.2L19 4.2c.6-.6 1.5 0 1.1.8l-7.2 11",
  eraser: "m4 15 8.5-8.5a2 2 0 0 1 2.8 0l3.7 3.7a2 2 0 0 1 0 2.8L13 19H8zM9 10l6 6M13 19h7",
  fill: "m4.5 12.5 7-7 7 7-5.6 5.6a2 2 0 0 1-2.8 0zM4.5 12.5h14M8.5 2.5l3 3M20.5 16.5s1.3 1.7 1.3 2.7a1.3 1.3 0 0 1-2.6 0c0-1 1.3-2.7 1.3-2.7Z",
  pick: "m13.5 6.5 4 4M15.5 4.5a2.1 2.1 0 0 1 3-0 2.1 2.1 0 0 1 0 3l-2.5 2.5-3-3zM13.8 7.8 6 15.6V18h2.4l7.8-7.8",
  move: "M12 3v18M3 12h18M12 3 9.5 5.5M12 3l2.5 2.5M12 21l-2.5-2.5M12 21l2.5-2.5M3 12l2.5-2.5M3 12l2.5 2.5M21 12l-2.5-2.5M21 12l-2.5 2.5",
  undo: "M8 5 4 9l4 4M4 9h9.5a5.5 5.5 0 0 1 0 11H9",
  redo: "m16 5 4 4-4 4M20 9h-9.5a5.5 5.5 0 0 0 0 11H15",
  mirror: "M12 3v3M12 9v3M12 15v3M12 20v1M9 7 4 17h5zM15 7l5 10h-5z",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  dice: "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1ZM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
  left: "m14.5 6-6 6 6 6",
  right: "m9.5 6 6 6-6 6",
  download: "M12 4v11M7.5 11 12 15.5 16.5 11M5 20h14",
  copy: "M9 9h10v11H9zM15 9V5H5v11h4",
  upload: "M12 16V5M7.5 9.5 12 5l4.5 4.5M5 20h14",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 13h8.4L17 7",
  photo: "M4 5h16v14H4zM4 16l4.5-4.5 4 4 3-3L20 17M15.5 9.2h.01",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  compare: "M12 3v18M4 6h5v12H4zM15 6h5v12h-5z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2.5V4M12 20v1.5M2.5 12H4M20 12h1.5M5.3 5.3l1 1M17.7 17.7l1 1M18.7 5.3l-1 1M6.3 17.7l-1 1",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z",
  auto: "M12 3.5a8.5 8.5 0 1 0 0 17zM12 3.5a8.5 8.5 0 0 1 0 17",
  help: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM9.7 9.5a2.4 2.4 0 1 1 3.4 2.2c-.8.4-1.1.9-1.1 1.8M12 16.7h.01",
  close: "m6 6 12 12M18 6 6 18",
  smooth: "M3 16c3.5 0 3.5-8 9-8s5.5 8 9 8",
  pixels: "M3 17h4v-4h4V9h4V5h6",
  swap: "M4 8h15M15 4l4 4-4 4M20 16H5M9 12l-4 4 4 4",
  play: "M8 5v14l11-7z",
  layers: "m12 4 9 5-9 5-9-5zM4 13.5l8 4.5 8-4.5",
};

/** A 24-grid line icon; decoration only, its button carries the name. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A square button that shows an icon alone; `keys` is its shortcut, told in the tooltip and to screen readers. */
export function iconButton(name, label, onclick, { keys, pressed, ...rest } = {}) {
  const title = keys ? `${label} (${keys})` : label;
  const state = pressed === undefined ? {} : { "aria-pressed": String(pressed) };
  return h("button", { type: "button", class: "icon-button", title, "aria-label": label, onclick, ...state, ...rest }, icon(name));
}

/** A button with an icon and a word. */
export function button(label, onclick, { icon: name, kind = "plain", ...rest } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, ...rest }, name ? icon(name) : null, h("span", {}, label));
}

/** A labelled slider with its value beside it; `show(value)` writes the value. */
export function slider(label, { min, max, step = 1, value, show = String, oninput, onchange, ...rest }) {
  const id = newId("slider");
  const output = h("output", { for: id, class: "value" }, show(value));
  const input = h("input", { type: "range", id, min, max, step, value, ...rest });
  const fill = () => input.style.setProperty("--share", `${((input.value - input.min) / (input.max - input.min || 1)) * 100}%`);
  const put = (number) => {
    input.value = number;
    output.textContent = show(Number(input.value));
    fill();
  };
  input.addEventListener("input", () => {
    put(input.value);
    oninput?.(Number(input.value));
  });
  input.addEventListener("change", () => onchange?.(Number(input.value)));
  fill();
  const element = h("div", { class: "field slider" }, h("label", { for: id }, label), input, output);
  return {
    element, input, put,
    get value() { return Number(input.value); },
    limits(low, high) { input.min = low; input.max = high; put(input.value); },
  };
}

/** A row of choices of which one holds; arrow keys move through it, as in a group of radio buttons. */
export function choices(label, options, value, onchange, { kind = "segments" } = {}) {
  const name = newId("choice");
  const row = h("div", { class: kind, role: "radiogroup", "aria-label": label });
  const inputs = new Map();
  for (const option of options) {
    const input = h("input", { type: "radio", name, value: option.value, class: "sr", checked: option.value === value });
    input.addEventListener("change", () => onchange(option.value));
    inputs.set(option.value, input);
    row.append(h("label", { class: "segment", title: option.title }, input, h("span", {}, option.icon ? icon(option.icon) : null, option.label)));
  }
  return { element: row, put(next) { const input = inputs.get(next); if (input) input.checked = true; } };
}
