"""How a person's mask becomes labels: by index or by colour, with strays snapped and reported, mistakes explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from sis_rearrange.errors import InputError
from sis_rearrange.images import name_of

if TYPE_CHECKING:
    from sis_rearrange.conditions.palette import Palette

TOLERANCE = 24  # 8-bit levels (Chebyshev) a colour may be off: covers JPEG and colour-managed editors
MAX_STRAY = 0.02  # share of pixels whose colour may belong to no class
MAX_BLENDED = 0.25  # share of pixels that may be blends along anti-aliased outlines
BLEND_REACH = 2.0  # pixels: a blend lies this close to a pixel with a clean colour
UNPAINTED = -1  # label of pixels nobody painted (scribbles)
COLOURS_AT_ONCE = 1 << 16  # compared with the palette: a photo handed in by mistake has a million of them


@dataclass(frozen=True, eq=False)
class LabelReading:
    """Labels read from a mask, and what had to be done to it."""

    labels: np.ndarray  # int64 [H, W] in [0, K), -1 where nothing was painted
    by: str  # "index" or "colour": what the labels were taken from
    snapped: float = 0.0  # share of pixels whose colour was near a class's, not exactly it
    filled: float = 0.0  # share of pixels of no class's colour, which took their neighbours' label
    notes: tuple[str, ...] = ()  # one line each, for the user


def read_labels(palette: Palette, image: Image.Image, canvas: bool, tolerance: int) -> LabelReading:
    """See `Palette.read`."""
    found = _from_indices(palette, image, canvas)
    return _from_colours(palette, image, canvas, tolerance) if found is None else found


# -- index files -----------------------------------------------------------------------------------------------------


def _from_indices(palette: Palette, image: Image.Image, canvas: bool) -> LabelReading | None:
    """Labels if the pixel values themselves are indices, None if the picture has to be read by colour."""
    if image.mode == "P":
        return _from_p_mode(palette, image, canvas)
    values = np.asarray(image)
    if image.mode == "RGB":
        # Some editors save a grey index file as RGB. Read by colour it would be all black, hence all one class.
        grey = (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all()
        if not grey or values.max() == 0:
            return None
        present = np.unique(values[..., 0])
        ours = {colour[0] for colour in palette.colours if len(set(colour)) == 1}
        if not set(present.tolist()) <= set(palette.values) or set(present.tolist()) <= ours:
            return None
        return _indexed(palette, values[..., 0], present, image)
    if image.mode != "L":
        return None
    present, count = _present(image)
    binary = count[[0, -1]].sum() >= (1 - MAX_STRAY) * values.size and 255 not in palette.values
    if binary and {0, 255} <= set(present.tolist()):
        raise InputError(_binary_message(palette, canvas))
    if canvas:
        present = present[present != 255]
    if not set(present.tolist()) <= set(palette.values):
        raise InputError(_range_message(palette, present))
    return _indexed(palette, values, present, image)


def _from_p_mode(palette: Palette, image: Image.Image, canvas: bool) -> LabelReading | None:
    """By index if the file's colour table has our order, or hardly any of our colours; None to read it by colour."""
    values, (present, count) = np.asarray(image), _present(image)
    table = np.array((image.getpalette() or [])[: 3 * 256], dtype=np.int64).reshape(-1, 3)
    if "transparency" in image.info or present[-1] >= len(table):
        return None
    if not set(present.tolist()) <= set(palette.values):
        by_colour = _nearest(palette, table[present], None)[1] <= TOLERANCE
        if not canvas and not by_colour.any() and _slipped(palette, present):
            raise InputError(_range_message(palette, present))
        return None
    if canvas and (table[present] >= 255 - TOLERANCE).all(axis=1).any():
        return None  # a white entry is the canvas of a scribble, not a class
    ours, distance = _nearest(palette, table[present], None)
    # Editors sort the table of a reduced file as they like: where the colours are ours, they decide. Classes that
    # share a colour are told apart by the index alone.
    own = np.searchsorted(palette.values, present)
    same = (ours == own) | (np.array(palette.colours)[ours] == np.array(palette.colours)[own]).all(axis=1)
    ours_by_colour = count[distance <= TOLERANCE].sum() > 0.5 * count.sum()
    return None if ours_by_colour and not same.all() else _indexed(palette, values, present, image)


