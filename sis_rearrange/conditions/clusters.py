"""Proxy masks that people paint or edit: no mapper reads them, labels are clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.conditions.palette import Palette, as_palette
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, fit_image, name_of, read_image
from sis_rearrange.proxy import palette as colours_of


def cluster_palette(num_clusters: int) -> Palette:
    """Names and colours that proxy masks are shown in and painted with."""
    return as_palette([f"cluster {k}" for k in range(num_clusters)], colours_of(num_clusters).tolist())


def read_proxy_mask(drawing: Any, palette: Palette, resolution: int, fit: str) -> tuple[np.ndarray, Image.Image, Fit]:
    """A painted proxy mask as labels int64 ``[r, r]``, its picture, and how it was made square.

    ``drawing``: labels as an integer array ``[h, w]``, or a path or picture, read by index or colour. Bars get the
    commonest cluster of the rim. InputError for one that cannot be read, or has other labels than the palette.
    """
    if isinstance(drawing, np.ndarray) and drawing.ndim == 2 and drawing.dtype.kind in "iu":
        labels, name = drawing, "array"
    else:
        image = read_image(drawing)
        name = name_of(image)
        try:
            labels = palette.from_image(image)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if labels.size < 1 or labels.max() >= len(palette.colours) or labels.min() < 0:
        raise InputError(f"{name}: a proxy mask of this pack has labels 0 to {len(palette.colours) - 1}")
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    fill = int(np.bincount(rim).argmax())
    square, how = fit_image(Image.fromarray(labels.astype(np.uint8)), resolution, fit, fill, Image.Resampling.NEAREST)
    cells = np.asarray(square).astype(np.int64)
    return cells, Image.fromarray(palette.to_rgb(cells)), how
