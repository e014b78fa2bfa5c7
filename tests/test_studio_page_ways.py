"""Ways through the page that once lost something: history, films, keys when zoomed in, wrong files, stale links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studio_browser import after, answered, chromium, drawn, picture_file, remember, shorten, stroke, visit

from sis_rearrange import load_pack

pytest.importorskip("gradio", reason="the extra studio is not installed")

JOB = 120_000  # milliseconds for a job to end
HAIR = [(0.06, 0.2), (0.1, 0.5), (0.06, 0.8)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(browser: Any, tiny_pack_path: Path) -> Iterator[str]:
    from sis_rearrange.studio.server import Running

    with Running([load_pack(tiny_pack_path), load_pack("toonhead")], port=0, backend="torch") as running:
        yield running.url


def test_undo_redo_and_going_back_add_nothing_to_the_history(browser: Any, url: str) -> None:
    with visit(browser, f"{url}?pack=toonhead") as page:
        drawn(page)
        after(page, lambda: stroke(page, HAIR))
        assert _current(page) == [2]
        page.locator("#panel-draw .sheet").focus()
        for key, shown in (("Control+z", 1), ("Control+Shift+Z", 2)):
            page.keyboard.press(key)
            _marked(page, shown)
        page.locator("#panel-draw .strip-list button").last.click()
        drawn(page)
        assert _current(page) == [1] and remember(page) == 2
        page.locator("#panel-draw .segment", has_text="Sketch").click()
        _marked(page, None)


def test_a_closer_fit_corrects_the_picture_after_each_stroke(browser: Any, url: str) -> None:
    with visit(browser, f"{url}?pack=toonhead") as page:
        before, refined = drawn(page), []
        closer = page.get_by_role("button", name="Closer fit")
        assert closer.get_attribute("aria-pressed") == "false"
        after(page, lambda: refined.append(answered(page, closer.click)))
        assert refined[0]["metadata"]["refine"] == "6" and closer.get_attribute("aria-pressed") == "true"
        assert (drawn(page) != before).any() and remember(page) == 2
        after(page, lambda: stroke(page, HAIR))
        page.locator("#panel-draw .strip-list button").last.click()  # as it was at first
        drawn(page)
        assert closer.get_attribute("aria-pressed") == "false"
        page.locator("#panel-draw .segment", has_text="Sketch").click()
        assert closer.is_hidden()


def test_films_stay_in_the_history(browser: Any, url: str) -> None:
    with visit(browser, url, "mix") as page:
        drawn(page, "mix")
        shorten(page, "morph", frames=4)
        film = page.locator("#panel-mix .result .picture[src^='data:image/gif']")
        way = page.locator("#panel-mix .segment")
        way.filter(has_text="Morph").click()
        page.get_by_role("button", name="Make the film").click()
        film.wait_for(timeout=JOB)
        _marked(page, 2, "mix")
        way.filter(has_text="Rearrange").click()
        _marked(page, 1, "mix")
        way.filter(has_text="Morph").click()
        film.wait_for()  # A and B are what they were
        page.get_by_role("button", name="Next look").first.click()
        page.get_by_text("Press Make the film").wait_for()
        page.locator("#panel-mix .strip-list button").first.click()
        film.wait_for()
        assert page.locator("#panel-mix .seed-row input").first.input_value() == "11"
        assert _current(page, "mix") == [2] and remember(page, "mix") == 2


def test_keys_in_a_drawing_that_is_zoomed_in(browser: Any, url: str) -> None:
    with visit(browser, f"{url}?pack=toonhead") as page:
        drawn(page)
        page.locator("#panel-draw .sheet").focus()
        for _ in range(4):
            page.keyboard.press("+")
        for _ in range(60):
            page.keyboard.press("ArrowLeft")
        ring, stage = (page.locator(f"#panel-draw .board {name}").bounding_box() for name in (".ring", ".sheet"))
        assert stage["x"] <= ring["x"] + ring["width"] / 2 <= stage["x"] + stage["width"] / 4
        page.keyboard.press("v")
        before = remember(page)
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        assert page.get_by_role("button", name="Undo").first.is_disabled()
        page.keyboard.press("b")
        after(page, lambda: page.keyboard.press("Enter"))
        assert remember(page) == before + 1


def test_a_photo_is_no_drawing_of_parts(browser: Any, url: str) -> None:
    photo = picture_file("face.png", _photo())
    with visit(browser, url) as page:
        drawn(page)
        page.locator("#panel-draw .start input[type=file]").set_input_files(photo)
        told = page.locator("#toasts .error", has_text="face.png")
        told.get_by_text("looks like a photo").wait_for()
        assert page.get_by_role("button", name="Undo").first.is_disabled()
        told.get_by_role("button", name="Edit it as a photo").click()
        page.locator("#panel-edit .crop-box").wait_for()
        assert page.locator("#tab-edit").get_attribute("aria-selected") == "true"


def test_nothing_to_vary_or_compare_without_a_picture(browser: Any, url: str) -> None:
    with visit(browser, url) as page:
        drawn(page)
        names = ("Show variations", "Before and after")
        vary, compare = (page.locator("#panel-draw").get_by_role("button", name=name) for name in names)
        assert vary.is_enabled() and compare.is_enabled()
        page.locator("#panel-draw .segment", has_text="Sketch").click()
        page.get_by_text("Draw some lines").wait_for()
        assert vary.is_disabled() and compare.is_disabled()
        page.keyboard.press("c")
        assert page.locator("#panel-draw .compare").is_hidden()
        after(page, lambda: _start(page))
        assert vary.is_enabled() and compare.is_enabled()


def test_a_link_to_a_pack_that_is_gone_opens_the_first(browser: Any, url: str) -> None:
    with visit(browser, f"{url}?pack=gone", expected=("400",)) as page:
        page.locator("#toasts").get_by_text("This server has no pack gone").wait_for()
        drawn(page)
        assert page.locator(".pack-choice").input_value() == "tiny"
        assert "gone" not in page.url
    with visit(browser, f"{url}?pack=toonhead") as page:
        drawn(page)
        assert page.locator(".pack-choice").input_value() == "toonhead"
        assert page.locator("#toasts > *").count() == 0


@pytest.mark.parametrize("width", [360, 390])
def test_the_header_of_a_phone_is_low(browser: Any, url: str, width: int) -> None:
    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "has_touch": True, "is_mobile": True}
    with visit(browser, url, **options) as page:
        page.locator(".pack-choice").wait_for()
        assert page.locator(".bar").bounding_box()["height"] < 90
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_list_of_keys_is_that_of_the_tab(browser: Any, url: str) -> None:
    with visit(browser, url) as page:
        drawn(page)
        for tab, few in (("draw", False), ("mix", True)):
            page.locator(f"#tab-{tab}").click()
            page.get_by_role("button", name="Keys").click()
            keys = page.locator("dialog[open] dt").all_text_contents()
            assert ("R" in keys) != few and (keys == ["C", "?"]) == few
            page.keyboard.press("Escape")


def _start(page: Any) -> None:
    page.get_by_role("button", name="From the look").click()


def _current(page: Any, panel: str = "draw") -> list[int]:
    """Numbers of the pictures that the history marks as shown."""
    marked = page.locator(f"#panel-{panel} .strip-list [aria-current]").all()
    return [int(each.get_attribute("aria-label").split()[-1]) for each in marked]


def _marked(page: Any, number: int | None, panel: str = "draw") -> None:
    """Wait until the history marks a picture, or none."""
    wanted = [] if number is None else [number]
    for _ in range(200):
        if _current(page, panel) == wanted:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the history marks {_current(page, panel)}, not {wanted}")


def _photo() -> Image.Image:
    """A picture with the many tones of a photo."""
    tones = np.add.outer(np.linspace(20, 160, 96), np.linspace(0, 90, 96))
    return Image.fromarray(np.stack([tones, 0.8 * tones + 20, 0.6 * tones + 30], axis=-1).astype(np.uint8))
