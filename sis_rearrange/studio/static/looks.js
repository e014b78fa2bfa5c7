/* Looks: samples by seed, and photos that were found in the generator. All tabs share the photos and the thumbnails. */

import { address, call } from "./api.js";

export const PAGE = 12; // samples in one page of the gallery

export class Looks extends EventTarget {
  constructor() {
    super();
    this.photos = []; // [{token, name, thumb}], newest first
    this.pages = new Map(); // "first/psi" -> promise of [{seed, image}]
  }

  addPhoto(photo) {
    this.photos = [photo, ...this.photos.filter((each) => each.token !== photo.token)];
    this.dispatchEvent(new Event("photos"));
  }

  /** What commands read of the photos among some looks, for `Result`. */
  files(...looks) {
    const photos = looks.map((look) => this.photos.find((each) => each.token === look?.picture)).filter(Boolean);
    return photos.map(({ token, found }) => ({ name: found.reply.file, what: "the photo as it was found", get: async () => (await foundFile(token)).data }));
  }

  /** Thumbnails of PAGE samples from a seed on: [{seed, image}], asked for once. */
  page(first, psi) {
    const key = `${first}/${psi}`;
    if (!this.pages.has(key)) {
      const asked = call("gallery", { first_seed: first, count: PAGE, psi }).then((reply) =>
        reply.looks.map((look) => ({ seed: look.seed, image: address(look.image) })));
      asked.catch(() => this.pages.delete(key));
      this.pages.set(key, asked);
    }
    return this.pages.get(key);
  }
}

/** The file of a photo that was found: {name, data}. */
export async function foundFile(token) {
  const { name, data } = await call("file", { token });
  return { name, data: `data:application/octet-stream;base64,${data}` };
}

/** Two looks that are the same picture. */
export const same = (a, b) => (a?.picture ? a.picture === b?.picture : a?.seed === b?.seed && a?.psi === b?.psi);

/** What a look is called. */
export const nameOf = (look, photos) => (look.picture ? photos.find((each) => each.token === look.picture)?.name ?? "photo" : `seed ${look.seed}`);
