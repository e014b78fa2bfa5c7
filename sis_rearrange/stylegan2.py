"""StyleGAN2 generator and discriminator (Karras et al. 2020), with the official PyTorch parameter names.

Skip generator, residual discriminator, class labels. An official state dict loads with ``strict=True``. Modulation is
applied to the activations rather than to the weights (equation 1 and 3 of the paper, reordered): the same picture up to
rounding, and no grouped convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.ops import bias_act, downsample2d, fir_kernel, upfirdn2d, upsample2d
from sis_rearrange.tensors import assert_shape, seeded_normal

NOISE_MODES = ("const", "random", "none")


def normalize_2nd_moment(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """``x [N, C]`` divided by its root mean square over C."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Number of feature channels of the block at ``resolution``."""
    return min(channel_base // resolution, channel_max)


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate: stored weights are unit normal, scaled at run time."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,  # learning rate relative to the network's
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in_features]`` to ``[N, out_features]``."""
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return bias_act(x, act=self.activation)


class MappingNetwork(nn.Module):
    """z (and class label c) to ws."""

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,  # 0: no latent, only the label (as in the conditional discriminator)
        c_dim: int,  # 0: no label
        w_dim: int,
        num_ws: int | None,  # rows of ws; None: return w itself
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        track_average: bool = True,  # keep w_avg, needed for truncation
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws, self.num_layers = z_dim, c_dim, num_ws, num_layers
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, w_dim)
        features = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * num_layers
        for i in range(num_layers):
            setattr(self, f"fc{i}", FullyConnectedLayer(features[i], features[i + 1], "lrelu", lr_multiplier))
        if track_average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> torch.Tensor:
        """ws ``[N, num_ws, w_dim]`` from ``z [N, z_dim]`` and labels ``c [N, c_dim]``.

        ``truncation_psi`` pulls w towards ``w_avg`` in the first ``truncation_cutoff`` rows (None: all).
        """
        parts = []
        if self.z_dim > 0:
            assert z is not None
            assert_shape(z, [None, self.z_dim])
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim > 0:
            if c is None:
                raise ValueError(f"this network needs class labels c of shape [N, {self.c_dim}]")
            assert_shape(c, [None, self.c_dim])
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        x = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return x
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(x[:, :cutoff], truncation_psi), x[:, cutoff:]], dim=1)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling, with noise, bias and leaky ReLU."""

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
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.index = resolution, up, index
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
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
        x = x * styles[:, :, None, None]
        if self.up == 2:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = upfirdn2d(x, self.resample_filter, padding=(1, 1, 1, 1), gain=4.0)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * demodulation[:, :, None, None]
        if noise_mode == "const":
            x = x + self.noise_const * self.noise_strength
        elif noise_mode == "random":
            if noise_seeds is None:
                raise ValueError("noise_mode='random' needs noise_seeds, one per sample")
            noise = seeded_normal(noise_seeds, [1, self.resolution, self.resolution], stream=1 + self.index)
            x = x + noise.to(x) * self.noise_strength
        elif noise_mode != "none":
            raise ValueError(f"noise_mode is {noise_mode!r}, must be one of {NOISE_MODES}")
        return bias_act(x, self.bias, act="lrelu")


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """``x [N, in, h, w]``, ``w [N, w_dim]`` to ``[N, 3, h, w]``."""
        styles = self.affine(w) * self.weight_gain
        return F.conv2d(x * styles[:, :, None, None], self.weight, self.bias)


class SynthesisBlock(nn.Module):
    """Block ``b{resolution}``: conv0 (upsampling), conv1, torgb; the first block starts from a constant."""

    resample_filter: torch.Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, img_channels: int, index: int
    ) -> None:
        super().__init__()
        self.num_conv = 1 if in_channels == 0 else 2
        self.register_buffer("resample_filter", fir_kernel())
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=2, index=index)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, index=index + self.num_conv - 1)
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim)

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
        return x, rgb if img is None else upsample2d(img, self.resample_filter) + rgb


