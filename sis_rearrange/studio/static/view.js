/* Zoom and place of a square stage: which part of the unit square is seen. */

const MOST = 16;
const EDGE = 0.1; // of the stage: what is revealed stays off the edge by it

export class View {
  constructor() {
    this.reset();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0, y: 0 });
  }

  /** Place on the screen, as a share of the stage, to place in the unit square. */
  inside(u, v) {
    return [this.x + u / this.zoom, this.y + v / this.zoom];
  }

  /** Zoom so that what lies under (u, v) stays there. */
  zoomAt(u, v, factor) {
    const [x, y] = this.inside(u, v);
    this.zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    this.#place(x - u / this.zoom, y - v / this.zoom);
  }

  /** Move by a share of the stage. */
  move(du, dv) {
    this.#place(this.x - du / this.zoom, this.y - dv / this.zoom);
  }

  /** Move as little as it takes to have a place of the unit square well in view. */
  reveal(x, y) {
    const near = EDGE / this.zoom;
    const far = (1 - EDGE) / this.zoom;
    this.#place(Math.min(x - near, Math.max(x - far, this.x)), Math.min(y - near, Math.max(y - far, this.y)));
  }

  #place(x, y) {
    const most = 1 - 1 / this.zoom;
    this.x = Math.min(most, Math.max(0, x));
    this.y = Math.min(most, Math.max(0, y));
  }
}
