/* Files from outside: choosing, dropping and checking them before anything is sent. */

import { button, h } from "./dom.js";
import { StudioError, picture } from "./api.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

/** Raise StudioError unless a file is a picture of a kind and size that can be used; gives {address, width, height}. */
export async function checkFile(file, limits) {
  if (!KINDS.includes(file.type)) throw new StudioError(`${file.name}: use a PNG, JPEG or WebP picture.`);
  if (file.size === 0) throw new StudioError(`${file.name}: the file is empty.`);
  if (file.size > limits.upload_bytes) {
    throw new StudioError(`${file.name}: ${megabytes(file.size)} is too large, ${megabytes(limits.upload_bytes)} is the most.`);
  }
  const address = URL.createObjectURL(file);
  try {
    const image = await picture(address);
    if (image.width * image.height > limits.upload_pixels) {
      throw new StudioError(`${file.name}: ${image.width} x ${image.height} pixels are too many, ${(limits.upload_pixels / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} million is the most.`);
    }
    return { address, image, width: image.width, height: image.height };
  } catch (error) {
    URL.revokeObjectURL(address);
    throw error instanceof StudioError ? error : new StudioError(`${file.name}: cannot be read as a picture; is the file whole?`);
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e6 ? 2 : 0)} MB`;

/** A button that opens the file dialog; onfile(file). */
export function fileButton(label, onfile, options = {}) {
  const input = h("input", { type: "file", accept: KINDS.join(","), class: "sr", tabindex: "-1", "aria-label": label });
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) onfile(file);
  });
  return h("span", { class: "file-button" }, button(label, () => input.click(), { icon: "upload", ...options }), input);
}

/** Let files be dropped on an element; onfile(file) with the first. */
export function dropZone(element, onfile) {
  let depth = 0;
  const has = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (by) => {
    depth = by === 0 ? 0 : depth + by;
    element.classList.toggle("dropping", depth > 0);
  };
  element.addEventListener("dragenter", (event) => has(event) && (event.preventDefault(), mark(1)));
  element.addEventListener("dragover", (event) => has(event) && event.preventDefault());
  element.addEventListener("dragleave", (event) => has(event) && mark(-1));
  element.addEventListener("drop", (event) => {
    if (!has(event)) return;
    event.preventDefault();
    event.stopPropagation();
    mark(0);
    onfile(event.dataTransfer.files[0]);
  });
}
