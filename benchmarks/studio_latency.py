"""How long it takes in the studio from lifting the pen to the new picture, measured in a real browser.

    python benchmarks/studio_latency.py [PACK] [--strokes 60]

Strokes are drawn with the mouse in headless Chromium, as fast as a hand would. The clock is the page's own
`performance.now()`: it starts when `pointerup` reaches the page and stops in the frame after the picture of the
finished stroke was decoded. The page draws along while the pen is down, so a picture can be there at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from typing import Any

from sis_rearrange import load_pack
from sis_rearrange.studio.server import Running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WATCH = """() => {
    const strip = document.querySelector("#panel-draw .strip-list");
    const picture = document.querySelector("#panel-draw .result .picture");
    window.taken = [];
    let lifted = null;
    window.addEventListener("pointerup", () => (lifted = performance.now()), true);
    new MutationObserver(async (changes) => {
        if (lifted === null || !changes.some((change) => change.addedNodes.length)) return;
        const start = lifted;
        lifted = null;
        await picture.decode();
        requestAnimationFrame(() => window.taken.push(performance.now() - start));
    }).observe(strip, {childList: true});
}"""


def measure(url: str, strokes: int, mode: str, pause: int = 350) -> list[float]:
    """Milliseconds of each stroke; three more are drawn first and not counted."""
    from playwright.sync_api import sync_playwright

    named = os.environ.get("SIS_CHROMIUM")
    path = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)}; SIS_CHROMIUM names another")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector("#panel-draw .strip-list li")
        page.locator("#panel-draw .segment", has_text=mode).click()
        page.get_by_role("button", name="From the look").click()
        page.wait_for_timeout(2000)
        page.evaluate(WATCH)
        box = page.locator("#panel-draw .sheet").bounding_box()
        for number in range(strokes + 3):
            if number == 3:
                page.evaluate("window.taken.length = 0")
            _stroke(page, box, number)
            page.wait_for_timeout(pause)
        page.wait_for_timeout(1000)
        taken: list[float] = page.evaluate("window.taken")
        browser.close()
    return taken


def _stroke(page: Any, box: Any, number: int) -> None:
    """Across the drawing, another one each time and never where the last one was."""
    across = 0.1 + 0.8 * ((number * 0.382) % 1)
    down = 0.1 + 0.8 * ((number * 0.618) % 1)
    x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
    page.keyboard.press(str(number % 9 + 1))  # another part
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(x + (0.5 - across) * step * 14, y + (0.5 - down) * step * 14)
        page.wait_for_timeout(12)
    page.mouse.up()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pack", nargs="?", default="toonhead")
    parser.add_argument("--strokes", type=int, default=60)
    parser.add_argument("--mode", default="Parts", help="Parts, Scribble or Sketch")
    args = parser.parse_args()
    pack = load_pack(args.pack)
    with Running([pack], port=0, warm=True) as running:
        taken = measure(running.url, args.strokes, args.mode)
    if len(taken) < 2:
        raise SystemExit(f"only {len(taken)} of {args.strokes} strokes made a new picture: nothing to report")
    found = {
        "what": "pen-up to new picture, milliseconds, in the browser",
        "pack": pack.name,
        "pixels": pack.resolution,
        "mode": args.mode,
        "strokes": args.strokes,
        "new pictures": len(taken),  # a stroke over the same part changes nothing
        "median": round(statistics.median(taken), 1),
        "p95": round(statistics.quantiles(taken, n=20)[-1], 1),
        "least": round(min(taken), 1),
        "most": round(max(taken), 1),
        "load average": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
