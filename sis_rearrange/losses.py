"""The rearranger's loss terms, one function per equation. All return a scalar; masks are one-hot ``[N, K, h, w]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sis_rearrange.proxy import MIN_CELLS
from sis_rearrange.tensors import one_hot

RARE_PART = 0.005  # share of the pixels below which a part's weight grows no further


def classes_present(mask: torch.Tensor) -> torch.Tensor:
    """Which classes occur: bool ``[N, K]``."""
    return mask.flatten(2).amax(dim=2) > 0


def cells_reachable(source_mask: torch.Tensor, target_mask: torch.Tensor) -> torch.Tensor:
    """Target cells whose class the source has: bool ``[N, h, w]``."""
    present = classes_present(source_mask)[:, :, None, None]
    return (target_mask * present).sum(dim=1) > 0


def jointly_reachable(source: tuple[torch.Tensor, ...], target: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Cells whose classes of two label maps occur together in a cell of the source: bool ``[N, h, w]``.

    Both arguments are pairs of labels ``[N, h, w]`` int64.
    """
    base = int(max(source[1].max(), target[1].max())) + 1
    have, want = (pair[0] * base + pair[1] for pair in (source, target))
    size = int(max(have.max(), want.max())) + 1
    present = torch.zeros(have.shape[0], size, dtype=torch.bool, device=have.device)
    present.scatter_(1, have.flatten(1), True)
    return present.gather(1, want.flatten(1)).reshape(want.shape)


def feature_reconstruction(moved: torch.Tensor, original: torch.Tensor, feature_std: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of feature maps ``[N, C, h, w]`` in units of each channel's standard deviation."""
    return ((moved - original) / feature_std[None, :, None, None]).abs().mean()


def image_reconstruction(image: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of images ``[N, 3, H, W]`` in [-1, 1]."""
    return F.l1_loss(image, original)


def proxy_agreement(logits: torch.Tensor, target: torch.Tensor, relax: int = 0, sharpness: float = 1.0) -> torch.Tensor:
    """Cross-entropy of soft cluster assignments ``[N, K, h, w]`` with target labels ``[N, h, w]``.

    ``sharpness`` multiplies the logits. At 1 even real features pay, and features that please the loss leave the
    natural ones for the centroid itself; sharper, the loss is content once the right centroid is clearly the nearest.

    With ``relax`` > 0 a cell may also take a class that the target has within so many cells: region borders are
    forgiven (relaxed masking).
    """
    logits = logits * sharpness
    if relax == 0:
        return F.cross_entropy(logits, target)
    allowed = F.max_pool2d(one_hot(target, logits.shape[1]), 2 * relax + 1, stride=1, padding=relax)
    log_probability = torch.log_softmax(logits, dim=1)
    return -torch.logsumexp(log_probability.masked_fill(allowed == 0, -1e4), dim=1).mean()


def attention_mass(class_mass: torch.Tensor, reachable: torch.Tensor) -> torch.Tensor:
    """Minus the log of the attention mass ``[N, h, w]`` on source cells of the asked class, over reachable cells."""
    wanted = reachable.float()
    return -((class_mass.clamp_min(0) + 1e-4).log() * wanted).sum() / wanted.sum().clamp_min(1)


def class_means(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of ``x [N, C, h, w]`` over the cells of each class: ``[N, K, C]``, zero for empty classes."""
    area = mask.flatten(2).sum(dim=2)[:, :, None]
    return torch.einsum("nchw,nkhw->nkc", x, mask) / area.clamp_min(1)


def class_colours(
    image: torch.Tensor, target_mask: torch.Tensor, original: torch.Tensor, source_mask: torch.Tensor
) -> torch.Tensor:
    """Mean absolute difference of the mean colour of each class that both sides have; images ``[N, 3, H, W]``."""
    size = (target_mask.shape[2], target_mask.shape[3])
    areas = torch.minimum(target_mask.flatten(2).sum(dim=2), source_mask.flatten(2).sum(dim=2))
    shared = (areas >= MIN_CELLS).float()
    new = class_means(F.adaptive_avg_pool2d(image, size), target_mask)
    old = class_means(F.adaptive_avg_pool2d(original, size), source_mask)
    return ((new - old).abs().mean(dim=2) * shared).sum() / shared.sum().clamp_min(1)


def style_statistics(
    moved: torch.Tensor, target_mask: torch.Tensor, original: torch.Tensor, source_mask: torch.Tensor
) -> torch.Tensor:
    """Mean absolute difference of per-class means and standard deviations, over classes that both sides have.

    ``moved`` and ``original`` are ``[N, C, h, w]`` in comparable units per channel.
    """
    areas = torch.minimum(target_mask.flatten(2).sum(dim=2), source_mask.flatten(2).sum(dim=2))
    shared = (areas >= MIN_CELLS).float()[:, :, None]
    difference = moved.new_zeros(())
    means = class_means(moved, target_mask), class_means(original, source_mask)
    squares = class_means(moved.square(), target_mask), class_means(original.square(), source_mask)
    spreads = [(s - m.square()).clamp_min(1e-4).sqrt() for s, m in zip(squares, means, strict=True)]
    for a, b in (means, spreads):
        difference = difference + ((a - b).abs() * shared).mean(dim=2).sum() / shared.sum().clamp_min(1)
    return difference


def part_weights(parts: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights ``[P]`` of the part classes for labels ``[N, H, W]``: one over the square root of their share."""
    share = torch.bincount(parts.flatten(), minlength=num_classes).float() / parts.numel()
    weights = (share + RARE_PART).rsqrt()
    return weights / (weights * share).sum()


def parts_shown(seen: torch.Tensor, parts: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of the parts that a segmenter sees, logits ``[N, P, H, W]``, with labels ``[N, H, W]``.

    Weighted: the few pixels of an eye decide what people see. ``weights [P]`` of a larger batch that these samples
    belong to; None: `part_weights` of these alone.
    """
    return F.cross_entropy(seen, parts, part_weights(parts, seen.shape[1]) if weights is None else weights)


def adversarial(fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating generator loss on discriminator logits ``[N, 1]``."""
    return F.softplus(-fake_logits).mean()


def discriminator(real_logits: torch.Tensor, *fake_logits: torch.Tensor) -> torch.Tensor:
    """Logistic discriminator loss; several kinds of fakes share the weight of one."""
    fakes = torch.stack([F.softplus(logits).mean() for logits in fake_logits])
    return F.softplus(-real_logits).mean() + fakes.mean()


def r1_penalty(real_logits: torch.Tensor, real_images: torch.Tensor, gamma: float) -> torch.Tensor:
    """``gamma / 2`` times the mean squared gradient norm at real images (which require grad)."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gamma / 2 * gradient.square().sum(dim=[1, 2, 3]).mean()
