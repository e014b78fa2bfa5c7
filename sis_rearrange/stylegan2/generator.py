"""The generator: synthesis network and, before it, the mapping network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.ops import conv3x3, fir_kernel, modulated_epilogue, upfirdn2d, upsample2d
from sis_rearrange.ops.native import use_native
from sis_rearrange.stylegan2.layers import (
    FullyConnectedLayer,
    MappingNetwork,
    channels_at,
    checked_clamp,
    clamped,
    fast_layout,
    initial,
)
from sis_rearrange.tensors import assert_shape, is_traced, seeded_normal

NOISE_MODES = ("const", "random", "none")


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling, with noise, bias, leaky ReLU and clamp."""

    impl = "auto"
    noise_const: torch.Tensor
    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,  # of the output
        up: int = 1,
        index: int = 0,  # position in the network: names the noise stream
        conv_clamp: float | None = None,  # largest absolute value of the result; None: no limit
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.index, self.conv_clamp = resolution, up, index, conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(initial(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", initial(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", fir_kernel())

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise_mode: str, noise_seeds: Sequence[int] | None = None
    ) -> torch.Tensor:
        """``x [N, in, h, w]``, ``w [N, w_dim]`` to ``[N, out, resolution, resolution]``."""
        styles = self.affine(w)
        # demodulation: 1 / norm of the modulated weights of each output channel (equation 3)
        norms = styles.square() @ self.weight.square().sum(dim=[2, 3]).t()
        demodulation = (norms + 1e-8).rsqrt()
        x, weight = fast_layout(x, self.impl), self.weight
        single = not is_traced() and len(x) == 1  # a graph is for any number of samples
        if single and use_native(self.impl, x) and weight[:, 0].numel() <= x[0, 0].numel():
            weight = weight * styles[0, None, :, None, None]  # the smaller of the two: measured up to 1.4x as fast
        else:
            x = modulated_epilogue(x, styles, act="linear", impl=self.impl)  # one pass over memory backward, too
        if self.up == 2:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = upfirdn2d(x, self.resample_filter, padding=1, gain=4.0, impl=self.impl)
        else:
            x = conv3x3(x, weight, self.impl)
        noise = self._noise(x, noise_mode, noise_seeds)
        strength = None if noise is None else self.noise_strength
        clamp = self.conv_clamp  # of what the gain of the activation has left, not of what it is given
        return modulated_epilogue(x, demodulation, noise, strength, self.bias, "lrelu", clamp=clamp, impl=self.impl)

    def _noise(self, x: torch.Tensor, noise_mode: str, noise_seeds: Sequence[int] | None) -> torch.Tensor | None:
        """Noise for ``x``: ``[resolution, resolution]`` of the network, ``[N, 1, ...]`` of the seeds, or None."""
        if noise_mode == "const":
            return self.noise_const
        if noise_mode == "random":
            if noise_seeds is None:
                raise ValueError("noise_mode='random' needs noise_seeds, one per sample")
            return seeded_normal(noise_seeds, [1, self.resolution, self.resolution], stream=1 + self.index).to(x)
        if noise_mode != "none":
            raise ValueError(f"noise_mode is {noise_mode!r}, must be one of {NOISE_MODES}")
        return None


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation."""

    impl = "auto"

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp  # largest absolute value of the result; None: no limit
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(initial(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """``x [N, in, h, w]``, ``w [N, w_dim]`` to ``[N, 3, h, w]``."""
        styles = self.affine(w) * self.weight_gain
        x = modulated_epilogue(x, styles, act="linear", impl=self.impl)
        return clamped(F.conv2d(x, self.weight, self.bias), self.conv_clamp)


class SynthesisBlock(nn.Module):
    """Block ``b{resolution}``: conv0 (upsampling), conv1, torgb; the first block starts from a constant."""

    impl = "auto"
    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,  # 0: the first block
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        index: int,  # of its first layer in the network
        conv_clamp: float | None = None,  # of all its layers
    ) -> None:
        super().__init__()
        self.num_conv = 1 if in_channels == 0 else 2
        self.register_buffer("resample_filter", fir_kernel())
        if in_channels == 0:
            self.const = nn.Parameter(initial(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, 2, index, conv_clamp)
        last = index + self.num_conv - 1
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, 1, last, conv_clamp)
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp)

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        noise_mode: str,
        noise_seeds: Sequence[int] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature map and RGB skip image from those of the block before; ws ``[N, num_conv + 1, w_dim]``."""
        w = iter(ws.unbind(dim=1))
        if x is None:
            x = self.const[None].expand(ws.shape[0], -1, -1, -1)
        else:
            x = self.conv0(x, next(w), noise_mode, noise_seeds)
        x = self.conv1(x, next(w), noise_mode, noise_seeds)
        rgb = self.torgb(x, next(w))
        return x, rgb if img is None else upsample2d(img, self.resample_filter, self.impl) + rgb


