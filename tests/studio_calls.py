"""What the studio's tests share: a studio over the tiny pack, calls of its operations, and pictures in base64."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.studio.replies import to_json
from sis_rearrange.studio.service import Studio


def call(studio: Studio, operation: str, **request: Any) -> dict[str, Any]:
    """A reply as JSON, or the exception of the request."""
    return to_json(studio.submit(operation, request).result(timeout=120))


def finished(studio: Studio, job: str, seconds: float = 240) -> dict[str, Any]:
    """The state of a job once it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = call(studio, "job", id=job)
        if state["state"] not in ("queued", "running"):
            return state
        time.sleep(0.1)
    raise AssertionError(f"{state} after {seconds} seconds")


def base64_of(picture: Image.Image | np.ndarray | bytes, kind: str = "PNG") -> str:
    """A picture or a file as base64."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        stream = io.BytesIO()
        picture.save(stream, kind)
        picture = stream.getvalue()
    return base64.b64encode(picture).decode()


def picture_of(text: str) -> Image.Image:
    """A picture from base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pixels(text: str) -> np.ndarray:
    """Its pixels as RGB, ``[H, W, 3]``."""
    return np.asarray(picture_of(text).convert("RGB"))
