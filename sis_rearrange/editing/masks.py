"""A picture's own masks, to be edited in any paint program, and what was changed in one that comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sis_rearrange.conditions import Palette, get_condition
from sis_rearrange.conditions.base import coverage
from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.editing.matching import FINE
from sis_rearrange.errors import InputError
from sis_rearrange.pack import SEGMENTER, mapper_file
from sis_rearrange.proxy import within_reach
from sis_rearrange.sampling import on_device

KINDS = ("proxy", "parts")
SHOWN = 512  # pixels of the side of a mask that is written for editing, about
FEW = 8  # pixels of `Change.own`: a part with fewer is none to fetch from
NEAR = 16  # levels by which a colour may miss one of a palette's
ALIKE = 0.02  # by which the sides of a square mask may differ


class Change(NamedTuple):
    """What an edited mask asks for; labels are clusters or parts, at `FINE` pixels per cell and side."""

    own: torch.Tensor  # [2 r, 2 r] int64: what the look shows
    wanted: torch.Tensor  # [2 r, 2 r] int64: what it is to show
    cells: torch.Tensor  # [r, r] bool: cells that changed
    kind: str  # "proxy" or "parts"


def own_masks(editor: Editor, look: Look, target: torch.Tensor) -> dict[str, Image.Image]:
    """A look's proxy mask and, where the pack has a segmenter, the part mask of ``target [1, 3, R, R]``.

    Index pictures in the palettes' colours, large enough to paint on; `read_change` reads them at any size.
    """
    masks = {"proxy": enlarged(editor.proxy_palette.to_image(look.labels[0].cpu().numpy()))}
    palette = editor.pack.palette()
    if palette is not None and SEGMENTER in editor.pack.info["files"]:
        masks["parts"] = enlarged(palette.to_image(editor.parts(target)[0].cpu().numpy()))
    return masks


def enlarged(mask: Image.Image) -> Image.Image:
    """An index picture with each cell a square of pixels."""
    factor = max(1, SHOWN // mask.width)
    return mask.resize((mask.width * factor, mask.height * factor), Image.Resampling.NEAREST)


def read_change(
    editor: Editor, look: Look, target: torch.Tensor, mask: Image.Image, kind: str = "auto", where: str = "mask"
) -> Change:
    """Compare an edited mask with the look's own.

    Args:
        target: the picture that was inverted, ``[1, 3, R, R]``: its part mask is what "parts" is compared with.
        kind: "proxy", "parts", or "auto": by the colours.
        where: what messages call the mask.

    Raises InputError for a mask that cannot be read, is of another kind, or is the look's own.
    """
    palettes = {"proxy": editor.proxy_palette}
    parts = editor.pack.palette()
    if parts is not None and SEGMENTER in editor.pack.info["files"]:
        palettes["parts"] = parts
    if abs(mask.width - mask.height) > ALIKE * max(mask.size):
        raise InputError(f"{where}: is {mask.width}x{mask.height}; a mask of this square picture must be square")
    kind = _kind(mask, kind, palettes, where)
    try:
        labels = palettes[kind].from_image(mask)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    change = _proxy_change(editor, look, labels) if kind == "proxy" else _part_change(editor, look, target, labels)
    if not change.cells.any():
        raise InputError(f"{where}: is the picture's own mask; change something in it first")
    return change


def _proxy_change(editor: Editor, look: Look, labels: np.ndarray) -> Change:
    wanted, own = _cells(labels, editor.proxy.K, editor.proxy.resolution).to(editor.device), look.labels[0]
    return Change(_finer(own), _finer(wanted), wanted != own, "proxy")


def _part_change(editor: Editor, look: Look, target: torch.Tensor, labels: np.ndarray) -> Change:
    seen = editor.parts(target)[0].cpu().numpy()
    fine, count = FINE * editor.proxy.resolution, len(editor.pack.classes)
    # compared at the mask's own size first: what was not painted on must not count as changed by being averaged
    cells = _pooled(_cells(labels, count, seen.shape[0]) != torch.from_numpy(seen), editor.proxy.resolution)
    own, wanted = (_cells(each, count, fine).to(editor.device) for each in (seen, labels))
    if mapper_file("segmentation") in editor.pack.info["files"]:
        wanted = _with_stand_ins(editor, look, own, wanted)
    return Change(own, wanted, cells.to(editor.device), "parts")


@torch.inference_mode()
def _with_stand_ins(editor: Editor, look: Look, own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Parts that the picture lacks, as those of its parts that are likest: hair for hair at the back.

    The mapper says which clusters such a part is made of, and the picture's own mask which of its parts those are.
    """
    count = len(editor.pack.classes)
    area = torch.bincount(own.flatten(), minlength=count)
    lacking = [part for part in wanted.unique().tolist() if area[part] < FEW]
    if not lacking:
        return wanted
    palette = editor.pack.palette()
    assert palette is not None
    mapper = on_device(editor.pack.mapper("segmentation"), editor.device)
    drawing = palette.to_image(wanted.cpu().numpy())
    x, _ = get_condition("segmentation", palette).read(drawing, mapper.image_resolution, "stretch")
    reached = _finer(within_reach(mapper(x.to(editor.device)), look.labels).argmax(dim=1)[0])
    made_of = torch.zeros(editor.proxy.K, count, device=own.device)  # share of each cluster's cells in each part
    made_of.index_put_((_finer(look.labels[0]), own), torch.ones((), device=own.device), accumulate=True)
    made_of = made_of / made_of.sum(dim=1, keepdim=True).clamp_min(1)
    found = wanted.clone()
    for part in lacking:
        likeness = made_of[reached[wanted == part]].sum(dim=0) * (area >= FEW)
        found[wanted == part] = likeness.argmax()
    return found