def _forget_fast(network: nn.Module, _incompatible_keys: object) -> None:
    """New weights: what an engine compiled from the old ones no longer holds."""
    network.fast = None  # type: ignore[assignment]


class SynthesisNetwork(nn.Module):
    """ws to image, block by block from 4x4 up.

    ``fast``: an engine's compiled form of ``forward``, from ws to images, or None. It stands in for the blocks when
    nothing but the picture is asked for: no gradients, constant noise, float32 on the CPU. A copy of the network and
    a network with newly loaded weights have none.
    """

    fast: Callable[[torch.Tensor], torch.Tensor] | None

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,  # a power of two, at least 8
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        conv_clamp = checked_clamp(conv_clamp)
        if img_resolution < 8 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two of at least 8, got {img_resolution}")
        self.fast = None
        self.register_load_state_dict_post_hook(_forget_fast)
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = [2**i for i in range(2, int(math.log2(img_resolution)) + 1)]
        self.num_ws, channels = 0, 0
        for resolution in self.block_resolutions:
            out_channels = channels_at(resolution, channel_base, channel_max)
            block = SynthesisBlock(channels, out_channels, w_dim, resolution, img_channels, self.num_ws, conv_clamp)
            setattr(self, f"b{resolution}", block)
            self.num_ws, channels = self.num_ws + block.num_conv, out_channels
        self.num_ws += 1  # torgb of the last block

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without ``fast``: it belongs to this network's weights and may not be copyable."""
        return {**self.__dict__, "fast": None}

    def _use_fast(self, ws: torch.Tensor, noise_mode: str) -> bool:
        """Whether ``fast`` gives what was asked for. Under a tracer it would hide the network, so not there."""
        if torch.is_grad_enabled() or is_traced():
            return False
        return noise_mode == "const" and ws.dtype == torch.float32 and ws.device.type == "cpu"

    def blocks(self) -> Iterator[tuple[int, SynthesisBlock, int]]:
        """(resolution, block, index of the block's first row of ws), from 4x4 up."""
        first = 0
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            yield resolution, block, first
            first += block.num_conv

    def forward(
        self, ws: torch.Tensor, noise_mode: str = "const", noise_seeds: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Images ``[N, 3, img_resolution, img_resolution]`` in about [-1, 1] from ``ws [N, num_ws, w_dim]``.

        ``noise_mode``: ``const`` (the network's own noise), ``none``, or ``random`` with one seed per sample.
        """
        assert_shape(ws, [None, self.num_ws, self.w_dim])
        if self.fast is not None and self._use_fast(ws, noise_mode):
            return self.fast(ws)
        x = img = None
        for _, block, first in self.blocks():
            x, img = block(x, img, ws[:, first : first + block.num_conv + 1], noise_mode, noise_seeds)
        assert img is not None
        return img


class Generator(nn.Module):
    """Mapping and synthesis."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 8,  # of the mapping network
        conv_clamp: float | None = None,  # limit on what every convolution of the synthesis gives; None: none
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            num_layers=num_layers,
            conv_clamp=checked_clamp(conv_clamp),
        )
        self.z_dim, self.c_dim, self.w_dim, self.img_resolution = z_dim, c_dim, w_dim, img_resolution
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, channel_base, channel_max, conv_clamp)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, num_layers)

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        noise_seeds: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Images ``[N, 3, H, W]`` from ``z [N, z_dim]``."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, noise_seeds)
