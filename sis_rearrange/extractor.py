"""Semantic extractor: class logits read off all of a generator's feature maps, learnt from a handful of annotations.

A generator that has learnt to draw eyes keeps them apart inside. Two kinds read that out:

``linear``
    LinearGAN's (Xu and Zheng 2021): a bias-free 1x1 convolution per layer to class logits, each enlarged bilinearly,
    all summed. A linear function of the feature maps as they are.
``nonlinear``
    Ours: a small ensemble of perceptrons on each pixel's features. Half of its members see feature maps in units of
    their channels' spread over samples, half see them normalised within the sample, which forgets colours and light.
    First layers are 1x1 convolutions at each map's own size, enlarged and summed from the smallest on: nearly the same
    as on maps that are enlarged first, in a fraction of the memory and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.tensors import assert_shape

KINDS = ("linear", "nonlinear")
MAX_SIDE = 256  # logits are computed on at most so many cells per side; larger feature maps are averaged down to it
_SOFT = 0.1  # share of a channel's usual spread that is added to its spread in a sample: flat maps stay flat


class SemanticExtractor(nn.Module):
    """Feature maps ``[N, C_l, r_l, r_l]`` of all blocks -> class logits ``[N, P, H, W]`` of the last map's size."""

    def __init__(
        self,
        channels_per_layer: Sequence[int],  # C_l of each feature map, smallest map first
        num_classes: int,  # P
        kind: str = "nonlinear",  # one of KINDS
        members: int = 3,  # of the ensemble for each of its two ways to normalise; "nonlinear" only
        width: int = 48,  # hidden units of a member
        dropout: float = 0.3,  # of inputs and hidden units, while training
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: must be one of {KINDS}")
        if not channels_per_layer or min(channels_per_layer) < 1 or num_classes < 2:
            raise ValueError(f"need feature maps with channels and two classes: {channels_per_layer}, {num_classes}")
        self.channels_per_layer, self.num_classes, self.kind = tuple(channels_per_layer), num_classes, kind
        self.members, self.width, self.dropout = members, width, dropout
        if kind == "linear":
            self.layers = nn.ModuleList(nn.Conv2d(C, num_classes, 1, bias=False) for C in self.channels_per_layer)
            for layer in self.layers:
                assert isinstance(layer, nn.Conv2d)
                nn.init.zeros_(layer.weight)  # the problem is convex: no start is better than another
            return
        hidden = 2 * members * width
        self.layers = nn.ModuleList(nn.Conv2d(2 * C, hidden, 1, bias=False, groups=2) for C in self.channels_per_layer)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Conv2d(hidden, 2 * members * num_classes, 1, groups=2 * members)
        self._initialise()
        for number, C in enumerate(self.channels_per_layer):
            self.register_buffer(f"mean{number}", torch.zeros(C))
            self.register_buffer(f"std{number}", torch.ones(C))

    def _initialise(self) -> None:
        """He initialisation over what a hidden unit sees in all layers together."""
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=(2 / sum(self.channels_per_layer)) ** 0.5)
        nn.init.normal_(self.head.weight, std=(1 / self.width) ** 0.5)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values: ``SemanticExtractor(**extractor.config)`` rebuilds the network."""
        return {
            "channels_per_layer": list(self.channels_per_layer),
            "num_classes": self.num_classes,
            "kind": self.kind,
            "members": self.members,
            "width": self.width,
            "dropout": self.dropout,
        }

    @torch.no_grad()
    def set_statistics(self, batches: Iterable[Sequence[torch.Tensor]]) -> None:
        """Take channel means and spreads from the feature maps of samples; "linear" has no use for them."""
        if self.kind == "linear":
            return
        cells = [0] * len(self.channels_per_layer)
        sums = [torch.zeros(2, C, dtype=torch.float64) for C in self.channels_per_layer]
        for features in batches:
            for number, x in enumerate(self._checked(features)):
                cells[number] += x.shape[0] * x.shape[2] * x.shape[3]
                x = x.double().cpu()
                sums[number] += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
        for number, (total, count) in enumerate(zip(sums, cells, strict=True)):
            mean, square = total / count
            getattr(self, f"mean{number}").copy_(mean)
            getattr(self, f"std{number}").copy_((square - mean.square()).clamp_min(1e-8).sqrt())

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits ``[N, P, H, W]``; of the ensemble the log of its mean probabilities. Gradients flow to features."""
        last = features[-1].shape[2:]
        logits = self.member_logits(features)
        mean = logits[:, 0] if self.kind == "linear" else logits.log_softmax(2).logsumexp(1)
        return mean if mean.shape[2:] == last else _enlarged(mean, last)

    def member_logits(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits of each member ``[N, members, P, h, w]`` ("linear": one), h and w at most `MAX_SIDE`."""
        features = reduced(self._checked(features))
        size, (N, P) = features[-1].shape[2:], (features[-1].shape[0], self.num_classes)
        if self.kind == "linear":
            maps = [layer(x) for layer, x in zip(self.layers, features, strict=True)]
            return torch.stack([_enlarged(x, size) for x in maps]).sum(0)[:, None]
        x = self.bias[None, :, None, None].expand(N, -1, *features[0].shape[2:])
        for number, (layer, feature_map) in enumerate(zip(self.layers, features, strict=True)):
            # from size to size: enlarging each map to the last size at once costs four times as much
            x = _enlarged(x, feature_map.shape[2:]) + layer(self._drop(self._two_views(number, feature_map)))
        return self.head(self._drop(x.relu())).view(N, 2 * self.members, P, *size)

    def _two_views(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """``[N, C, r, r]`` -> ``[N, 2 C, r, r]``: normalised over samples, and within each sample."""
        mean, std = (getattr(self, f"{name}{number}")[None, :, None, None] for name in ("mean", "std"))
        centred = x - x.mean((2, 3), keepdim=True)
        spread = centred.square().mean((2, 3), keepdim=True).add(1e-12).sqrt()
        return torch.cat([(x - mean) / std, centred / (spread + _SOFT * std)], dim=1)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _checked(self, features: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if len(features) != len(self.channels_per_layer):
            raise ValueError(f"expected {len(self.channels_per_layer)} feature maps, got {len(features)}")
        for x, C in zip(features, self.channels_per_layer, strict=True):
            assert_shape(x, [features[0].shape[0], C, None, None])
        return features


def reduced(features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Feature maps at no more than `MAX_SIDE` cells per side: all that an extractor looks at."""
    return [F.adaptive_avg_pool2d(x, MAX_SIDE) if x.shape[3] > MAX_SIDE else x for x in features]


def _enlarged(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear, ``[N, C, h, w]`` -> ``[N, C, *size]``."""
    return x if x.shape[2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