def _finer(labels: torch.Tensor) -> torch.Tensor:
    """Labels ``[r, r]`` at `FINE` pixels per cell and side."""
    return labels.repeat_interleave(FINE, dim=0).repeat_interleave(FINE, dim=1)


def _cells(labels: np.ndarray, classes: int, side: int) -> torch.Tensor:
    """Labels ``[H, W]`` of any size -> int64 ``[side, side]``: the class that covers most of each cell."""
    square = max(labels.shape)
    if labels.shape != (square, square):
        image = Image.fromarray(labels.astype(np.uint8)).resize((square, square), Image.Resampling.NEAREST)
        labels = np.asarray(image)
    return coverage(labels[None].astype(np.int64), classes, side)[0].argmax(dim=0)


def _pooled(changed: torch.Tensor, side: int) -> torch.Tensor:
    """bool ``[R, R]`` -> bool ``[side, side]``: cells with any such pixel."""
    return F.adaptive_max_pool2d(changed.float()[None, None], side)[0, 0] > 0


def dilated(cells: torch.Tensor, by: int) -> torch.Tensor:
    """bool ``[h, w]`` grown by so many cells on all sides."""
    if by == 0:
        return cells
    return F.max_pool2d(cells.float()[None, None], 2 * by + 1, stride=1, padding=by)[0, 0] > 0


def _kind(mask: Image.Image, kind: str, palettes: Mapping[str, Palette], where: str) -> str:
    if kind != "auto":
        if kind not in KINDS:
            raise InputError(f"--kind {kind}: must be auto, {' or '.join(KINDS)}")
        if kind not in palettes:
            raise InputError("--kind parts: this pack has no segmenter; edit the proxy mask")
        return kind
    if len(palettes) == 1:
        return next(iter(palettes))
    small = mask.copy()
    small.thumbnail((256, 256), Image.Resampling.NEAREST)
    colours = np.asarray(small.convert("RGB"), np.int64).reshape(-1, 3)
    shares = {name: _share(colours, palette) for name, palette in palettes.items()}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < 0.5 or sorted(shares.values())[-2] > 0.9:
        raise InputError(f"{where}: its colours are neither a proxy mask's nor a part mask's; say which with --kind")
    return best


def _share(colours: np.ndarray, palette: Palette) -> float:
    """Share of colours ``[M, 3]`` that are near one of a palette's."""
    known = np.array(palette.colours, np.int64)
    distance = np.stack([np.abs(colours - colour).max(axis=1) for colour in known]).min(axis=0)
    return float((distance <= NEAR).mean())
