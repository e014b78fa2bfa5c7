"""Whether a look survives: parts of a result against the same parts of its source, in colour and in texture.

Parts are seen by the judge in both pictures; a part counts where both have `MIN_PIXELS` pixels of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sis_rearrange.evaluation.networks import Judge, parts
from sis_rearrange.evaluation.rearrangement import MIN_PIXELS, colour_distance, coloured_parts, part_colours
from sis_rearrange.losses import class_means
from sis_rearrange.metrics import Interval, bootstrap
from sis_rearrange.tensors import assert_shape, one_hot

STEPS = (1, 2)  # pixels between the values whose difference is taken


def part_textures(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """How lively each part is: ``[N, K, 4]`` in [0, 1], NaN for parts of fewer than ``MIN_PIXELS`` pixels.

    Mean absolute difference of neighbouring pixels inside the part: to the right and below, at a distance of 1 and of 2
    pixels, channels averaged. Edges between parts do not count. Images are ``[N, 3, H, W]`` in [-1, 1], labels
    ``[N, H, W]``.
    """
    assert_shape(images, [None, 3, *labels.shape[1:]])
    masks = one_hot(labels, num_classes)
    seen = masks.sum(dim=(2, 3)) >= MIN_PIXELS
    found = []
    for step in STEPS:
        for axis in (3, 2):
            size = images.shape[axis] - step
            near, far = ((x.narrow(axis, 0, size), x.narrow(axis, step, size)) for x in (images, masks))
            inside = far[0] * far[1]
            change = (near[0] - near[1]).abs().mean(dim=1, keepdim=True) / 2
            found.append(class_means(change, inside)[:, :, 0])
    return torch.where(seen[:, :, None], torch.stack(found, dim=2), torch.nan)


def texture_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of textures ``[N, K, 4]``: ``[N, K]`` in [0, 1], NaN where either is."""
    return (a - b).abs().mean(dim=2)


def score_style(
    judge: Judge,
    classes: Sequence[str],
    results: torch.Tensor,  # [N, 3, H, W] in [-1, 1]
    sources: torch.Tensor,  # [N, 3, H, W]: the samples that gave the looks
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Distance of parts' mean colours and textures to the source, with intervals over pictures; 0 for equal pictures.

    Names: ``style_colour_to_source_<part>`` and ``style_texture_...``, ``all`` for all named parts together; and the
    yardstick ``..._to_shuffled_...``, the distance to a source half the set away.
    """
    chosen = coloured_parts(classes)
    seen = [parts(judge, x) for x in (results, sources)]
    scores: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    measures = {"colour": (part_colours, colour_distance), "texture": (part_textures, texture_distance)}
    for measure, (describe, compare) in measures.items():
        result, source = (describe(x, y, len(classes)) for x, y in zip((results, sources), seen, strict=True))
        other = source.roll(max(1, len(sources) // 2), 0)
        for title, reference in (("source", source), ("shuffled", other)):
            distance = compare(result, reference)[:, chosen]
            columns = {classes[label]: distance[:, i] for i, label in enumerate(chosen)}
            columns["all"] = distance.nanmean(dim=1)
            for part, values in columns.items():
                name = f"style_{measure}_to_{title}_{part}"
                scores[name] = float(values.nanmean())
                if bool((~values.isnan()).any()):
                    intervals[name] = bootstrap(values)
    return scores, intervals
