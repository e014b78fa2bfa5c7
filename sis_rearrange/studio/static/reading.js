/* What replies say, as arrays. */

import { address, picture } from "./api.js";
import { bytes } from "./links.js";
import { rgb } from "./plane.js";

/** Labels of an r x r proxy mask in the clusters' colours: Uint8Array of r * r. */
export async function labelsOf(mask, clusters) {
  const image = await picture(address(mask));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const known = new Map(clusters.map((colour, label) => [rgb(colour).join(), label]));
  return Uint8Array.from({ length: image.width * image.height }, (_, at) => known.get(data.subarray(4 * at, 4 * at + 3).join()) ?? 0);
}

/** A render reply for Links.show: {labels, places, confidence, colours}. */
export async function decodeRender(reply, info) {
  return {
    labels: await labelsOf(reply.proxy_mask, info.clusters),
    places: bytes(reply.correspondence),
    confidence: bytes(reply.confidence),
    colours: info.clusters.map(rgb),
  };
}
