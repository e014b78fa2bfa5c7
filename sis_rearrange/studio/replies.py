"""What the studio answers, one class per request; `to_json` turns bytes into base64 and leaves out what is None."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any


def to_json(value: Any) -> Any:
    """A reply as JSON-able values: dataclasses become objects, bytes base64, None is left out of objects."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: to_json(each) for name, each in found.items() if each is not None}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {name: to_json(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    return value


@dataclass(frozen=True)
class Stale:
    """A newer `render` of the same client came; nothing was made."""

    stale: bool = True


@dataclass(frozen=True)
class Part:
    """A class of part masks: paint it in ``colour``."""

    name: str
    label: int
    colour: str  # "#rrggbb"


@dataclass(frozen=True)
class Described:
    """Reply to `describe`."""

    pack: str
    packs: list[str]
    version: str
    resolution: int  # r: cells per side of proxy masks, of the correspondence and of the confidence
    img_resolution: int  # R: pixels per side of the generator's pictures
    num_ws: int  # layers of `mix` are 1 to num_ws - 1
    conditions: list[str]
    parts: list[Part]  # [] where the pack names none
    clusters: list[str]  # "#rrggbb" by label: the colours of proxy masks
    drawings: list[str]  # conditions with an example drawing; none are sent
    can_edit_parts: bool  # whether `edit` takes part masks, and `start` gives them
    can_transfer: bool
    can_label: bool
    limits: dict[str, float]
    credit: str


@dataclass(frozen=True)
class Alternative:
    """Another layout of the same drawing."""

    image: bytes
    proxy_mask: bytes
    confidence: bytes
    metadata: dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """Reply to `render`. Grids are the generator's square, row by row from the top left; the image may be part of it.

    A pixel of the image at (x, y) in [0, 1] lies at ``left + x (right - left)``, ``top + y (bottom - top)`` of the
    square, where ``box`` is [left, top, right, bottom]; [0, 0, 1, 1] for square drawings.
    """

    image: bytes  # PNG with metadata
    proxy_mask: bytes  # palette PNG, r x r: the mask the model read, in the clusters' colours
    correspondence: bytes  # uint8 [r, r, 2]: row and column of the source cell that each cell came from
    confidence: bytes  # uint8 [r, r]: the mapper's probability of its mask, 255 is 1
    source_image: bytes  # PNG: the look
    source_proxy_mask: bytes  # palette PNG, r x r
    box: list[float]
    metadata: dict[str, str]
    command: str  # one line for a shell; takes the drawing as drawing.png, an inversion as NAME.safetensors
    needs: list[str]  # file names that the command reads
    alternatives: list[Alternative]
    milliseconds: dict[str, float]  # "working": in the server, without the wait for others
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thumbnail:
    """A look in the gallery."""

    seed: int
    image: bytes


@dataclass(frozen=True)
class Gallery:
    """Reply to `gallery`."""

    psi: float
    looks: list[Thumbnail]


@dataclass(frozen=True)
class Started:
    """Reply to `start`."""

    image: bytes  # PNG: the look
    proxy_mask: bytes  # palette PNG, r x r
    part_mask: bytes | None  # palette PNG, R x R; None where the pack has no segmenter
    drawings: dict[str, bytes]  # PNG by condition: the look as somebody would have drawn it


@dataclass(frozen=True)
class Uploaded:
    """Reply to `upload`. The picture is upright: turned by its EXIF orientation."""

    token: str
    name: str
    width: int
    height: int
    crop: dict[str, int]  # the square that `invert` takes without one
    warnings: list[str]


@dataclass(frozen=True)
class JobStarted:
    """Reply to `invert`, `morph` and `label_train`."""

    job: str


@dataclass(frozen=True)
class JobState:
    """Reply to `job` and `cancel`."""

    id: str
    state: str  # queued, running, done, failed or cancelled
    fraction: float  # [0, 1]
    message: str  # one line: what is being done, or why it failed
    eta: float | None  # seconds, where it can be told
    before: int  # jobs that come first
    reply: Any = None  # Inverted, Morphed or Learnt, once done


@dataclass(frozen=True)
class Inverted:
    """Reply of an `invert` job. ``token`` is a look from now on: ``{"picture": token}``."""

    token: str
    image: bytes  # PNG, R x R: as the generator shows it
    original: bytes  # PNG: the crop, scaled down for display
    proxy_mask: bytes  # palette PNG, r x r
    part_mask: bytes | None  # palette PNG, R x R
    error_map: bytes  # PNG: red where it was not found
    psnr: float
    outside: bool  # of the generator's domain
    crop: dict[str, int]
    file: str  # the name of the inversion in commands
    command: str
    warnings: list[str]


@dataclass(frozen=True)
class Edited:
    """Reply to `edit`."""

    image: bytes  # PNG: the whole picture, or its square scaled down for display
    weight: bytes  # grey PNG over the square: 0 where the pixels are the picture's own
    proxy_mask: bytes  # palette PNG, r x r: afterwards
    kind: str  # "proxy" or "parts"
    cells: int  # that were changed
    agreement: float  # these two: see `Edited`
    shows: float
    command: str
    needs: list[str]
    metadata: dict[str, str]
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class Mixed:
    """Reply to `mix` and `transfer`."""

    image: bytes
    command: str
    needs: list[str]
    metadata: dict[str, str]
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class Morphed:
    """Reply of a `morph` job."""

    gif: bytes
    frames: int
    command: str
    needs: list[str]


@dataclass(frozen=True)
class Learnt:
    """Reply of a `label_train` job. ``condition`` is a condition for `render` from now on, with these parts."""

    condition: str
    kind: str  # "segmentation" or "scribble": how it is drawn
    parts: list[Part]
    learnt: bytes  # PNG: other samples beside the parts that are seen in them
    minutes: float


@dataclass(frozen=True)
class FileSent:
    """Reply to `file`."""

    name: str
    data: bytes
