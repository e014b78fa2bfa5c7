"""Edit a picture where its mask was changed, and nowhere else.

Features of changed cells are rearranged, by a coherent match of the masks (`matching`), and all others stay the look's
own, so the generator's picture changes in and around them; of that picture only the changed region, with a feathered
border, goes into the original. Beyond the border the original's pixels are copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.editing.masks import Change, dilated
from sis_rearrange.editing.matching import coherent_match, fetch
from sis_rearrange.errors import InputError
from sis_rearrange.inversion import Crop
from sis_rearrange.tensors import to_uint8

MARGIN = 1  # cells around a change that are rearranged with it
FEATHER = 1.5  # cells over which the new pixels fade into the original's


@dataclass(frozen=True, eq=False)
class Edited:
    """A picture after an edit."""

    image: Image.Image  # the original's size; RGB, or RGBA where that has transparency
    square: Image.Image  # the generator's picture of the crop, R x R
    weight: np.ndarray  # [size, size] float32 in [0, 1] over the crop: share of the new pixel; 0: the original's
    proxy_mask: np.ndarray  # [r, r] int64: that of the changed features
    cells: np.ndarray  # [r, r] bool: those whose mask was changed
    agreement: (
        float  # share of the changed mask that is read as what was asked for: clusters, or parts by the segmenter
    )
    shows: float  # share of it that is read as something else than before: long hair may count as hair at the back


@torch.inference_mode()
def edit(
    editor: Editor, look: Look, picture: Image.Image, crop: Crop, change: Change, feather: float = FEATHER
) -> Edited:
    """Make a change in ``picture`` (upright), whose square ``crop`` the look shows; see `pasted` for transparency.

    ``feather`` is the width of the border in cells of the proxy mask. Raises InputError for a negative one.
    """
    if not 0 <= feather <= editor.proxy.resolution:
        raise InputError(f"--feather {feather:g}: give 0 to {editor.proxy.resolution} cells")
    region = dilated(change.cells, MARGIN)
    classes = editor.proxy.K if change.kind == "proxy" else len(editor.pack.classes)
    position = coherent_match(change.own, change.wanted, region, classes)
    keep = region[None, None].float()
    feature_map, skip = (maps.lerp(fetch(maps, position), keep) for maps in (look.feature_map, look.skip))
    image = look.decode(feature_map, skip)
    square = Image.fromarray(to_uint8(image)[0])
    weight = blend_weight(region.cpu().numpy(), crop.size, feather)
    labels = editor.proxy.labels(feature_map)[0]
    agreement, shows = _shares(change, labels if change.kind == "proxy" else editor.parts(image)[0])
    return Edited(
        image=pasted(picture, crop, square, weight),
        square=square,
        weight=weight,
        proxy_mask=labels.cpu().numpy(),
        cells=change.cells.cpu().numpy(),
        agreement=agreement,
        shows=shows,
    )


def _shares(change: Change, found: torch.Tensor) -> tuple[float, float]:
    """Shares of the changed mask where ``found``, labels ``[h, w]`` of any size, is as asked, and not as it was."""
    side = change.own.shape[0]
    found = F.interpolate(found[None, None].float(), size=(side, side), mode="nearest-exact")[0, 0].long()
    changed = change.own != change.wanted
    if not changed.any():
        return 1.0, 1.0
    asked, other = (each[changed].float().mean().item() for each in (found == change.wanted, found != change.own))
    return asked, other


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
    """``square`` blended into ``picture`` at ``crop``; where the weight is 0 the pixels are the picture's own.

    A picture with transparency gives RGBA, whose new pixels are opaque, any other RGB; a colour profile stays.
    """
    clear = picture.mode == "RGBA" or picture.has_transparency_data
    pixels = np.array(picture.convert("RGBA" if clear else "RGB"))
    left, top, right, bottom = crop.box
    old, share = pixels[top:bottom, left:right], weight[..., None]
    new = np.asarray(square.resize((crop.size, crop.size), Image.Resampling.LANCZOS), np.float32)
    mixed = _over(new, share, old).round().clip(0, 255).astype(np.uint8)
    pixels[top:bottom, left:right] = np.where(share > 0, mixed, old)
    result = Image.fromarray(pixels)
    profile = picture.info.get("icc_profile") or b""
    if profile[16:20] == b"RGB ":  # of the pixels as they are here; a CMYK picture has been converted
        result.info["icc_profile"] = profile
    return result


def _over(new: np.ndarray, share: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Opaque ``new [h, w, 3]`` laid over ``old [h, w, 3 or 4]`` with ``share [h, w, 1]``; float."""
    if old.shape[2] == 3:
        return old * (1 - share) + new * share
    below = (1 - share) * (old[..., 3:] / np.float32(255))
    alpha = share + below
    colour = (new * share + old[..., :3] * below) / np.maximum(alpha, 1e-6)
    return np.concatenate([colour, 255 * alpha], axis=2)
