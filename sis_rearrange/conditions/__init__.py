"""Conditions: what people draw, turned into what a semantic mapper reads."""

from __future__ import annotations

from sis_rearrange.conditions.base import Condition
from sis_rearrange.conditions.palette import Palette, as_palette
from sis_rearrange.conditions.scribble import Scribble
from sis_rearrange.conditions.segmentation import Segmentation
from sis_rearrange.conditions.sketch import Sketch
from sis_rearrange.errors import InputError, nearest

CONDITIONS = ("segmentation", "sketch", "scribble")


def get_condition(name: str, palette: Palette | None = None) -> Condition:
    """The condition called `name`; "segmentation" and "scribble" need the domain's palette.

    Raises `InputError` for an unknown name (with the nearest known one) or a missing palette.
    """
    if name not in CONDITIONS:
        raise InputError(f"unknown condition {name!r}{nearest(name, CONDITIONS)} (known: {', '.join(CONDITIONS)})")
    if name == "sketch":
        return Sketch()
    if palette is None:
        raise InputError(f"condition {name!r} needs the palette of a domain; `sis pack new --palette` gives a pack one")
    return Segmentation(palette) if name == "segmentation" else Scribble(palette)


__all__ = ["CONDITIONS", "Condition", "Palette", "Scribble", "Segmentation", "Sketch", "as_palette", "get_condition"]
