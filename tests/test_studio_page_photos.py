"""Photos and own parts in the page: what is refused, and the way from a file to an edited picture and a new mapper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SIDE, tiny_head
from PIL import Image
from studio_browser import after, answered, chromium, drawn, picture_file, pixels, shorten, stroke, visit

from sis_rearrange import load_pack

pytest.importorskip("gradio", reason="the extra studio is not installed")

JOB = 120_000  # milliseconds for a job to end


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def studio(browser: Any, tiny_pack_path: Path) -> Iterator[Any]:
    from sis_rearrange.studio.server import Running
    from sis_rearrange.studio.values import Limits

    limits = Limits(upload_bytes=200_000, upload_pixels=250_000)
    with Running([load_pack(tiny_pack_path)], limits, port=0, backend="torch") as running:
        yield running


@pytest.fixture(scope="module")
def url(studio: Any) -> str:
    return str(studio.url)


def _choose(page: Any, file: dict[str, Any]) -> None:
    page.locator("#panel-edit input[type=file]").set_input_files(file)


def test_bad_files_are_told_in_one_line_and_nothing_breaks(browser: Any, url: str) -> None:
    whole = picture_file("whole.png", Image.fromarray(tiny_head(64)[0]))
    bad = {
        "text.txt": ({"mimeType": "text/plain", "buffer": b"hello"}, "use a PNG, JPEG or WebP"),
        "fake.png": ({"mimeType": "image/png", "buffer": b"this is no picture"}, "cannot be read"),
        "empty.png": ({"mimeType": "image/png", "buffer": b""}, "is empty"),
        "half.png": ({"mimeType": "image/png", "buffer": whole["buffer"][:200]}, "half.png"),
        "huge.png": (picture_file("huge.png", Image.new("1", (600, 600))), "pixels are too many"),
        "heavy.png": ({"mimeType": "image/png", "buffer": b"0" * 200_001}, "is too large"),
    }
    with visit(browser, url, "edit", expected=("400",)) as page:
        well = page.locator("#panel-edit .drop-well")
        well.wait_for()
        for name, (file, message) in bad.items():
            _choose(page, {**file, "name": name})
            told = page.locator("#panel-edit .inline-error", has_text=message)
            told.wait_for()
            assert "\n" not in told.text_content() and well.is_visible(), name
            page.locator("#panel-edit .inline-error").evaluate("e => (e.hidden = true)")
        _choose(page, whole)
        page.locator(".crop-box").wait_for()
        assert page.locator("#panel-edit .inline-error").is_hidden()


def test_a_file_dropped_on_the_drawing_is_taken_or_refused(browser: Any, url: str) -> None:
    drop = """([name, type, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type}));
        for (const kind of ["dragenter", "drop"])
            document.querySelector("#panel-draw .board")
                .dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
    }"""
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32], half[:, 32:] = (255, 213, 170), (220, 50, 80)
    with visit(browser, url) as page:
        drawn(page)
        file = picture_file("half.png", Image.fromarray(half))
        answered(page, lambda: page.evaluate(drop, ["half.png", "image/png", list(file["buffer"])]))
        sheet = page.locator("#panel-draw .sheet")
        colour = (
            "c => [0.25, 0.75].map(x => [...c.getContext('2d').getImageData(c.width * x, c.height / 2, 1, 1).data])"
        )
        assert sheet.evaluate(colour) == [[255, 213, 170, 255], [220, 50, 80, 255]]
        page.evaluate(drop, ["bad.png", "image/png", [1, 2, 3]])
        page.locator("#toasts .error", has_text="bad.png").wait_for()
        assert sheet.evaluate(colour) == [[255, 213, 170, 255], [220, 50, 80, 255]]


def test_the_square_of_a_photo_by_mouse_and_keys(browser: Any, url: str) -> None:
    photo = Image.new("RGB", (120, 80), (90, 60, 30))
    with visit(browser, url, "edit") as page:
        _choose(page, picture_file("wide.png", photo))
        box = page.locator(".crop-box")
        box.wait_for()
        sent: list[dict[str, Any]] = []
        page.on("request", lambda request: sent.append(request.post_data_json) if "invert" in request.url else None)
        place = box.bounding_box()
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.down()
        page.mouse.move(place["x"] + 400, place["y"] + 40, steps=5)
        page.mouse.up()
        assert abs(box.bounding_box()["x"] - place["x"]) > 50
        page.keyboard.press("-")
        page.keyboard.press("-")
        page.keyboard.press("ArrowLeft")
        page.get_by_role("button", name="Find it in the generator").click()
        page.get_by_role("button", name="Cancel").click()
        page.locator(".crop-box").wait_for()
        crop = sent[0]["crop"]
        assert crop["size"] < 80 and 0 <= crop["x"] <= 120 - crop["size"] and 0 <= crop["y"] <= 80 - crop["size"]


def _find(page: Any, file: dict[str, Any]) -> None:
    """Take a photo through all steps, up to the mask to paint in."""
    shorten(page, "invert", steps=2, tune=False)
    _choose(page, file)
    page.get_by_role("button", name="Find it in the generator").click()
    page.locator("#panel-edit .sheet").wait_for(timeout=JOB)


def test_from_a_photo_to_an_edited_picture_and_a_look(browser: Any, url: str) -> None:
    with visit(browser, url, "edit") as page:
        _find(page, picture_file("head.png", Image.fromarray(tiny_head(SIDE)[0])))
        original = drawn(page, "edit").astype(int)
        edited = after(page, lambda: stroke(page, [(0.1, 0.1), (0.2, 0.15)], "edit"), "edit").astype(int)
        changed = np.abs(edited - original).max(axis=2)
        middle = changed.shape[0] // 2
        assert changed[:middle, :middle].max() > 8
        assert changed[middle:, middle:].max() <= 1  # far from the stroke the photo is itself
        page.get_by_role("button", name="Draw with this look").click()
        page.locator("#panel-draw .thumb.photo[aria-pressed=true]").wait_for()
        assert "--source head.safetensors" in _command(page)


def test_how_much_of_a_change_shows_and_the_history_agrees(browser: Any, url: str) -> None:
    with visit(browser, url, "edit") as page:
        _find(page, picture_file("head.png", Image.fromarray(tiny_head(SIDE)[0])))
        told, hint = page.locator("#panel-edit .shown"), page.get_by_text("Most of this change does not show")
        assert told.is_hidden()
        shares = [0.64]
        page.route(
            "**/studio/api/edit", lambda route: route.fulfill(json={**route.fetch().json(), "shows": shares[-1]})
        )
        after(page, lambda: stroke(page, [(0.1, 0.2), (0.2, 0.2)], "edit"), "edit")
        told.get_by_text("The change shows in 64 % of what you painted").wait_for()
        assert hint.is_hidden()
        shares.append(0.21)
        after(page, lambda: stroke(page, [(0.8, 0.1), (0.9, 0.2)], "edit"), "edit")
        told.get_by_text("The change shows in 21 % of what you painted").wait_for()
        assert hint.is_visible()
        current = page.locator("#panel-edit .strip-list [aria-current]")
        current.click()
        page.locator("#panel-edit .sheet").focus()
        page.keyboard.press("Control+z")  # the second stroke: to be where one is takes no step
        told.get_by_text("21 %").wait_for()
        page.keyboard.press("Control+z")
        told.wait_for(state="hidden")
        assert current.count() == 0  # the photo is shown as it was
        page.locator("#panel-edit .strip-list button").last.click()
        told.wait_for()
        assert current.count() == 1 and page.locator("#panel-edit .strip-list li").count() == 2
        page.unroute_all(behavior="wait")


def test_every_file_of_a_command_is_offered_under_its_name(browser: Any, url: str) -> None:
    photo = picture_file("wide my photo.jpg", Image.fromarray(tiny_head(SIDE)[0]), "JPEG")
    with visit(browser, url, "edit") as page:
        _find(page, photo)
        after(page, lambda: stroke(page, [(0.1, 0.1), (0.2, 0.15)], "edit"), "edit")
        files = _files(page, "edit")
        assert list(files) == ["wide_my_photo.jpg", "mask.png", "wide_my_photo.safetensors"]
        assert files["wide_my_photo.jpg"] == photo["buffer"]
        assert files["mask.png"].startswith(b"\x89PNG")
        page.get_by_role("button", name="Draw with this look").click()
        page.locator("#panel-draw .thumb.photo[aria-pressed=true]").wait_for()
        drawn(page)
        again = _files(page, "draw")
        assert list(again) == ["drawing.png", "wide_my_photo.safetensors"]
        assert again["wide_my_photo.safetensors"] == files["wide_my_photo.safetensors"]


def test_the_layout_of_a_photo_in_the_look_of_a_sample(browser: Any, url: str) -> None:
    with visit(browser, url) as page:
        drawn(page)
        after(page, lambda: page.locator("#panel-draw .segment", has_text="Exemplar").click())
        shorten(page, "invert", steps=2, tune=False)
        photo = picture_file("layout.png", Image.fromarray(tiny_head(SIDE)[0]))
        page.locator("#panel-draw .well input[type=file]").set_input_files(photo)
        page.locator("dialog[open]").get_by_role("button", name="Find it in the generator").click()
        page.locator("#panel-draw .strip-list li").nth(2).wait_for(timeout=JOB)
        drawn(page)
        assert list(_files(page, "draw")) == ["layout.safetensors"]
        assert page.locator("#toasts .error").count() == 0


def _files(page: Any, panel: str) -> dict[str, bytes]:
    """What the dialog of the command offers: bytes by the name they are kept under, which the command has too."""
    page.locator(f"#panel-{panel}").get_by_role("button", name="Copy as a command line").click()
    dialog = page.locator("dialog[open]")
    words, found = dialog.locator(".command").text_content().split(), {}
    for offer in dialog.locator(".needs button").all():
        with page.expect_download() as download:
            offer.click()
        found[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    kinds = (".png", ".jpg", ".safetensors")
    assert set(found) == {word for word in words if word.endswith(kinds) and not word.startswith("out/")}
    page.keyboard.press("Escape")
    return found


def _painted(page: Any) -> None:
    """Two parts of one's own, one of them named here, both painted."""
    page.get_by_text("Not painted yet").wait_for()
    assert page.get_by_role("button", name="Train").is_disabled()
    page.get_by_role("textbox", name="Name of part 2").fill("face")
    for place in (4, 3):
        page.get_by_role("button", name="Remove").nth(place - 1).click()
    for place, points in enumerate(([(0.1, 0.1), (0.1, 0.9)], [(0.5, 0.4), (0.5, 0.6)])):
        page.locator(".class-pick").nth(place).click()
        stroke(page, points, "label")
    page.get_by_text("ready to train").wait_for()


