"""The baseline: StyleGAN2 synthesis with the arithmetic of the official implementation where there is no GPU.

Written from the papers and from what is known of how that implementation runs, so that nobody needs its code to
compare: weights are modulated and demodulated for each sample and all samples run as groups of one convolution;
upsampling is a transposed convolution and a filter pass; a filter pass is zero insertion, padding and a depthwise
convolution; noise, bias, activation and gain are passes of their own. Plain torch throughout, whatever the toolkit's
own ops do.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.stylegan2 import Generator, SynthesisBlock, SynthesisLayer, ToRGBLayer

EPSILON = 1e-8  # under the square root of the demodulation


def filter_image(x: torch.Tensor, kernel: torch.Tensor, up: int, padding: tuple[int, int], gain: float) -> torch.Tensor:
    """``x [N, C, H, W]``: ``up - 1`` zeros after each sample, padding (before, after), then ``kernel [n, n]``."""
    n, channels, height, width = x.shape
    spread = F.pad(x.reshape(n, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    padded = F.pad(spread.reshape(n, channels, height * up, width * up), [*padding, *padding])
    weight = (kernel * gain).flip([0, 1])[None, None].repeat(channels, 1, 1, 1)
    return F.conv2d(padded, weight, groups=channels)


def modulated_conv(
    x: torch.Tensor,  # [N, in, h, w]
    weight: torch.Tensor,  # [out, in, k, k]
    styles: torch.Tensor,  # [N, in]
    demodulate: bool = True,
    up: int = 1,  # 1 or 2
    kernel: torch.Tensor | None = None,  # [4, 4]: filter after upsampling
) -> torch.Tensor:
    """Equations 1 and 3 of the StyleGAN2 paper, the samples as groups of one convolution: ``[N, out, up*h, up*w]``."""
    n, channels, height, width = x.shape
    out, _, size, _ = weight.shape
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=[2, 3, 4], keepdim=True) + EPSILON).rsqrt()
    x = x.reshape(1, n * channels, height, width)
    if up == 1:
        y = F.conv2d(x, weights.reshape(n * out, channels, size, size), padding=size // 2, groups=n)
        return y.reshape(n, out, height, width)
    assert kernel is not None
    turned = weights.transpose(1, 2).reshape(n * channels, out, size, size)
    y = F.conv_transpose2d(x, turned, stride=up, groups=n)
    y = filter_image(y, kernel, up=1, padding=(1, 1), gain=float(up**2))
    return y.reshape(n, out, up * height, up * width)


class OfficialSynthesis(nn.Module):
    """The synthesis network of ``generator``, on the same parameters; constant noise."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, ws: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 3, H, W]`` of ``ws [N, num_ws, w_dim]``."""
        x = img = None
        for _, block, first in self.synthesis.blocks():
            x, img = self._block(block, x, img, ws[:, first : first + block.num_conv + 1])
        assert img is not None
        return img

    def _block(
        self, block: SynthesisBlock, x: torch.Tensor | None, img: torch.Tensor | None, ws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = iter(ws.unbind(dim=1))
        x = block.const[None].repeat(len(ws), 1, 1, 1) if x is None else self._layer(block.conv0, x, next(rows))
        x = self._layer(block.conv1, x, next(rows))
        if img is not None:
            img = filter_image(img, block.resample_filter, up=2, padding=(2, 1), gain=4.0)
        rgb = self._to_rgb(block.torgb, x, next(rows))
        return x, rgb if img is None else img.add_(rgb)

    @staticmethod
    def _layer(layer: SynthesisLayer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        noise = layer.noise_const * layer.noise_strength
        x = modulated_conv(x, layer.weight, _styles(layer, w), up=layer.up, kernel=layer.resample_filter)
        x = x.add_(noise)
        x = x + layer.bias[None, :, None, None]
        x = F.leaky_relu(x, 0.2)
        return _clamped(x * math.sqrt(2), layer)

    @staticmethod
    def _to_rgb(layer: ToRGBLayer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rgb = modulated_conv(x, layer.weight, _styles(layer, w) * layer.weight_gain, demodulate=False)
        return _clamped(rgb + layer.bias[None, :, None, None], layer)


def _clamped(x: torch.Tensor, layer: SynthesisLayer | ToRGBLayer) -> torch.Tensor:
    """``x``, cut off at the layer's ``conv_clamp`` where it has one."""
    limit = layer.conv_clamp
    return x if limit is None else torch.minimum(torch.maximum(x, x.new_tensor(-limit)), x.new_tensor(limit))


def _styles(layer: SynthesisLayer | ToRGBLayer, w: torch.Tensor) -> torch.Tensor:
    """``w [N, w_dim]`` to the factor of each input channel, ``[N, in]``."""
    affine = layer.affine
    return torch.addmm(affine.bias[None], w, (affine.weight * affine.weight_gain).t())
