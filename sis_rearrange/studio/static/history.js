/* Undo and redo: what a rectangle held before and after each stroke. */

const KEPT = 120; // steps

export class History {
  /** `changed()` is called whenever what can be undone or redone changes. */
  constructor(changed = () => {}) {
    this.changed = changed;
    this.clear();
  }

  get canUndo() {
    return this.done.length > 0;
  }

  get canRedo() {
    return this.undone.length > 0;
  }

  /** Note a step that has been made: {rect, before, after}. What was undone before it is gone. */
  push(step) {
    this.done.push(step);
    if (this.done.length > KEPT) this.done.shift();
    this.undone = [];
    this.changed();
  }

  /** Put a plane back by one step; returns the rectangle, or null where there is none. */
  undo(plane) {
    return this.#shift(plane, this.done, this.undone, "before");
  }

  redo(plane) {
    return this.#shift(plane, this.undone, this.done, "after");
  }

  clear() {
    this.done = [];
    this.undone = [];
    this.changed();
  }

  #shift(plane, from, to, which) {
    const step = from.pop();
    if (!step) return null;
    plane.paste(step.rect, step[which]);
    to.push(step);
    this.changed();
    return step.rect;
  }
}
