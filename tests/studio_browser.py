"""A real headless Chromium, a real studio, and a page in it that tolerates no error, for the tests of the page."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 20_000  # milliseconds for anything to appear
LOCAL = ("127.0.0.1", "localhost")


def browser_path() -> str:
    """The browser to test in; the test is skipped where there is none."""
    named = os.environ.get("SIS_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: {named or ', '.join(BROWSERS)} not found; SIS_CHROMIUM names another")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser_path()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, url: str, tab: str = "draw", expected: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """A page of its own user. Fails on any error in the console, and on any request that leaves this machine.

    ``expected``: texts of console errors that the test provokes.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    bad: list[str] = []
    page.on("console", lambda message: _note(bad, message, expected))
    page.on("pageerror", lambda error: bad.append(f"error: {error}"))
    page.on("request", lambda request: bad.append(f"left: {request.url}") if _leaves(request.url) else None)
    page.goto(f"{url}#{tab}")
    yield page
    context.close()
    assert not bad, bad


def _note(bad: list[str], message: Any, expected: tuple[str, ...]) -> None:
    if message.type == "error" and not any(text in message.text for text in expected):
        bad.append(f"console: {message.text}")


def _leaves(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname not in LOCAL


def drawn(page: Any, panel: str = "draw") -> np.ndarray:
    """The picture that a workspace shows, once it is settled: uint8 [H, W, 3]."""
    page.wait_for_selector(f"#panel-{panel} .result .picture[src]:not(.before)")
    page.wait_for_selector(f"#panel-{panel} .result:not(.busy)")
    return pixels(page.get_attribute(f"#panel-{panel} .result .picture:not(.before)", "src"))


def pixels(address: str) -> np.ndarray:
    """A data address as uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


def stroke(page: Any, points: list[tuple[float, float]], panel: str = "draw") -> None:
    """Draw with the mouse through points in shares of the sheet."""
    box = page.locator(f"#panel-{panel} .sheet").bounding_box()
    place = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*place[0])
    page.mouse.down()
    for point in place[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def remember(page: Any, panel: str = "draw") -> int:
    """How many pictures the history strip holds."""
    count: int = page.locator(f"#panel-{panel} .strip-list li").count()
    return count


def after(page: Any, act: Callable[[], Any], panel: str = "draw") -> np.ndarray:
    """Do something that makes a new picture, and give it: uint8 [H, W, 3]."""
    before = remember(page, panel)
    act()
    page.locator(f"#panel-{panel} .strip-list li").nth(before).wait_for()
    return drawn(page, panel)


def answered(page: Any, act: Callable[[], Any], operation: str = "render") -> dict[str, Any]:
    """Do something that asks the server, and give its reply: the first one that no newer request made stale."""
    came: list[Any] = []

    def note(response: Any) -> None:
        if response.url.endswith(f"/studio/api/{operation}"):
            came.append(response)

    page.on("response", note)
    act()
    for _ in range(600):
        while came:
            response = came.pop(0)
            assert response.status == 200, response.text()
            found: dict[str, Any] = response.json()
            if "stale" not in found:
                page.remove_listener("response", note)
                return found
        page.wait_for_timeout(50)
    raise AssertionError(f"no answer to {operation}")


def shorten(page: Any, operation: str, **fields: Any) -> None:
    """Let a long job do less: change fields of its request on the way."""

    def change(route: Any) -> None:
        data = {**json.loads(route.request.post_data), **fields}
        route.continue_(post_data=json.dumps(data))

    page.route(f"**/studio/api/{operation}", change)


def picture_file(name: str, image: Image.Image, kind: str = "PNG") -> dict[str, Any]:
    """A file to choose in the browser."""
    stream = io.BytesIO()
    image.save(stream, format=kind)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": stream.getvalue()}
