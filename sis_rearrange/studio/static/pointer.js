/* Pen, mouse and fingers on a stage: one draws, two fingers (or the middle button, or space) move and zoom. */

/** Calls on `target`: down(u, v, event), drag([[u, v, pressure], ...]), up(), cancel(), hover(u, v) or leave(),
 * pan(du, dv), zoom(u, v, factor). u and v are shares of the element's width and height. */
export function watchPointers(element, target) {
  const fingers = new Map();
  let drawing = null; // pointer that draws
  let panning = null;
  const share = (event) => {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const pressure = (event) => (event.pointerType === "pen" && event.pressure > 0 ? event.pressure : 1);

  element.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    element.setPointerCapture(event.pointerId);
    const place = share(event);
    fingers.set(event.pointerId, place);
    if (event.pointerType === "touch" && fingers.size === 2) {
      if (drawing !== null) target.cancel();
      drawing = null;
      return;
    }
    if (fingers.size > 2) return;
    if (event.button === 1 || target.wantsPan()) panning = { id: event.pointerId, place };
    else {
      drawing = event.pointerId;
      target.down(...place, pressure(event), event);
    }
    event.preventDefault();
    element.focus({ preventScroll: true });
  });

  element.addEventListener("pointermove", (event) => {
    const place = share(event);
    if (fingers.size === 2 && fingers.has(event.pointerId) && drawing === null) return pinch(event.pointerId, place);
    if (panning?.id === event.pointerId) {
      target.pan(place[0] - panning.place[0], place[1] - panning.place[1]);
      panning.place = place;
    } else if (drawing === event.pointerId) {
      const events = event.getCoalescedEvents?.() ?? [];
      target.drag((events.length ? events : [event]).map((each) => [...share(each), pressure(each)]));
    }
    if (event.pointerType !== "touch") target.hover(...place);
  });

  const release = (event) => {
    fingers.delete(event.pointerId);
    if (drawing === event.pointerId) {
      drawing = null;
      if (event.type === "pointercancel") target.cancel();
      else target.up();
    }
    if (panning?.id === event.pointerId) panning = null;
  };
  element.addEventListener("pointerup", release);
  element.addEventListener("pointercancel", release);
  element.addEventListener("pointerleave", () => target.leave());
  element.addEventListener("contextmenu", (event) => drawing !== null && event.preventDefault());
  element.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      target.zoom(...share(event), Math.exp(-event.deltaY / 300));
    },
    { passive: false },
  );

  function pinch(id, place) {
    const other = [...fingers].find(([key]) => key !== id)[1];
    const before = fingers.get(id);
    const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2];
    target.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    target.zoom(...middle, apart(place, other) / Math.max(0.01, apart(before, other)));
    fingers.set(id, place);
  }
}
