"""How far a rearranger's training is: scores and pictures of the averaged network."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sis_rearrange import losses
from sis_rearrange.features import SplitGenerator
from sis_rearrange.proxy import ProxyClusters, palette
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.rearranger_batch import Batch


@torch.inference_mode()
def rearranger_scores(split: SplitGenerator, proxy: ProxyClusters, net: Rearranger, batch: Batch) -> dict[str, float]:
    """Agreement and reconstruction on samples, after their own masks and after their neighbours'."""
    mask = one_hot(batch.labels, proxy.K)
    stats = {}
    for name, shift in (("self", 0), ("cross", 1)):
        target = batch.labels.roll(shift, 0)
        target_mask = mask.roll(shift, 0)
        moved = net(batch.feature_map, batch.skip, mask, target_mask)
        agree = (proxy.labels(moved.feature_map) == target).float()
        reachable = losses.cells_reachable(mask, target_mask)
        stats[f"score/agreement_{name}"] = agree[reachable].mean().item()
        if name == "self":
            image = split.g2(moved.feature_map, moved.skip, batch.ws).clamp(-1, 1)
            error = (image - batch.image.clamp(-1, 1)).square().mean(dim=[1, 2, 3]) / 4
            stats["score/psnr_self"] = (-10 * error.log10()).mean().item()
    return stats


@torch.inference_mode()
def rearranger_picture(split: SplitGenerator, proxy: ProxyClusters, net: Rearranger, batch: Batch) -> torch.Tensor:
    """``[3, H, W]`` in [0, 1]: rows source, layout donor, target mask, reached mask, result, own mask again."""
    mask = one_hot(batch.labels, proxy.K)
    moved = net(batch.feature_map, batch.skip, mask, mask.roll(1, 0))
    own = net(batch.feature_map, batch.skip, mask, mask)
    colours = torch.from_numpy(palette(proxy.K)).float() / 127.5 - 1

    def painted(labels: torch.Tensor) -> torch.Tensor:
        return F.interpolate(colours[labels.cpu()].permute(0, 3, 1, 2), size=batch.image.shape[2:])

    rows = [
        batch.image,
        batch.image.roll(1, 0),
        painted(batch.labels.roll(1, 0)),
        painted(proxy.labels(moved.feature_map)),
        split.g2(moved.feature_map, moved.skip, batch.ws),
        split.g2(own.feature_map, own.skip, batch.ws),
    ]
    return torch.cat([torch.cat(list(row.cpu()), dim=2) for row in rows], dim=1).clamp(-1, 1) / 2 + 0.5
