/* The one place that talks to the server. Every button is one of these operations; none carries state of the page. */

export const CLIENT = crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

/** The pack this page works with; null: the server's first. */
let pack = new URLSearchParams(location.search).get("pack");

/** Work with the server's first pack; gives the name of the one that was wanted, null where none was. */
export function forgetPack() {
  const wanted = pack;
  pack = null;
  return wanted;
}

/** What went wrong, in one line that can be shown as it is. */
export class StudioError extends Error {}

/** Run an operation: request (JSON) -> reply (JSON). `number` rises with every render of a lane: there the latest wins. */
export async function call(operation, request = {}, { number, lane = "", signal } = {}) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ ...request, client: CLIENT + lane, number, pack: pack ?? undefined });
  let answer;
  try {
    answer = await fetch(new URL(`studio/api/${operation}`, document.baseURI), { method: "POST", headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new StudioError("The studio does not answer. Is `sis studio` still running?");
  }
  let reply;
  try {
    reply = await answer.json();
  } catch {
    throw new StudioError(`The studio answered with something unreadable (status ${answer.status}).`);
  }
  if (!answer.ok || reply.error) throw new StudioError(reply.error ?? `The studio refused (status ${answer.status}).`);
  return reply;
}

/** Base64 of a file's bytes. */
export async function base64(blob) {
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new StudioError("This file could not be read."));
    reader.readAsDataURL(blob);
  });
  return address.slice(address.indexOf(",") + 1);
}

/** Base64 of a picture in a reply -> address for an <img>. */
export const address = (data, kind = "png") => (data.startsWith("data:") ? data : `data:image/${kind};base64,${data}`);

/** Address -> loaded Image. */
export async function picture(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

/** Hand the user a file: data is a data address or a Blob. */
export function download(data, name) {
  const link = document.createElement("a");
  const url = typeof data === "string" ? data : URL.createObjectURL(data);
  link.href = url;
  link.download = name;
  link.click();
  if (typeof data !== "string") setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