class SynthesisNetwork(nn.Module):
    """ws to image, block by block from 4x4 up."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,  # a power of two, at least 8
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        if img_resolution < 8 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two of at least 8, got {img_resolution}")
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = [2**i for i in range(2, int(math.log2(img_resolution)) + 1)]
        self.num_ws, channels = 0, 0
        for resolution in self.block_resolutions:
            out_channels = channels_at(resolution, channel_base, channel_max)
            block = SynthesisBlock(channels, out_channels, w_dim, resolution, img_channels, index=self.num_ws)
            setattr(self, f"b{resolution}", block)
            self.num_ws, channels = self.num_ws + block.num_conv, out_channels
        self.num_ws += 1  # torgb of the last block

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
        )
        self.z_dim, self.c_dim, self.w_dim, self.img_resolution = z_dim, c_dim, w_dim, img_resolution
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, channel_base, channel_max)
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


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, optional 2x downsampling, bias and activation."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
    ) -> None:
        super().__init__()
        self.kernel_size, self.activation, self.down = kernel_size, activation, down
        self.register_buffer("resample_filter", fir_kernel())
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """``[N, in, H, W]`` to ``[N, out, H/down, W/down]``; ``gain`` multiplies the activation's own."""
        weight = self.weight * self.weight_gain
        if self.down == 2 and self.kernel_size == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter), weight)
        elif self.down == 2:
            x = F.conv2d(upfirdn2d(x, self.resample_filter, padding=(2, 2, 2, 2)), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=self.kernel_size // 2)
        act_gain = math.sqrt(2.0) if self.activation == "lrelu" else 1.0
        return bias_act(x, self.bias, act=self.activation, gain=act_gain * gain)


class DiscriminatorBlock(nn.Module):
    """Residual block ``b{resolution}``; the first one also reads the image."""

    def __init__(self, in_channels: int, tmp_channels: int, out_channels: int, img_channels: int) -> None:
        super().__init__()
        self.register_buffer("resample_filter", fir_kernel())
        if in_channels == 0:
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, 1, activation="lrelu")
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, 3, activation="lrelu")
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, 3, activation="lrelu", down=2)
        self.skip = Conv2dLayer(tmp_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Images or features ``[N, C, H, W]`` to features ``[N, out, H/2, W/2]``; ``added`` joins after fromrgb."""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        if added is not None:
            x = x + added
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5))


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution and two linear layers at 4x4."""

    def __init__(self, in_channels: int, cmap_dim: int, group_size: int = 4) -> None:
        super().__init__()
        self.cmap_dim, self.group_size = cmap_dim, group_size
        self.conv = Conv2dLayer(in_channels + 1, in_channels, 3, activation="lrelu")
        self.fc = FullyConnectedLayer(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def minibatch_std(self, x: torch.Tensor) -> torch.Tensor:
        """``x [N, C, 4, 4]`` with the standard deviation over groups appended as one channel."""
        n, c, h, w = x.shape
        # The largest group that divides the batch: users meet odd sizes at their last batch, official code fails there.
        group = next(g for g in range(min(self.group_size, n), 0, -1) if n % g == 0)
        y = x.reshape(group, -1, c, h, w)
        y = (y - y.mean(dim=0)).square().mean(dim=0)
        y = (y + 1e-8).sqrt().mean(dim=[1, 2, 3]).reshape(-1, 1, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, y], dim=1)

    def forward(self, x: torch.Tensor, cmap: torch.Tensor | None) -> torch.Tensor:
        """Scores ``[N, 1]`` from features ``[N, C, 4, 4]``."""
        x = self.out(self.fc(self.conv(self.minibatch_std(x)).flatten(1)))
        if self.cmap_dim > 0:
            assert cmap is not None
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Residual discriminator; class labels by projection."""

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(
            c_dim=c_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
        )
        self.c_dim, self.img_resolution = c_dim, img_resolution
        self.block_resolutions = [2**i for i in range(int(math.log2(img_resolution)), 2, -1)]
        for resolution in self.block_resolutions:
            tmp, out = (channels_at(r, channel_base, channel_max) for r in (resolution, resolution // 2))
            first = resolution == img_resolution
            setattr(self, f"b{resolution}", DiscriminatorBlock(0 if first else tmp, tmp, out, img_channels))
        top = channels_at(4, channel_base, channel_max)
        self.b4 = DiscriminatorEpilogue(top, cmap_dim=top if c_dim > 0 else 0)
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, top, num_ws=None, track_average=False)

    def forward(
        self, images: torch.Tensor, c: torch.Tensor | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits ``[N, 1]`` of images ``[N, 3, H, W]`` in [-1, 1]; larger means more real.

        ``added``: features ``[N, C, H, W]`` to add to what the first block reads off the image; for conditions.
        """
        assert_shape(images, [None, None, self.img_resolution, self.img_resolution])
        x = images
        for resolution in self.block_resolutions:
            x = getattr(self, f"b{resolution}")(x, added)
            added = None
        return self.b4(x, self.mapping(None, c) if self.c_dim > 0 else None)
