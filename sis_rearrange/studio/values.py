"""What requests are made of: looks, drawings, crops, own classes, and the limits of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sis_rearrange.errors import InputError
from sis_rearrange.sampling import MAX_PSI
from sis_rearrange.studio.fields import Fields, shown

MAX_SEED = 2**53 - 1  # beyond it JavaScript's numbers skip some


@dataclass(frozen=True)
class Limits:
    """What one server takes; `describe` tells them to the page."""

    drawing_bytes: int = 4_000_000  # of a drawing or mask file
    drawing_pixels: int = 2048 * 2048
    mask_pixels: int = 1024 * 1024  # of proxy masks, edited masks and painted samples
    upload_bytes: int = 16_000_000  # of a picture to invert
    upload_pixels: int = 24_000_000
    samples: int = 8  # layouts of one drawing
    refine: int = 12  # steps that fit a picture to its drawing
    gallery: int = 48  # looks in one request
    frames: int = 60  # of a morph
    classes: int = 24  # own ones
    waiting: int = 32  # requests in the queue, of all clients
    waiting_of_one: int = 8  # of one client
    seconds: float = 30.0  # from arrival to answer of whatever is not a job
    jobs: int = 8  # that wait or run
    job_seconds: float = 1800.0  # of one job
    pictures: int = 256  # uploads, inversions, sets of own classes, of each
    disk_bytes: int = 2_000_000_000  # of their files
    keep_seconds: float = 4 * 3600.0  # that a token is kept after it was last used

    @property
    def body_bytes(self) -> int:
        """Of a whole request: the largest picture in base64, and room for the rest."""
        return max(self.upload_bytes, 2 * self.drawing_bytes) * 4 // 3 + 100_000


@dataclass(frozen=True)
class Look:
    """Where a look comes from: a seed, or an inverted picture."""

    seed: int | None = None
    psi: float | None = None  # None: `sampling.DEFAULT_PSI`; of an exemplar's sample: the look's
    picture: str | None = None  # token of an inverted picture

    @staticmethod
    def read(value: Any, where: str) -> Look:
        """From ``{"seed", "psi"}`` or ``{"picture"}``."""
        fields = Fields(value, where)
        seed, picture = fields.whole("seed", 0, MAX_SEED, None), fields.token("picture", None)
        psi = fields.number("psi", -MAX_PSI, MAX_PSI, None)
        fields.done()
        if (seed is None) == (picture is None):
            raise InputError(f"{where}: give a seed or a picture, one of the two")
        return Look(seed, psi, picture)


@dataclass(frozen=True)
class Drawing:
    """A drawing as a file, or, for an exemplar, the sample or inverted picture whose layout is wanted."""

    data: bytes | None = None
    look: Look | None = None

    @staticmethod
    def read(value: Any, where: str, limits: Limits) -> Drawing:
        """From base64, or ``{"seed", "psi"}`` or ``{"picture"}``."""
        if isinstance(value, Mapping):
            return Drawing(look=Look.read(value, where))
        holder = Fields({"drawing": value}, where.rpartition(".")[0] or "request")
        return Drawing(data=holder.picture("drawing", limits.drawing_bytes))


@dataclass(frozen=True)
class CropBox:
    """The square of an uploaded picture to look at, in its upright pixels."""

    x: int
    y: int
    size: int

    @staticmethod
    def read(value: Any, where: str) -> CropBox:
        """From ``{"x", "y", "size"}``."""
        fields = Fields(value, where)
        x, y, size = (fields.whole(name, low, 10**6) for name, low in (("x", 0), ("y", 0), ("size", 1)))
        fields.done()
        return CropBox(x, y, size)


@dataclass(frozen=True)
class OwnClass:
    """A part that somebody named."""

    name: str
    colour: tuple[int, int, int]

    @staticmethod
    def read(value: Any, where: str) -> OwnClass:
        """From ``{"name": "hair", "colour": "#rrggbb"}`` or a list of three numbers as the colour."""
        fields = Fields(value, where)
        name = fields.text("name", 40).strip()
        colour = fields.nested("colour", _colour)
        fields.done()
        if not name:
            raise InputError(f"{where}.name: is empty")
        return OwnClass(name, colour)


def _colour(value: Any, where: str) -> tuple[int, int, int]:
    if isinstance(value, str) and len(value) == 7 and value[0] == "#" and value[1:].isalnum():
        try:
            return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
        except ValueError:
            pass
    if isinstance(value, list) and len(value) == 3:
        red, green, blue = value
        if all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value):
            return red, green, blue
    raise InputError(f'{where}: expected a colour such as "#c04020", got {shown(value)}')
