"""The page in a real browser over a real studio: drawing by mouse and keys, two users, a phone, accessibility."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from studio_browser import after, chromium, drawn, pixels, remember, stroke, visit

from sis_rearrange import load_pack

pytest.importorskip("gradio", reason="the extra studio is not installed")

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
HAIR = [(0.06, 0.2), (0.1, 0.5), (0.06, 0.8)]  # down the left margin, where the drawing has background


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(browser: Any) -> Iterator[str]:
    from sis_rearrange.studio.server import Running

    with Running([load_pack("toonhead")], port=0, warm=True) as running:
        yield running.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with visit(browser, url) as found:
        drawn(found)
        yield found


def test_a_stroke_changes_the_picture_where_it_was_drawn(page: Any) -> None:
    before = drawn(page).astype(int)
    changed = np.abs(after(page, lambda: stroke(page, HAIR)).astype(int) - before).mean(axis=2)
    side = changed.shape[1]
    here, elsewhere = changed[side // 5 : -side // 5, : side // 6], changed[:, side // 2 :]
    assert here.mean() > 20 > 4 * elsewhere.mean()


def test_the_picture_follows_while_the_pen_is_down(page: Any) -> None:
    before, kept = drawn(page), remember(page)
    box = page.locator("#panel-draw .sheet").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 30, box["y"] + 300, steps=5)
    during = before
    for _ in range(100):
        during = drawn(page)
        if not np.array_equal(during, before):
            break
        page.wait_for_timeout(50)
    assert remember(page) == kept  # nothing is kept before the pen is lifted
    page.mouse.up()
    assert not np.array_equal(during, before)


def test_undo_redo_and_history(page: Any) -> None:
    first = drawn(page)
    second = after(page, lambda: stroke(page, HAIR))
    page.locator("#panel-draw .sheet").focus()
    page.keyboard.press("Control+z")
    assert np.array_equal(_settled(page, first), first)
    page.keyboard.press("Control+Shift+Z")
    assert np.array_equal(_settled(page, second), second)
    page.locator("#panel-draw .strip-list button").last.click()
    assert np.array_equal(_settled(page, first), first)


def test_mirror_fill_and_eraser(page: Any) -> None:
    page.keyboard.press("m")
    assert page.locator("#panel-draw .axis").is_visible()
    both = _sheet(page, lambda: stroke(page, HAIR))
    assert np.array_equal(both[:, 20], both[:, -21])
    page.keyboard.press("m")
    page.keyboard.press("e")
    erased = _sheet(page, lambda: stroke(page, HAIR))
    assert np.array_equal(erased[128, 24], (38, 42, 58)) and np.array_equal(erased[128, 231], (240, 190, 50))
    page.keyboard.press("g")
    page.keyboard.press("7")
    filled = _sheet(page, lambda: stroke(page, [(0.5, 0.08), (0.5, 0.08)]))
    assert (filled == (126, 150, 62)).all(axis=2).mean() > 0.1


def test_every_kind_of_drawing_makes_a_picture(page: Any) -> None:
    for mode in ("Scribble", "Sketch", "Clusters", "Exemplar"):
        page.locator("#panel-draw .segment", has_text=mode).click()
        if mode in ("Scribble", "Sketch"):
            page.get_by_text("and the picture appears here").wait_for()
            after(page, lambda: page.get_by_role("button", name="From the look").click())
        if mode != "Exemplar":
            after(page, lambda: stroke(page, [(0.25, 0.55), (0.75, 0.5)]))
    assert page.locator("#panel-draw .well").is_visible()
    assert drawn(page).std() > 20
    assert page.locator("#toasts .error").count() == 0


def test_pointing_at_a_region_lights_its_source(page: Any) -> None:
    page.wait_for_selector("#panel-draw .small-view:nth-child(2) .picture[src]")
    source = page.locator("#panel-draw .look .overlay")
    assert _ink(source) == 0
    box = page.locator("#panel-draw .result .stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert _ink(source) > 0
    page.mouse.move(2, 2)
    assert _ink(source) == 0
    page.locator("#panel-draw .result .stage").focus()
    page.keyboard.press("ArrowLeft")
    assert _ink(source) > 0
    assert "of the look" in page.locator("#announcer").text_content()


def test_looks_variations_comparison_and_command(page: Any) -> None:
    before = drawn(page)
    another = after(page, lambda: page.get_by_role("button", name="Look: seed 3").first.click())
    assert not np.array_equal(before, another)
    after(page, lambda: page.get_by_role("button", name="Next look").first.click())
    assert page.locator("#panel-draw .look .seed-row input").input_value() == "4"
    page.get_by_role("button", name="Show variations").click()
    page.locator(".variation-grid img").nth(7).wait_for()
    found = [pixels(each.get_attribute("src")) for each in page.locator(".variation-grid img").all()]
    assert len({each.tobytes() for each in found}) > 2
    page.keyboard.press("c")
    line = page.get_by_role("slider", name="Before and after")
    line.first.focus()
    page.keyboard.press("Home")
    assert page.locator("#panel-draw .compare").evaluate("e => e.style.getPropertyValue('--at')") == "0%"
    page.get_by_role("button", name="Copy as a command line").first.click()
    command = page.locator("dialog[open] .command").text_content()
    assert command.startswith("sis synthesize toonhead") and "drawing.png" in command
    page.keyboard.press("Escape")


def test_download_carries_the_metadata(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    with page.expect_download() as download:
        page.get_by_role("button", name="Download the picture").first.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    with Image.open(path) as image:
        assert path.suffix == ".png" and {"seed", "condition"} <= set(image.info)


def test_drawing_by_keys_alone(page: Any) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('sheet')"):
            break
    else:
        pytest.fail("the sheet cannot be reached with Tab")
    page.keyboard.press("7")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")

    def line() -> None:
        page.keyboard.press("Space")
        for _ in range(12):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")

    before = drawn(page)
    assert not np.array_equal(after(page, line), before)


def test_tabs_by_keys_and_their_workspaces(page: Any) -> None:
    page.locator("#tab-draw").focus()
    for name, seen in (("edit", "Drop a picture here"), ("mix", "The layout of A"), ("label", "Teach it your parts")):
        page.keyboard.press("ArrowRight")
        page.locator(f"#panel-{name}").get_by_text(seen, exact=False).first.wait_for()
        assert page.locator(f"#tab-{name}").get_attribute("aria-selected") == "true"
        assert page.locator("[role=tabpanel]:visible").count() == 1


def test_two_users_at_once_do_not_meet(browser: Any, url: str) -> None:
    with visit(browser, url) as one, visit(browser, url) as other:
        first, same = drawn(one), drawn(other)
        assert np.array_equal(first, same)
        changed = after(one, lambda: stroke(one, HAIR))
        after(other, lambda: other.get_by_role("button", name="Look: seed 3").first.click())
        assert remember(one) == remember(other) == 2
        assert np.array_equal(drawn(one), changed)
        other.locator("#panel-draw .strip-list button").last.click()
        assert np.array_equal(_settled(other, same), same)


def test_a_phone_has_all_of_it_and_nothing_sticks_out(browser: Any, url: str) -> None:
    with visit(browser, url, **PHONE) as page:
        drawn(page)
        sheet, result = (page.locator(f"#panel-draw {name}").bounding_box() for name in (".sheet", ".result .stage"))
        assert sheet["width"] > 340 and sheet["y"] + sheet["height"] < 844  # both are seen without scrolling
        assert result["y"] > 0 and result["y"] + result["height"] <= sheet["y"]
        for tab in ("draw", "edit", "mix", "label"):
            page.locator(f"#tab-{tab}").tap()
            page.locator(f"#panel-{tab} .panel-title, #panel-{tab} h2").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        page.locator("#tab-draw").tap()
        box = page.locator("#panel-draw .sheet").bounding_box()
        after(page, lambda: page.touchscreen.tap(box["x"] + 30, box["y"] + 30))


def test_only_the_files_of_the_page_are_served_and_nothing_in_it_may_come_from_elsewhere(url: str) -> None:
    with urlopen(url) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        tag, names = answer.headers["ETag"], re.findall(r"studio/([\w.]+)", answer.read().decode())
    for name in names:
        with urlopen(f"{url}studio/{name}") as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(HTTPError, match="304"):
        urlopen(Request(url, headers={"If-None-Match": tag}))
    for name in ("page.py", "..%2fpage.py", "%2e%2e/server.py", "nothing.js"):
        with pytest.raises(HTTPError, match="40[0-9]"):
            urlopen(f"{url}studio/{name}")


def test_a_server_that_is_gone_is_told_in_one_line(browser: Any, url: str) -> None:
    with visit(browser, url, expected=("ERR_FAILED", "Failed to load")) as page:
        drawn(page)
        page.route("**/studio/api/render", lambda route: route.abort())
        stroke(page, HAIR)
        page.locator("#toasts .error", has_text="does not answer").wait_for()
        page.unroute("**/studio/api/render")
        after(page, lambda: stroke(page, [(0.9, 0.2), (0.92, 0.6)]))
        assert page.locator("#toasts .error").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violation(browser: Any, url: str, axe: str, scheme: str) -> None:
    with visit(browser, url, bypass_csp=True, color_scheme=scheme, viewport={"width": 1280, "height": 900}) as page:
        drawn(page)
        page.evaluate(axe)
        found = []
        for tab in ("draw", "edit", "mix", "label"):
            page.locator(f"#tab-{tab}").click()
            page.locator(f"#panel-{tab} .thumb img[src]").first.wait_for()
            result = page.evaluate("axe.run({resultTypes: ['violations']})")
            for each in result["violations"]:
                if each["impact"] in ("serious", "critical"):
                    found.append((tab, each["id"], [node["html"][:120] for node in each["nodes"][:3]]))
        assert not found, json.dumps(found, indent=1)


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config) -> str:
    """The source of axe-core, fetched once by npm into pytest's cache; MPL-2.0, so it is no part of the project."""
    folder = Path(pytestconfig.cache.mkdir("axe-core"))
    source = folder / "axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core is fetched by npm, which is not here")
        made = subprocess.run([npm, "pack", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=60)
        if made.returncode != 0:
            pytest.skip("axe-core cannot be fetched: no network?")
        with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
            source.write_bytes(archive.extractfile("package/axe.min.js").read())  # type: ignore[union-attr]
    return source.read_text(encoding="utf-8")


def _settled(page: Any, wanted: np.ndarray) -> np.ndarray:
    """The picture shown, after waiting a little for it to become the one wanted."""
    for _ in range(60):
        found = drawn(page)
        if np.array_equal(found, wanted):
            break
        page.wait_for_timeout(50)
    return found


def _sheet(page: Any, act: Any) -> np.ndarray:
    """The drawing that is sent after something was done: uint8 [H, W, 3]."""
    sent: list[dict[str, Any]] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "render" in request.url else None)
    after(page, act)
    return pixels("," + sent[-1]["drawing"])


def _ink(canvas: Any) -> int:
    """How many pixels of a canvas are not transparent."""
    pixels_of = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    count: int = canvas.evaluate(f"c => {pixels_of}.filter((v, i) => i % 4 === 3 && v).length")
    return count
