"""The class palette of a domain: which colour or index stands for which part, and how a person's mask is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from sis_rearrange.errors import InputError

TOLERANCE = 24  # 8-bit levels (Chebyshev) a colour may be off: covers JPEG and colour-managed editors
MAX_STRAY = 0.02  # share of pixels whose colour may belong to no class
MAX_BLENDED = 0.25  # share of pixels that may be blends along anti-aliased outlines
BLEND_REACH = 2.0  # pixels: a blend lies this close to a pixel with a clean colour
UNPAINTED = -1  # label of pixels nobody painted (scribbles)


@dataclass(frozen=True)
class Palette:
    """Class names and their 8-bit RGB colours; the position in the tuples is the label.

    Raises `InputError` if the lengths differ, a colour is not three values in 0-255 or two classes share a colour.
    """

    names: tuple[str, ...]  # one per class, e.g. ("background", "hair")
    colours: tuple[tuple[int, int, int], ...]  # RGB, 0-255

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours) or not self.names:
            raise InputError(f"palette: {len(self.names)} names for {len(self.colours)} colours; give one each")
        for name, colour in zip(self.names, self.colours, strict=True):
            if len(colour) != 3 or not all(0 <= int(v) <= 255 for v in colour):
                raise InputError(f"palette: the colour of {name!r} is {colour}; give three values in 0-255")
        if len(set(self.colours)) != len(self.colours):
            raise InputError("palette: two classes share one colour; give every class its own")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int:
        """The label named "background", or 0: what padding is filled with."""
        return self.names.index("background") if "background" in self.names else 0

    def to_json(self) -> str:
        """JSON text `[{"name": ..., "colour": [r, g, b]}, ...]` in label order."""
        rows = [{"name": n, "colour": list(c)} for n, c in zip(self.names, self.colours, strict=True)]
        return json.dumps(rows, indent=1)

    @staticmethod
    def from_json(text: str) -> Palette:
        """Inverse of `to_json`. Raises `InputError` if the text is not such a list."""
        try:
            rows = json.loads(text)
            names = tuple(str(row["name"]) for row in rows)
            colours = [tuple(int(v) for v in row["colour"]) for row in rows]
            return Palette(names, tuple((c[0], c[1], c[2]) for c in colours if len(c) == 3))
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError('palette: not a JSON list of {"name": ..., "colour": [r, g, b]}') from error

    def to_image(self, labels: np.ndarray) -> Image.Image:
        """Labels uint8/int [H, W] in [0, K) -> P-mode picture of the same size; its pixel values are the labels."""
        labels = np.asarray(labels)
        if labels.min() < 0 or labels.max() >= len(self):
            raise InputError(f"labels run {labels.min()}..{labels.max()}, the palette has classes 0..{len(self) - 1}")
        image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
        image.putpalette([v for colour in self.colours for v in colour])
        return image

    def to_rgb(self, labels: np.ndarray, unpainted: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
        """Labels [H, W] in [-1, K) -> uint8 RGB [H, W, 3]; -1 becomes `unpainted`."""
        return np.array([*self.colours, unpainted], dtype=np.uint8)[labels]

    def from_image(self, image: Image.Image, tolerance: int = TOLERANCE) -> np.ndarray:
        """A person's mask -> labels uint8 [H, W] at its own resolution.

        Read as an index PNG where it is one (L or P with values below K, or an RGB copy of such a file), otherwise by
        colour: a colour within `tolerance` levels of a class is that class, the few others (anti-aliased outlines)
        take the label of the nearest clean pixel. Transparent pixels are background.

        Raises `InputError` for 0/255 masks, index values outside [0, K), and more than 2 % of pixels in colours that
        no class has; the message names the values or colours, their share, and the palette.
        """
        labels = self._from_indices(image, unpainted=None)
        if labels is None:
            labels = self._from_colours(image, tolerance, unpainted=None)
        return labels.astype(np.uint8)

    def from_strokes(self, image: Image.Image, tolerance: int = TOLERANCE) -> np.ndarray:
        """Like `from_image` for a partly painted canvas: int64 [H, W] in [-1, K).

        White and transparent pixels, and the value 255 of an index PNG, were not painted: label -1.
        """
        labels = self._from_indices(image, unpainted=255)
        if labels is None:
            labels = self._from_colours(image, tolerance, unpainted=(255, 255, 255))
        return labels

    # -- index files ---------------------------------------------------------------------------------------------

    def _from_indices(self, image: Image.Image, unpainted: int | None) -> np.ndarray | None:
        """Labels if the pixel values themselves are labels, None if the picture has to be read by colour."""
        if image.mode == "P":
            return self._from_p_mode(image, unpainted)
        values = np.asarray(image)
        if image.mode == "RGB":
            # Some editors save a grey index file as RGB. Read by colour it would be all black, hence all one class.
            grey = (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all()
            if not grey or values.max() >= len(self) or values.max() == 0:
                return None
            return values[..., 0].astype(np.int64)
        if image.mode != "L":
            return None
        present, count = _present(image)
        if {0, 255} <= set(present.tolist()) and count[[0, -1]].sum() >= (1 - MAX_STRAY) * values.size:
            raise InputError(self._binary_message())
        labels = values.astype(np.int64)
        if unpainted is not None:
            labels[values == unpainted] = UNPAINTED
            present = present[present != unpainted]
        if present.size and present[-1] >= len(self):
            raise InputError(self._range_message(present))
        return labels

    def _from_p_mode(self, image: Image.Image, unpainted: int | None) -> np.ndarray | None:
        """Indices if the file's colour table has our order, or hardly any of our colours; None to read it by colour."""
        values, (present, count) = np.asarray(image), _present(image)
        table = np.array((image.getpalette() or [])[: 3 * 256], dtype=np.int64).reshape(-1, 3)
        if "transparency" in image.info or present[-1] >= len(table) or present[-1] >= len(self):
            return None
        if unpainted is not None and (table[present] >= 255 - TOLERANCE).all(axis=1).any():
            return None  # a white entry is the canvas of a scribble, not a class
        ours, distance = self._nearest(table[present], unpainted=None)
        # Editors sort the table of a reduced file as they like: where the colours are ours, they decide.
        ours_by_colour = count[distance <= TOLERANCE].sum() > 0.5 * count.sum()
        return None if ours_by_colour and (ours != present).any() else values.astype(np.int64)

    # -- colours -------------------------------------------------------------------------------------------------

    def _from_colours(self, image: Image.Image, tolerance: int, unpainted: tuple[int, int, int] | None) -> np.ndarray:
        rgba = np.ascontiguousarray(np.asarray(image.convert("RGBA")))
        size = rgba.shape[:2]
        # Drawings are flat: neighbours in a row mostly have one colour, and runs of it are far fewer than pixels.
        flat = rgba.view("<u4").ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        lengths = np.diff(starts, append=flat.size)
        value = flat[starts].astype(np.int64)
        colours, inverse = np.unique(_packed(value), return_inverse=True)
        count = np.bincount(inverse, weights=lengths).astype(np.int64)
        transparent = value >> 24 < 128
        table = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)
        label, distance = self._nearest(table, unpainted)
        if not transparent.any() and _black_and_white(table, count):
            raise InputError(self._binary_message())
        found = label[inverse]
        found[transparent] = self.background if unpainted is None else UNPAINTED
        labels = np.repeat(found, lengths).reshape(size)
        off = (distance > tolerance)[inverse] & ~transparent
        if off.any():
            stray = np.repeat(off, lengths).reshape(size)
            self._check_strays(stray, table, count, distance > tolerance)
            nearest = ndimage.distance_transform_edt(stray, return_distances=False, return_indices=True)
            labels = labels[tuple(nearest)]
        return labels

    def _nearest(self, table: np.ndarray, unpainted: tuple[int, int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        """Colours int [M, 3] -> nearest label [M] (-1 for `unpainted`) and its distance in levels (Chebyshev)."""
        known = np.array([*self.colours] + ([unpainted] if unpainted else []), dtype=np.int64)
        distance = np.stack([np.abs(table - colour).max(axis=1) for colour in known], axis=1)
        label = distance.argmin(axis=1)
        if unpainted:
            label = np.where(label == len(self), UNPAINTED, label)
        return label, distance.min(axis=1)

    def _check_strays(self, stray: np.ndarray, table: np.ndarray, count: np.ndarray, off: np.ndarray) -> None:
        """Raise unless the pixels of unknown colour are few, or mere blends between two clean regions."""
        clean_near = ndimage.distance_transform_edt(stray) <= BLEND_REACH if not stray.all() else np.zeros_like(stray)
        alone = float((stray & ~clean_near).mean())
        if alone <= MAX_STRAY and stray.mean() <= MAX_BLENDED:
            return
        grey = table.max(axis=1) - table.min(axis=1) <= TOLERANCE // 2
        if count[grey].sum() >= (1 - MAX_STRAY) * count.sum():  # an anti-aliased black-and-white drawing
            raise InputError(self._binary_message())
        common = np.argsort(-count[off], kind="stable")[:3]
        shown = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in table[off][common])
        raise InputError(
            f"{100 * float(stray.mean()):.0f} % of the pixels have colours outside the palette (such as {shown}); "
            f"paint with exactly these, without anti-aliasing: {self._legend()}"
        )

    # -- messages ------------------------------------------------------------------------------------------------

    def _legend(self) -> str:
        shown = [f"{n} #{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in zip(self.names[:12], self.colours[:12], strict=True)]
        return ", ".join(shown) + (", ..." if len(self) > 12 else "")

    def _binary_message(self) -> str:
        return (
            "this is a black-and-white picture (0 and 255), which names no part; save labels as values "
            f"0..{len(self) - 1}, or paint each part in its colour: {self._legend()}"
        )

    def _range_message(self, present: np.ndarray) -> str:
        K = len(self)
        wrong = ", ".join(str(v) for v in present[present >= K][:3])
        if present[-1] == K and present[0] >= 1:
            hint = f"the file counts from 1, labels count from 0 ({self.names[0]} is 0): subtract 1"
        elif present[-1] == 255 and (present[:-1] < K).all():
            hint = f"255 often means 'ignore'; give those pixels a class, {self.names[self.background]} for instance"
        else:
            hint = "save the mask as an index PNG of these classes, or as RGB in the palette's colours"
        return f"index mask with values up to {present[-1]} ({wrong}), but the classes are 0..{K - 1}: {hint}"


def _present(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The values of a picture of mode "L" or "P", sorted, and how often each occurs."""
    count = np.array(image.histogram())
    present = np.flatnonzero(count)
    return present, count[present]


def _packed(value: np.ndarray) -> np.ndarray:
    """Pixels read as little-endian RGBA -> red, green, blue in one number, in this order."""
    return (value & 255) << 16 | (value >> 8 & 255) << 8 | (value >> 16 & 255)


def _black_and_white(table: np.ndarray, count: np.ndarray) -> bool:
    """True for the colours of a 0/255 mask: black and white make up nearly all (white alone is an empty canvas)."""
    dark, light = (table <= TOLERANCE).all(axis=1), (table >= 255 - TOLERANCE).all(axis=1)
    return bool(dark.any() and light.any() and count[dark | light].sum() >= (1 - MAX_STRAY) * count.sum())


def as_palette(names: Sequence[str], colours: Sequence[Sequence[int]]) -> Palette:
    """Plain lists (JSON, a domain) -> `Palette`. Raises `InputError` like the class itself."""
    return Palette(tuple(names), tuple((int(c[0]), int(c[1]), int(c[2])) for c in colours))
