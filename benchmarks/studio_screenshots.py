"""Pictures of the studio for the readme, taken from a studio that really runs.

    python benchmarks/studio_screenshots.py [--only draw,mix] [--out docs/images]

Everything in them is made on the way: strokes are drawn with the mouse, the photo is found in the generator, and own
parts are trained (minutes each), in headless Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sis_rearrange import load_pack
from sis_rearrange.images import write_bytes
from sis_rearrange.studio.server import Running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE = {"viewport": {"width": 1440, "height": 940}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
JOB = 1_800_000  # milliseconds that a job may take
GAP = 48  # pixels between the phones


def stroke(page: Any, panel: str, points: list[tuple[float, float]]) -> None:
    """Draw with the mouse through points in shares of the sheet, and wait until the picture is there."""
    box = page.locator(f"#panel-{panel} .sheet").bounding_box()
    place = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*place[0])
    page.mouse.down()
    for point in place[1:]:
        page.mouse.move(*point, steps=12)
    page.mouse.up()
    page.wait_for_timeout(1200)


def part(page: Any, panel: str, name: str, size: int) -> None:
    """Dip the brush in a part and set its size, 0 to 100."""
    page.locator(f"#panel-{panel} .swatch", has_text=name).last.click()
    brush = page.locator(f"#panel-{panel} .tools input[type=range]")
    brush.evaluate("(input, size) => { input.value = size; input.dispatchEvent(new Event('input')); }", size)


def draw(page: Any, folder: Path) -> None:
    """Long hair, painted into a sample's layout, and what the drawing leaves open."""
    _long_hair(page, "draw")
    page.get_by_role("button", name="Show variations").click()
    page.locator(".variation-grid img").nth(7).wait_for()
    page.mouse.move(5, 400)
    page.wait_for_timeout(500)
    shoot(page, folder / "studio-draw.png")


def source(page: Any, folder: Path) -> None:
    """The pointer on a region of the picture, and where in the look it came from."""
    page.get_by_role("button", name="Look: seed 3").first.click()
    page.wait_for_timeout(1500)
    box = page.locator("#panel-draw .result .stage").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.74 * box["height"])
    page.wait_for_timeout(500)
    shoot(page, folder / "studio-source.png")


def edit(page: Any, folder: Path) -> None:
    """A picture found in the generator, with hair painted into its mask."""
    page.get_by_role("button", name="Try sample 5").first.click()
    page.get_by_role("button", name="Find it in the generator").click()
    page.locator("#panel-edit .sheet").wait_for(timeout=JOB)
    page.wait_for_timeout(800)
    _long_hair(page, "edit")
    page.get_by_role("button", name="Before and after").and_(page.locator("#panel-edit *")).click()
    page.mouse.move(5, 600)
    page.wait_for_timeout(500)
    shoot(page, folder / "studio-edit.png")


def mix(page: Any, folder: Path) -> None:
    """The hair of one look on another."""
    page.locator("#panel-mix .segment", has_text="Parts").click()
    page.wait_for_timeout(1500)
    shoot(page, folder / "studio-mix.png")


def label(page: Any, folder: Path) -> None:
    """Four parts of one's own, painted over one sample and learnt."""
    strokes = {
        0: [[(0.07, 0.05), (0.07, 0.95)], [(0.93, 0.95), (0.93, 0.05)]],
        1: [[(0.3, 0.5), (0.4, 0.72), (0.5, 0.52), (0.6, 0.72), (0.68, 0.5)], [(0.35, 0.42), (0.65, 0.42)]],
        2: [[(0.38, 0.08), (0.3, 0.22), (0.7, 0.22), (0.62, 0.08), (0.42, 0.12)]],
        3: [[(0.35, 0.97), (0.65, 0.97)]],
    }
    for place, lines in strokes.items():
        page.locator("#panel-label .class-pick").nth(place).click()
        for line in lines:
            stroke(page, "label", line)
    page.get_by_role("button", name="Train").click()
    page.locator(".learnt img").wait_for(timeout=JOB)
    page.wait_for_timeout(5000)  # the note leaves
    page.mouse.move(5, 600)
    shoot(page, folder / "studio-label.png")
    page.get_by_role("button", name="Draw with your parts").click()
    page.wait_for_timeout(2000)
    shoot(page, folder / "studio-own.png")


def phone(page: Any, folder: Path) -> None:
    """Three workspaces on a phone, side by side."""
    shots = []
    for tab in ("draw", "mix", "label"):
        page.locator(f"#tab-{tab}").tap()
        page.wait_for_timeout(2500)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    width, height = shots[0].size
    sheet = Image.new("RGB", (len(shots) * (width + GAP) + GAP, height + 2 * GAP), (214, 211, 204))
    for place, shot in enumerate(shots):
        sheet.paste(shot, (GAP + place * (width + GAP), GAP))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    write_bytes(folder / "studio-phone.png", stream.getvalue())


SHOTS: dict[str, tuple[Callable[[Any, Path], None], str, dict[str, Any]]] = {
    "draw": (draw, "draw", {**WIDE, "color_scheme": "light"}),
    "source": (source, "draw", {**WIDE, "color_scheme": "dark"}),
    "edit": (edit, "edit", {**WIDE, "color_scheme": "light"}),
    "mix": (mix, "mix", {**WIDE, "color_scheme": "dark"}),
    "label": (label, "label", {**WIDE, "color_scheme": "light"}),
    "phone": (phone, "draw", {**PHONE, "color_scheme": "light"}),
}


def _long_hair(page: Any, panel: str) -> None:
    page.locator(f"#panel-{panel} .tools [aria-label^=Mirror]").click()
    part(page, panel, "hair", 60)
    stroke(page, panel, [(0.16, 0.42), (0.15, 0.62), (0.19, 0.97)])
    page.locator(f"#panel-{panel} .tools [aria-label^=Mirror]").click()


def shoot(page: Any, path: Path) -> None:
    """Write what the window shows, as small as PNG can."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(stream, format="PNG", optimize=True)
    write_bytes(path, stream.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(SHOTS), help="some of " + ", ".join(SHOTS))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = os.environ.get("SIS_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with Running([load_pack("toonhead")], port=0, warm=True) as running, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in args.only.split(","):
            take, tab, options = SHOTS[name]
            page = browser.new_context(**options).new_page()
            page.goto(f"{running.url}#{tab}")
            page.locator(f"#panel-{tab} .thumb img[src]").first.wait_for()
            page.wait_for_timeout(2000)
            take(page, args.out)
            page.context.close()
            print(f"{name}: written to {args.out}")
        browser.close()


if __name__ == "__main__":
    main()
