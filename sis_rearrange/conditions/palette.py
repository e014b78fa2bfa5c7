"""The class palette of a domain: which colour or index stands for which part."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from sis_rearrange.conditions.palette_reading import TOLERANCE, UNPAINTED, LabelReading, read_labels
from sis_rearrange.errors import InputError, InputWarning, nearest

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Class names and their 8-bit RGB colours; the position in the tuples is the label.

    Several classes may have one name, which gives a part several colours. Raises `InputError` if the lengths differ,
    a colour is not three values in 0-255, an index occurs twice, or two classes share a colour without being `shared`.
    """

    names: tuple[str, ...]  # one per class, e.g. ("background", "hair")
    colours: tuple[Colour, ...]  # RGB, 0-255
    indices: tuple[int, ...] = ()  # value of each class in index files, ascending in 0-255; () for 0, 1, 2, ...
    shared: tuple[str, ...] = ()  # classes that have the colour of an earlier one, which wins where colours are read

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours) or not self.names:
            raise InputError(f"palette: {len(self.names)} names for {len(self.colours)} colours; give one each")
        if len(self.names) > 255:
            raise InputError(f"palette: {len(self.names)} classes; at most 255 fit into an index file")
        for name, colour in zip(self.names, self.colours, strict=True):
            if len(colour) != 3 or not all(0 <= int(v) <= 255 for v in colour):
                raise InputError(f"palette: the colour of {name!r} is {colour}; give three values in 0-255")
        own = [colour for name, colour in zip(self.names, self.colours, strict=True) if name not in self.shared]
        if len(set(own)) != len(own):
            raise InputError("palette: two classes share one colour; give every class its own")
        if self.indices and (len(self.indices) != len(self.names) or sorted(set(self.indices)) != [*self.indices]):
            raise InputError("palette: give every class its own index, in ascending order")
        if self.indices and not 0 <= self.indices[0] <= self.indices[-1] <= 255:
            raise InputError(f"palette: indices {self.indices[0]}..{self.indices[-1]}; an index file holds 0..255")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def values(self) -> tuple[int, ...]:
        """The value of each class in index files."""
        return self.indices or tuple(range(len(self)))

    @property
    def background(self) -> int:
        """The label named "background", or 0: what padding is filled with."""
        return self.names.index("background") if "background" in self.names else 0

    # -- JSON ----------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """JSON text `[{"name": ..., "colour": [r, g, b], "index": ...}, ...]` in label order, one class a line."""
        lines = []
        for name, colour, value in zip(self.names, self.colours, self.values, strict=True):
            row: dict[str, Any] = {"name": name, "colour": list(colour), "index": value}
            lines.append(json.dumps(row | ({"shares_colour": True} if name in self.shared else {}), ensure_ascii=False))
        return "[\n " + ",\n ".join(lines) + "\n]"

    @staticmethod
    def from_json(text: str) -> Palette:
        """Inverse of `to_json`. "index" may be left out (then rows count from 0), "colour" may be "#rrggbb".

        Raises `InputError` if the text is not such a list, and as the class itself.
        """
        try:
            rows = json.loads(text)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("no list of objects")
            numbered = ["index" in row for row in rows]
            if any(numbered) and not all(numbered):
                raise InputError(f"palette: {rows[numbered.index(False)].get('name')!r} has no index, others have one")
            if any(numbered):
                rows = sorted(rows, key=lambda row: int(row["index"]))
            names = tuple(str(row["name"]) for row in rows)
            indices = tuple(int(row["index"]) for row in rows) if any(numbered) else ()
            shared = tuple(str(row["name"]) for row in rows if row.get("shares_colour"))
            colours = tuple(_colour(row) for row in rows)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError('palette: not a JSON list of {"name": ..., "colour": [r, g, b]}') from error
        return Palette(names, colours, () if indices == tuple(range(len(rows))) else indices, shared)

    # -- pictures ------------------------------------------------------------------------------------------------

    def to_image(self, labels: np.ndarray) -> Image.Image:
        """Labels uint8/int [H, W] in [0, K) -> P-mode picture of the same size; its pixel values are the indices."""
        labels = np.asarray(labels)
        if labels.min() < 0 or labels.max() >= len(self):
            raise InputError(f"labels run {labels.min()}..{labels.max()}, the palette has classes 0..{len(self) - 1}")
        table = np.zeros((self.values[-1] + 1, 3), np.uint8)
        table[list(self.values)] = self.colours
        image = Image.fromarray(np.array(self.values, np.uint8)[labels])
        image.putpalette(table.ravel().tolist())
        return image

    def to_rgb(self, labels: np.ndarray, unpainted: Colour = (255, 255, 255)) -> np.ndarray:
        """Labels [H, W] in [-1, K) -> uint8 RGB [H, W, 3]; -1 becomes `unpainted`."""
        return np.array([*self.colours, unpainted], dtype=np.uint8)[labels]

    def read(self, image: Image.Image, canvas: bool = False, tolerance: int = TOLERANCE) -> LabelReading:
        """A person's mask -> labels at its own resolution, and what had to be done to it.

        Read as an index PNG where it is one (L or P with values of classes, or an RGB copy of such a file), otherwise
        by colour: a colour within `tolerance` levels of a class is that class, the few others (anti-aliased outlines)
        take the label of the nearest clean pixel. Transparent pixels are background. With ``canvas`` the mask may be
        partly painted: white and transparent pixels, and the value 255 of an index PNG, get label -1.

        Raises `InputError` for 0/255 masks, index values that no class has, and more than 2 % of pixels in colours
        that no class has; the message names the values or colours, their share, and the palette.
        """
        return read_labels(self, image, canvas, tolerance)

    def from_image(self, image: Image.Image, tolerance: int = TOLERANCE) -> np.ndarray:
        """`read`, labels uint8 [H, W] alone; an `InputWarning` says what had to be snapped, and its share."""
        return self._labels(image, False, tolerance).astype(np.uint8)

    def from_strokes(self, image: Image.Image, tolerance: int = TOLERANCE) -> np.ndarray:
        """Like `from_image` for a partly painted canvas: int64 [H, W] in [-1, K)."""
        return self._labels(image, True, tolerance)

    def _labels(self, image: Image.Image, canvas: bool, tolerance: int) -> np.ndarray:
        reading = self.read(image, canvas, tolerance)
        for note in reading.notes:
            warnings.warn(note, InputWarning, stacklevel=3)
        return reading.labels

    def translate(self, labels: np.ndarray, target: Palette) -> np.ndarray:
        """Labels of this palette, -1 allowed -> labels int64 of the classes of the same names in ``target``.

        Raises `InputError` where a class that occurs has no counterpart; the message names it and its share.
        """
        known = {_key(name): label for label, name in reversed([*enumerate(target.names)])}
        table = np.array([known.get(_key(name), -2) for name in self.names] + [UNPAINTED], dtype=np.int64)
        found = table[labels]
        if (found == -2).any():
            lost = int(np.bincount(labels[found == -2].astype(np.int64)).argmax())
            share = 100 * float((labels == lost).mean())
            raise InputError(
                f"{share:.1f} % of the mask is {self.names[lost]!r}, which the pack does not know"
                f"{nearest(self.names[lost], target.names)} (its parts: {', '.join(target.names)}); rename it in the "
                "palette file, or give it the name of the part that it is to become"
            )
        return found


def _colour(row: Mapping[str, Any]) -> Colour:
    value = row["colour"] if "colour" in row else row["color"]
    parts = ImageColor.getrgb(value) if isinstance(value, str) else [int(v) for v in value]
    if len(parts) != 3:
        raise InputError(f"palette: the colour of {row['name']!r} is {value}; give three values in 0-255")
    return parts[0], parts[1], parts[2]


def _key(name: str) -> str:
    """Names that people mean to be equal: "Rear hair", "rear_hair", "rear-hair"."""
    return name.casefold().replace("-", "_").replace(" ", "_")


def as_palette(names: Sequence[str], colours: Sequence[Sequence[int]]) -> Palette:
    """Plain lists (JSON, a domain) -> `Palette`. Raises `InputError` like the class itself."""
    return Palette(tuple(names), tuple((int(c[0]), int(c[1]), int(c[2])) for c in colours))


__all__ = ["TOLERANCE", "UNPAINTED", "LabelReading", "Palette", "as_palette"]
