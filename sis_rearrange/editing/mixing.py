"""Two looks in one picture: the structure of one and the look of another, style mixing, the look of single parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.errors import InputError
from sis_rearrange.proxy import MIN_CELLS
from sis_rearrange.tensors import one_hot

FEATHER = 3  # pixels over which the look of a part fades into its surroundings


@torch.inference_mode()
def exemplar(editor: Editor, structure: Look, look: Look) -> torch.Tensor:
    """Exemplar-guided synthesis: ``structure``'s layout painted in ``look``; image ``[1, 3, R, R]`` in [-1, 1]."""
    moved = editor.move(look, editor.reachable(structure.logits, look))
    return look.decode(moved.feature_map, moved.skip)


@torch.inference_mode()
def mix_layers(structure: Look, look: Look, first: int) -> torch.Tensor:
    """StyleGAN's style mixing: rows of ws from ``first`` on are ``look``'s; the generator is ``structure``'s.

    Image ``[1, 3, R, R]`` in [-1, 1]. Raises InputError unless ``first`` is a row.
    """
    count = structure.ws.shape[1]
    if not 0 < first < count:
        raise InputError(f"--layer {first}: this generator has layers 0 to {count - 1}; give 1 to {count - 1}")
    ws = torch.cat([structure.ws[:, :first], look.ws[:, first:]], dim=1)
    return structure.split.generator.synthesis(ws).clamp(-1, 1)


@torch.inference_mode()
def transfer(editor: Editor, base: Look, donor: Look, parts: Sequence[str], feather: int = FEATHER) -> torch.Tensor:
    """Parts of ``base`` in ``donor``'s look, everything else as it is; image ``[1, 3, R, R]`` in [-1, 1].

    The donor's features are rearranged after the base's layout, each cell of a part asking for clusters that the donor
    has in that part; they replace the base's in those cells. G2 then runs in both styles, and the pictures are joined
    along the parts' outlines. Raises InputError for an unknown part, and where the base or the donor lacks it.
    """
    wanted = editor.part_numbers(parts)
    here, there = (_part_mask(editor, look, wanted) for look in (base, donor))
    for look, mask in ((base, here), (donor, there)):
        if not mask.any():
            raise InputError(f"{look.name}: has no {' or '.join(parts)} that the pack's segmenter can see")
    r = editor.proxy.resolution
    inside = F.interpolate(here[:, None].float(), size=(r, r), mode="area")
    moved = editor.move(donor, _layout(editor, base, donor, inside[:, 0] >= 0.5, there))
    share = inside.clamp(0, 1)
    feature_map = base.feature_map.lerp(moved.feature_map, share)
    skip = base.skip.lerp(moved.skip, share)
    painted = donor.decode(feature_map, skip)
    for part in wanted:
        painted = _recoloured(painted, donor.picture(), *(_part_mask(editor, x, [part]) for x in (base, donor)))
    return base.decode(feature_map, skip).lerp(painted, _softened(here, feather)).clamp(-1, 1)


def _part_mask(editor: Editor, look: Look, wanted: Sequence[int]) -> torch.Tensor:
    """Where the look's picture shows one of the parts: bool ``[1, R, R]``."""
    labels = editor.parts(look.picture())
    return torch.isin(labels, torch.tensor(list(wanted), device=labels.device))


def _recoloured(image: torch.Tensor, like: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """``image`` with the mean colour of ``like`` at ``there`` around ``here``, where both have the part.

    Features in another place decode to a slightly other tone, and people see that first.
    """
    if not (here.any() and there.any()):
        return image
    found, wanted = ((x * mask[:, None]).sum(dim=(2, 3)) / mask.sum() for x, mask in ((image, here), (like, there)))
    return image + (wanted - found)[:, :, None, None] * _softened(here, FEATHER)


def _layout(editor: Editor, base: Look, donor: Look, inside: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """The base's layout in clusters of the donor, labels ``[1, r, r]``: within the part, those of the donor's part."""
    r = editor.proxy.resolution
    cells = F.interpolate(there[:, None].float(), size=(r, r), mode="area")[:, 0] >= 0.5
    count = (one_hot(donor.labels, editor.proxy.K) * cells[:, None]).sum(dim=(2, 3))
    allowed = count >= MIN_CELLS
    if not allowed.any():
        allowed = count == count.max()
    within = base.logits.masked_fill(~allowed[:, :, None, None], -1e4).argmax(dim=1)
    return torch.where(inside, within, editor.reachable(base.logits, donor))


def _softened(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """bool ``[1, R, R]`` -> float ``[1, 1, R, R]``, its edge a ramp so many pixels wide."""
    soft = mask[:, None].float()
    if pixels < 2:
        return soft
    width = 2 * (pixels // 2) + 1
    return F.avg_pool2d(soft, width, stride=1, padding=width // 2, count_include_pad=False)