def test_own_parts_are_painted_and_training_begins_and_can_be_stopped(browser: Any, url: str) -> None:
    with visit(browser, url, "label") as page:
        _painted(page)
        sent: list[dict[str, Any]] = []
        page.on(
            "request", lambda request: sent.append(request.post_data_json) if "label_train" in request.url else None
        )
        page.get_by_role("button", name="Train").click()
        page.get_by_text("learning to see the parts").wait_for(timeout=JOB)
        assert page.get_by_role("progressbar").get_attribute("value") != "0"
        page.get_by_role("button", name="Cancel").click()
        page.locator("#panel-label .job").wait_for(state="hidden")
        assert [each["name"] for each in sent[0]["classes"]] == ["background", "face"]
        mask = pixels("," + sent[0]["mask"])
        assert {tuple(colour) for colour in mask.reshape(-1, 3)} == {(255, 255, 255), (38, 42, 58), (255, 201, 138)}


def test_learnt_parts_become_a_kind_of_drawing(browser: Any, studio: Any, tiny_pack_path: Path) -> None:
    """Training takes minutes, so its end is brought forward: a pack with its parts lies where it would be."""
    from sis_rearrange.studio.replies import Learnt, Part, to_json
    from sis_rearrange.studio.service import OWN_NAME

    entry = studio.studio.store.add("classes", condition="segmentation", pack="tiny", name=OWN_NAME)
    shutil.copytree(tiny_pack_path, entry.folder / OWN_NAME)
    described = load_pack(tiny_pack_path).palette()
    assert described is not None
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in described.colours]
    parts = [Part(name, at, colours[at]) for at, name in enumerate(described.names)]
    sheet = picture_file("sheet.png", Image.fromarray(tiny_head(64)[0]))["buffer"]
    end = {"id": "0" * 16, "state": "done", "fraction": 1, "message": "", "before": 0}
    end["reply"] = to_json(Learnt(entry.token, "segmentation", parts, sheet, 1.5))
    with visit(browser, studio.url, "label") as page:
        page.route("**/studio/api/label_train", lambda route: route.fulfill(json={"job": "0" * 16}))
        page.route("**/studio/api/job", lambda route: route.fulfill(json=end))
        _painted(page)
        page.get_by_role("button", name="Train").click()
        page.locator(".learnt img").wait_for()
        page.get_by_role("button", name="Draw with your parts").click()
        page.locator("#panel-draw .segment", has_text="Own").wait_for()
        drawn(page)
        page.wait_for_load_state("networkidle")  # the page's own first pictures
        reply = answered(page, lambda: stroke(page, [(0.5, 0.5), (0.5, 0.5)]))
        assert reply["image"] and reply["metadata"]["condition"] == "segmentation"
        assert page.locator("#toasts .error").count() == 0


def _command(page: Any) -> str:
    drawn(page)
    page.get_by_role("button", name="Copy as a command line").first.click()
    text: str = page.locator("dialog[open] .command").text_content()
    return text


def test_a_film_from_one_layout_to_another(browser: Any, url: str) -> None:
    with visit(browser, url, "mix") as page:
        drawn(page, "mix")
        page.locator("#panel-mix .segment", has_text="Morph").click()
        page.locator("#panel-mix .result", has_text="Press Make the film").wait_for()
        shorten(page, "morph", frames=4)
        page.get_by_role("button", name="Make the film").click()
        page.locator("#panel-mix .result .picture[src^='data:image/gif']").wait_for(timeout=JOB)
        with page.expect_download() as download:
            page.locator("#panel-mix").get_by_role("button", name="Download the picture").click()
        assert download.value.suggested_filename.endswith("-morph.gif")
        with Image.open(download.value.path()) as film:
            film.seek(3)  # as many frames as were asked for, at least
