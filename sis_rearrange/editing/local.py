"""Edit a picture where its mask was changed, and nowhere else.

Features of changed cells are rearranged and all others stay the look's own, so the generator's picture changes in and
around them; of that picture only the changed region, with a feathered border, goes into the original. Beyond the border
the original's pixels are copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.editing.masks import Change, dilated
from sis_rearrange.errors import InputError
from sis_rearrange.inversion import Crop
from sis_rearrange.tensors import to_uint8

MARGIN = 1  # cells around a change that are rearranged with it
FEATHER = 1.5  # cells over which the new pixels fade into the original's


@dataclass(frozen=True, eq=False)
class Edited:
    """A picture after an edit."""

    image: Image.Image  # RGB, the original's size
    square: Image.Image  # the generator's picture of the crop, R x R
    weight: np.ndarray  # [size, size] float32 in [0, 1] over the crop: share of the new pixel; 0: the original's
    proxy_mask: np.ndarray  # [r, r] int64: what was asked for
    cells: np.ndarray  # [r, r] bool: where it differs from the own one
    agreement: float  # share of the changed cells that have the cluster asked for afterwards


@torch.inference_mode()
def edit(
    editor: Editor, look: Look, picture: Image.Image, crop: Crop, change: Change, feather: float = FEATHER
) -> Edited:
    """Make a change in ``picture`` (RGB, upright), whose square ``crop`` the look shows.

    ``feather`` is the width of the border in cells of the proxy mask. Raises InputError for a negative one.
    """
    if not 0 <= feather <= editor.proxy.resolution:
        raise InputError(f"--feather {feather:g}: give 0 to {editor.proxy.resolution} cells")
    moved = editor.move(look, change.target)
    region = dilated(change.cells, MARGIN)
    keep = region[None, None].float()
    feature_map = look.feature_map.lerp(moved.feature_map, keep)
    skip = look.skip.lerp(moved.skip, keep)
    square = Image.fromarray(to_uint8(look.decode(feature_map, skip))[0])
    weight = blend_weight(region.cpu().numpy(), crop.size, feather)
    reached = editor.proxy.labels(feature_map)
    return Edited(
        image=pasted(picture, crop, square, weight),
        square=square,
        weight=weight,
        proxy_mask=change.target[0].cpu().numpy(),
        cells=change.cells.cpu().numpy(),
        agreement=float((reached == change.target)[0][change.cells].float().mean()),
    )


def blend_weight(region: np.ndarray, size: int, feather: float) -> np.ndarray:
    """bool ``[r, r]`` -> float32 ``[size, size]``: 1 in the region, 0 from ``feather`` cells on, smooth between."""
    plane = Image.fromarray(region.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    inside = np.asarray(plane) > 0
    width = feather * size / region.shape[0]
    if width < 1 or not inside.any():
        return inside.astype(np.float32)
    t = np.clip(1 - ndimage.distance_transform_edt(~inside) / width, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def pasted(picture: Image.Image, crop: Crop, square: Image.Image, weight: np.ndarray) -> Image.Image:
    """``square`` blended into ``picture`` at ``crop``; where the weight is 0 the pixels are the picture's own."""
    new = np.asarray(square.resize((crop.size, crop.size), Image.Resampling.LANCZOS), np.float32)
    pixels = np.array(picture.convert("RGB"))
    left, top, right, bottom = crop.box
    old = pixels[top:bottom, left:right]
    mixed = np.rint(old * (1 - weight[..., None]) + new * weight[..., None]).clip(0, 255).astype(np.uint8)
    pixels[top:bottom, left:right] = np.where(weight[..., None] > 0, mixed, old)
    return Image.fromarray(pixels)
