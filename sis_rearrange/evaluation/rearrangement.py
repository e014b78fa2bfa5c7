"""How well a rearranger does its own job, on samples of the generator: reach the asked mask, keep the look.

Sample i is rearranged after its own proxy mask and after that of sample i + 1 (the last one after that of the first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sis_rearrange.evaluation.networks import Judge, Networks, batches, parts
from sis_rearrange.losses import cells_reachable, class_means
from sis_rearrange.metrics import psnr
from sis_rearrange.tensors import one_hot

COLOUR_PARTS = ("hair", "skin", "clothes", "background")
MIN_PIXELS = 20  # a part must have so many pixels in both pictures before its mean colour is compared


@torch.inference_mode()
def score_rearrangement(networks: Networks, seeds: Sequence[int], progress: bool | None = None) -> dict[str, float]:
    """Agreement of the rearranged features' own proxy mask with the asked one, and PSNR of the self-rearranged picture.

    Shares are over the cells of all samples together; ``psnr_self_db`` is the mean of the pictures' PSNR.
    """
    target = _neighbours_masks(networks, seeds)
    hits = dict.fromkeys(("own", "other", "other_reachable", "reachable"), 0)
    psnrs = []
    for at in batches(len(seeds), "rearranging samples", progress):
        source = networks.sources(seeds[at])
        own, own_picture = networks.rearrange(source, source.labels)
        other, _ = networks.rearrange(source, target[at])
        K = networks.proxy.K
        reachable = cells_reachable(one_hot(source.labels, K), one_hot(target[at], K))
        reached = networks.proxy.labels(other.feature_map) == target[at]
        hits["own"] += int((networks.proxy.labels(own.feature_map) == source.labels).sum())
        hits["other"] += int(reached.sum())
        hits["other_reachable"] += int((reached & reachable).sum())
        hits["reachable"] += int(reachable.sum())
        psnrs.append(psnr((own_picture + 1) / 2, (networks.picture(source) + 1) / 2))
    cells = target.numel()
    return {
        "proxy_agreement_other_reachable": hits["other_reachable"] / max(hits["reachable"], 1),
        "proxy_reachable_cells_other": hits["reachable"] / cells,
        "proxy_agreement_other_all": hits["other"] / cells,
        "proxy_agreement_own": hits["own"] / cells,
        "psnr_self_db": float(torch.cat(psnrs).mean()),
    }


@torch.inference_mode()
def score_colours(
    networks: Networks, judge: Judge, classes: Sequence[str], seeds: Sequence[int], progress: bool | None = None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Distance of the parts' mean colours between a picture with another sample's layout and its source.

    Returns the scores, and a table of how many pairs each of them rests on. The yardstick is the same distance to
    another sample, half the set away: what keeping nothing of the look would score.
    """
    target = _neighbours_masks(networks, seeds)
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    for at in batches(len(seeds), "comparing colours", progress):
        source = networks.sources(seeds[at])
        for pictures, found in ((networks.picture(source), before), (networks.rearrange(source, target[at])[1], after)):
            found.append(part_colours(pictures, parts(judge, pictures), len(classes)))
    sources, results = torch.cat(before), torch.cat(after)
    chosen = coloured_parts(classes)
    scores: dict[str, float] = {}
    kept = colour_distance(results, sources)[:, chosen]
    yardstick = colour_distance(results, sources.roll(max(1, len(seeds) // 2), 0))[:, chosen]
    for title, distance in (("source", kept), ("shuffled", yardstick)):
        for column, label in enumerate(chosen):
            scores[f"colour_to_{title}_{classes[label]}"] = float(distance[:, column].nanmean())
        scores[f"colour_to_{title}_all"] = float(distance.nanmean())
    pairs = {classes[label]: int((~kept[:, i].isnan()).sum()) for i, label in enumerate(chosen)}
    return scores, {"colour_pairs": pairs}


def coloured_parts(classes: Sequence[str]) -> list[int]:
    """Labels of the parts whose colours are compared: `COLOUR_PARTS` where a domain has them, else all of its parts."""
    known = set(COLOUR_PARTS) <= set(classes)
    return [classes.index(name) for name in (COLOUR_PARTS if known else classes)]


def part_colours(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mean colour of each part, ``[N, K, 3]`` in [0, 1]; NaN for parts of fewer than ``MIN_PIXELS`` pixels.

    Images are ``[N, 3, H, W]`` in [-1, 1], labels ``[N, H, W]``.
    """
    masks = one_hot(labels, num_classes)
    seen = masks.sum(dim=[2, 3]) >= MIN_PIXELS
    return torch.where(seen[:, :, None], class_means((images + 1) / 2, masks), torch.nan)


def colour_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute RGB difference of part colours ``[N, K, 3]``: ``[N, K]`` in [0, 1], NaN where either is."""
    return (a - b).abs().mean(dim=2)


def _neighbours_masks(networks: Networks, seeds: Sequence[int]) -> torch.Tensor:
    """Proxy masks ``[N, r, r]`` of the samples that follow each sample."""
    masks = [networks.sources(seeds[at]).labels for at in batches(len(seeds), "", progress=False)]
    return torch.cat(masks).roll(-1, 0)
