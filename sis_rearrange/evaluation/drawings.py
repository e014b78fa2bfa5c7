"""From drawings of held-out renders to pictures, and a judge that says whether the parts stand where they were drawn.

A drawing takes the way of a user's file: drawn, written as PNG, read by its condition.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions import Condition
from sis_rearrange.cycle import Looks
from sis_rearrange.domains import Domain, domain_names, get_domain, render_many
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import Judge, Networks, bars_shown, batches, parts
from sis_rearrange.losses import cells_reachable
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.metrics import class_iou, confusion, miou, pixel_accuracy
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.rearranger import Rearranged
from sis_rearrange.tensors import from_uint8, one_hot

WORKERS = 2  # processes that render


@dataclass(frozen=True)
class HeldOut:
    """Renders of the test split, each made once: small ones to compare with, large ones to draw from."""

    domain: Domain
    indices: range  # of the small renders
    resolution: int  # of the small ones: the generator's
    drawings: int  # how many of the indices are drawn
    drawing_side: int  # pixels of the large ones
    progress: bool | None = None

    @cached_property
    def small(self) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 ``[N, r, r, 3]`` and true masks uint8 ``[N, r, r]``."""
        return self._render(self.indices, self.resolution)

    @cached_property
    def large(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the first ``drawings`` indices, at ``drawing_side`` pixels."""
        return self._render(self.indices[: self.drawings], self.drawing_side)

    def _render(self, indices: range, side: int) -> tuple[np.ndarray, np.ndarray]:
        title = f"rendering at {side} px" if bars_shown(self.progress) else None
        return render_many(self.domain, indices, side, WORKERS, title)


def rendered_domain(pack: Pack) -> Domain:
    """The embedded domain of a pack; InputError for a pack of other pictures or other parts: it has no true masks."""
    name = pack.info["domain"]
    if name not in domain_names():
        raise InputError(
            f"pack {pack.name!r}: its domain {name!r} is not rendered here ({', '.join(domain_names())} are), so there "
            "are no held-out pictures with true masks"
        )
    domain = get_domain(name)
    if pack.classes not in ((), domain.classes):
        raise InputError(
            f"pack {pack.name!r}: its parts ({', '.join(pack.classes)}) are not those of the domain {name!r} "
            f"({', '.join(domain.classes)}), so there are no held-out pictures with true masks"
        )
    return domain


class Synthesized(NamedTuple):
    """A batch on its way from drawings to pictures."""

    at: slice  # its place among all
    source: Looks
    wanted: torch.Tensor  # [N, r, r]: the proxy mask that the mapper would like best
    target: torch.Tensor  # [N, r, r]: the best one of clusters that the source has
    moved: Rearranged
    pictures: torch.Tensor  # [N, 3, H, W] in [-1, 1]


def drawn(condition: Condition, picture: np.ndarray, mask: np.ndarray, seed: int) -> Image.Image:
    """The drawing of a render as it comes out of a PNG file."""
    file = io.BytesIO()
    condition.draw(picture, mask, seed).save(file, format="PNG")
    return Image.open(file)


def synthesize_all(
    networks: Networks,
    mapper: SemanticMapper,
    condition: Condition,
    renders: tuple[np.ndarray, np.ndarray],
    indices: Sequence[int],
    seeds: Sequence[int],
    progress: bool | None,
) -> Iterator[Synthesized]:
    """Drawing i of the renders (pictures, masks) in the look of sample ``seeds[i]``; ``indices`` seed the strokes."""
    pictures, masks = renders
    for at in batches(len(pictures), f"{condition.name} to picture", progress):
        files = [drawn(condition, *each) for each in zip(pictures[at], masks[at], indices[at], strict=True)]
        logits = mapper(torch.cat([condition.read(file, mapper.image_resolution)[0] for file in files]))
        source = networks.sources(seeds[at])
        target = within_reach(logits, source.labels).argmax(dim=1)
        yield Synthesized(at, source, logits.argmax(dim=1), target, *networks.rearrange(source, target))


@torch.inference_mode()
def score_condition(
    networks: Networks,
    judge: Judge,
    mapper: SemanticMapper,
    condition: Condition,
    held_out: HeldOut,
    seeds: Sequence[int],
    progress: bool | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Judged parts of the results against the true masks, and how closely the rearranger followed the mapper.

    Returns the scores and the table of IoU by class. Confusion matrix and cells are pooled over all drawings.
    """
    name, classes = condition.name, held_out.domain.classes
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    reachable_cells = reached_cells = cells = 0
    for each in synthesize_all(networks, mapper, condition, held_out.large, held_out.indices, seeds, progress):
        truth = torch.from_numpy(held_out.small[1][each.at])
        matrix += confusion(parts(judge, each.pictures), truth, len(classes))
        K = networks.proxy.K
        reachable = cells_reachable(one_hot(each.source.labels, K), one_hot(each.wanted, K))
        reachable_cells += int(reachable.sum())
        reached_cells += int((networks.proxy.labels(each.moved.feature_map) == each.target).sum())
        cells += reachable.numel()
    scores = judged(matrix, name)
    scores[f"proxy_reachable_cells_{name}"] = reachable_cells / cells
    scores[f"proxy_agreement_{name}"] = reached_cells / cells
    return scores, {f"iou_judge_{name}": by_class(matrix, classes)}


@torch.inference_mode()
def score_sources(
    networks: Networks, judge: Judge, held_out: HeldOut, seeds: Sequence[int], progress: bool | None = None
) -> dict[str, float]:
    """The baseline that ignores the drawing: the sources' plain pictures against the same true masks."""
    num_classes = len(held_out.domain.classes)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for at in batches(held_out.drawings, "sources as they are", progress):
        seen = parts(judge, networks.picture(networks.sources(seeds[at])))
        matrix += confusion(seen, torch.from_numpy(held_out.small[1][: held_out.drawings][at]), num_classes)
    return judged(matrix, "source")


@torch.inference_mode()
def score_judge(
    judge: Judge, held_out: HeldOut, progress: bool | None = None
) -> tuple[dict[str, float], dict[str, Any]]:
    """The judge itself, on the held-out renders and their true masks: scores and IoU by class."""
    pictures, masks = held_out.small
    classes = held_out.domain.classes
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for at in batches(len(pictures), "judging renders", progress):
        matrix += confusion(parts(judge, from_uint8(pictures[at])), torch.from_numpy(masks[at]), len(classes))
    return judged(matrix, "renders"), {"iou_judge_renders": by_class(matrix, classes)}


def judged(matrix: torch.Tensor, name: str) -> dict[str, float]:
    """Accuracy and mIoU of a confusion matrix, under the names the report uses."""
    return {f"accuracy_judge_{name}": pixel_accuracy(matrix), f"miou_judge_{name}": miou(matrix)}


def by_class(matrix: torch.Tensor, classes: Sequence[str]) -> dict[str, float]:
    """IoU by class name; classes that the true masks do not have are left out."""
    present = matrix.sum(dim=1) > 0
    return {name: float(iou) for name, iou, p in zip(classes, class_iou(matrix), present, strict=True) if p}
