/* Latest wins: while one request is on its way at most one more is asked for, always the newest. */

import { call } from "./api.js";

let number = 0; // of this page; the server drops renders that are older than the newest it has seen

export class Latest {
  /** `show(reply, tag)` gets replies in rising order only; `fail(error)` the error of the newest request only. */
  constructor(operation, { show, fail, busy }) {
    Object.assign(this, { operation, show, fail, busy });
    this.waiting = null;
    this.flying = 0;
    this.newest = null;
    this.shown = { number: 0 };
  }

  /** `make()` builds the request when it is sent, so that what is overtaken costs nothing. `key` says what it asks for:
   * the same twice is sent once. An urgent one (the pen was lifted) does not wait for the one on its way. */
  ask(make, { urgent = false, tag = null, key = null } = {}) {
    if (key !== null && this.shown.key === key && this.newest === this.shown) {
      if (tag) this.show(this.shown.reply, tag);
      return;
    }
    if (key !== null && this.newest?.key === key && !this.newest.ended && !this.waiting) {
      this.newest.tag = tag ?? this.newest.tag;
      return;
    }
    this.waiting = { make, tag, key, ended: false };
    if (this.flying < (urgent ? 2 : 1)) this.#send();
  }

  /** Forget what was asked: replies on their way are not shown. */
  drop() {
    this.waiting = null;
    this.newest = this.shown = { number: ++number };
  }

  async #send() {
    const mine = this.waiting;
    this.waiting = null;
    mine.number = ++number;
    this.newest = mine;
    this.flying += 1;
    this.busy?.(true);
    try {
      const request = await mine.make();
      const reply = request && (await call(this.operation, request, { number: mine.number }));
      if (reply && !reply.stale && mine.number > this.shown.number) {
        this.shown = Object.assign(mine, { reply });
        this.show(reply, mine.tag);
      }
    } catch (error) {
      if (mine === this.newest) this.fail(error);
    } finally {
      mine.ended = true;
      this.flying -= 1;
      if (this.waiting && this.flying === 0) this.#send();
      else if (this.flying === 0) this.busy?.(false);
    }
  }
}