def _indexed(palette: Palette, values: np.ndarray, present: np.ndarray, image: Image.Image) -> LabelReading:
    """Index values -> labels; values that no class has (255 of a canvas) are unpainted."""
    table = np.full(256, UNPAINTED, dtype=np.int64)
    table[list(palette.values)] = np.arange(len(palette))
    first = palette.values[0]
    notes: tuple[str, ...] = ()
    if palette.names[0] == "background" and present.size and present[0] == first + 1:
        notes = (
            f"{name_of(image)}: no pixel has the value {first} (background); if the file counts from {first + 1}, "
            "subtract 1",
        )
    return LabelReading(table[values], "index", notes=notes)


# -- colours ---------------------------------------------------------------------------------------------------------


def _from_colours(palette: Palette, image: Image.Image, canvas: bool, tolerance: int) -> LabelReading:
    white = (255, 255, 255) if canvas else None
    rgba = np.ascontiguousarray(np.asarray(image.convert("RGBA")))
    # Drawings are flat: neighbours in a row mostly have one colour, and runs of it are far fewer than pixels.
    flat = rgba.view("<u4").ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    value = flat[starts].astype(np.int64)
    colours, inverse = np.unique(_packed(value), return_inverse=True)
    transparent = value >> 24 < 128
    count = np.bincount(inverse, weights=lengths, minlength=len(colours)).astype(np.int64)
    seen = np.bincount(inverse, weights=lengths * ~transparent, minlength=len(colours)).astype(np.int64)
    table = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)
    label, distance = _nearest(palette, table, white)
    ours = not canvas and _is_ours(table, count, distance)  # on a canvas it is a line drawing all the same
    if not transparent.any() and _black_and_white(table, count) and not ours:
        raise InputError(_binary_message(palette, canvas))
    found = label[inverse]
    found[transparent] = UNPAINTED if canvas else palette.background
    labels = np.repeat(found, lengths).reshape(rgba.shape[:2])
    off = (distance > tolerance)[inverse] & ~transparent
    if off.any():
        stray = np.repeat(off, lengths).reshape(labels.shape)
        _check_strays(palette, canvas, stray, table, count, distance > tolerance)
        nearest = ndimage.distance_transform_edt(stray, return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    near = (distance > 0) & (distance <= tolerance)
    snapped, filled = (float(seen[which].sum()) / flat.size for which in (near, distance > tolerance))
    notes = _snap_notes(image, table, seen, distance, tolerance, snapped, filled)
    return LabelReading(labels, "colour", snapped, filled, notes)


def _snap_notes(
    image: Image.Image,
    table: np.ndarray,
    seen: np.ndarray,
    distance: np.ndarray,
    tolerance: int,
    snapped: float,
    filled: float,
) -> tuple[str, ...]:
    """One line on colours that are not the palette's; none where all are."""
    parts = []
    if snapped:
        most = int(distance[(seen > 0) & (distance <= tolerance)].max())
        parts.append(f"{_percent(snapped)} of the pixels are up to {most} levels off a class's colour and were snapped")
    if filled:
        shown = _hex(table, np.where(distance > tolerance, seen, 0))
        parts.append(f"{_percent(filled)} (such as {shown}) have no class's colour and took their neighbours' class")
    return (f"{name_of(image)}: {'; '.join(parts)}",) if parts else ()


def _nearest(
    palette: Palette, table: np.ndarray, unpainted: tuple[int, int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Colours int [M, 3] -> nearest label [M] (-1 for `unpainted`) and its distance in levels (Chebyshev)."""
    known = np.array([*palette.colours] + ([unpainted] if unpainted else []), dtype=np.int16)
    labels, distances = np.empty(len(table), np.int64), np.empty(len(table), np.int64)
    for start in range(0, len(table), COLOURS_AT_ONCE):
        part = table[start : start + COLOURS_AT_ONCE].astype(np.int16)
        best, label = np.full(len(part), 256, np.int16), np.zeros(len(part), np.int64)
        for k, colour in enumerate(known):  # one class at a time: no [M, K, 3] in memory
            distance = np.abs(part - colour).max(axis=1)
            closer = distance < best
            best[closer], label[closer] = distance[closer], k
        labels[start : start + len(part)], distances[start : start + len(part)] = label, best
    if unpainted:
        labels[labels == len(palette)] = UNPAINTED
    return labels, distances


def _check_strays(
    palette: Palette, canvas: bool, stray: np.ndarray, table: np.ndarray, count: np.ndarray, off: np.ndarray
) -> None:
    """Raise unless the pixels of unknown colour are few, or mere blends between two clean regions."""
    clean_near = ndimage.distance_transform_edt(stray) <= BLEND_REACH if not stray.all() else np.zeros_like(stray)
    alone = float((stray & ~clean_near).mean())
    if alone <= MAX_STRAY and stray.mean() <= MAX_BLENDED:
        return
    grey = table.max(axis=1) - table.min(axis=1) <= TOLERANCE // 2
    if count[grey].sum() >= (1 - MAX_STRAY) * count.sum():  # an anti-aliased black-and-white drawing
        raise InputError(_binary_message(palette, canvas))
    raise InputError(
        f"{100 * float(stray.mean()):.0f} % of the pixels have colours outside the palette (such as "
        f"{_hex(table, np.where(off, count, 0))}); paint with exactly these, without anti-aliasing: {_legend(palette)}"
    )


# -- messages --------------------------------------------------------------------------------------------------------


def _hex(table: np.ndarray, count: np.ndarray) -> str:
    """The three commonest colours."""
    common = [at for at in np.argsort(-count, kind="stable")[:3] if count[at]]
    return ", ".join("#{:02x}{:02x}{:02x}".format(*table[at]) for at in common)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "less than 0.01 %"


def _legend(palette: Palette) -> str:
    first = zip(palette.names[:12], palette.colours[:12], strict=True)
    shown = [f"{n} #{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in first]
    return ", ".join(shown) + (", ..." if len(palette) > 12 else "")


def _binary_message(palette: Palette, canvas: bool) -> str:
    if canvas:
        hint = f"lines are for the condition 'sketch'; paint each part in its colour: {_legend(palette)}"
    else:
        hint = f"save labels as values {_range(palette)}, or paint each part in its colour: {_legend(palette)}"
    return f"this is a black-and-white picture (0 and 255), which names no part; {hint}"


def _range(palette: Palette) -> str:
    first, last = palette.values[0], palette.values[-1]
    return f"{first}..{last}" if last - first == len(palette) - 1 else ", ".join(map(str, palette.values[:20]))


def _outside(palette: Palette, present: np.ndarray) -> list[int]:
    return [int(v) for v in present if int(v) not in palette.values]


def _slipped(palette: Palette, present: np.ndarray) -> bool:
    """Whether the values look like indices that count from 1."""
    return _outside(palette, present) == [palette.values[-1] + 1] and bool(present[0] > palette.values[0])


def _range_message(palette: Palette, present: np.ndarray) -> str:
    outside, first = _outside(palette, present), palette.values[0]
    if _slipped(palette, present):
        hint = (
            f"the file counts from {first + 1}, labels count from {first} ({palette.names[0]} is {first}): subtract 1"
        )
    elif outside == [255]:
        fallback = palette.names[palette.background]
        hint = f"255 often means 'ignore'; give those pixels a class, {fallback} for instance"
    else:
        hint = "save the mask as an index PNG of these classes, or as RGB in the palette's colours"
    wrong = ", ".join(map(str, outside[:3]))
    return f"index mask with values up to {present[-1]} ({wrong}), but the classes are {_range(palette)}: {hint}"


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


def _is_ours(table: np.ndarray, count: np.ndarray, distance: np.ndarray) -> bool:
    """Whether a black-and-white picture is in the palette's own black and white."""
    dark, light = (table <= TOLERANCE).all(axis=1), (table >= 255 - TOLERANCE).all(axis=1)
    return bool(all((distance[which][count[which] > 0] <= TOLERANCE).all() for which in (dark, light)))
