"""What generator and discriminator are made of: linear layers, convolutions, the mapping network."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.ops import bias_act, conv3x3, downsample2d, fir_kernel, upfirdn2d
from sis_rearrange.ops.native import use_native
from sis_rearrange.tensors import assert_shape, is_traced


def initial(*shape: int, divisor: float = 1.0) -> torch.Tensor:
    """Initial weights; values only where there is memory for them."""
    x = torch.empty(shape)
    return x if x.is_meta else x.normal_() / divisor  # on the meta device this would import torch's compiler, to no end


def normalize_2nd_moment(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """``x [N, C]`` divided by its root mean square over C."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Number of feature channels of the block at ``resolution``."""
    return min(channel_base // resolution, channel_max)


def checked_clamp(conv_clamp: float | None) -> float | None:
    """``conv_clamp`` as a float; ValueError unless it is None or a positive number."""
    if conv_clamp is None:
        return None
    if isinstance(conv_clamp, bool) or not isinstance(conv_clamp, int | float) or not 0 < conv_clamp < 1e30:
        raise ValueError(f"conv_clamp is {conv_clamp!r}, must be None or a positive number")
    return float(conv_clamp)


def clamped(x: torch.Tensor, conv_clamp: float | None) -> torch.Tensor:
    """``x`` with its values held within +-``conv_clamp``; None for no limit."""
    return x if conv_clamp is None else x.clamp(-conv_clamp, conv_clamp)


def set_impl(network: nn.Module, impl: str) -> None:
    """Make every layer of ``network`` take one path of the ops: "auto", "native" or "ref" (see `bias_act`)."""
    for module in network.modules():
        if isinstance(getattr(module, "impl", None), str):
            module.impl = impl  # type: ignore[assignment]


def fast_layout(x: torch.Tensor, impl: str) -> torch.Tensor:
    """``x [N, C, H, W]`` in the memory layout that is fastest from here on; the values stay as they are.

    Channels last on the native path of the CPU, where convolutions then need no copies between layouts, and for half
    precision on a GPU. Decided by the tensor alone, so that a network split in two gives the same bits as a whole one.
    """
    if use_native(impl, x) and (x.is_cpu or x.dtype in (torch.float16, torch.bfloat16)):
        return x.contiguous(memory_format=torch.channels_last)
    return x


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate: stored weights are unit normal, scaled at run time."""

    impl = "auto"

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
        self.weight = nn.Parameter(initial(out_features, in_features, divisor=lr_multiplier))
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor, by_rows: bool = False) -> torch.Tensor:
        """``[N, in_features]`` to ``[N, out_features]``; ``by_rows``: each with the same bits in any batch."""
        weight, bias = self.weight * self.weight_gain, self.bias * self.bias_gain
        # a matrix product's rounding depends on its number of rows
        x = torch.cat([F.linear(row, weight, bias) for row in x.split(1)]) if by_rows else F.linear(x, weight, bias)
        return bias_act(x, act=self.activation, impl=self.impl)


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

        ``truncation_psi`` pulls w towards ``w_avg`` in the first ``truncation_cutoff`` rows (None: all). Without
        gradients, on a CPU, a sample has the same bits in any batch.
        """
        if self.z_dim > 0:
            assert z is not None
            assert_shape(z, [None, self.z_dim])
        if self.c_dim > 0:
            if c is None:
                raise ValueError(f"this network needs class labels c of shape [N, {self.c_dim}]")
            assert_shape(c, [None, self.c_dim])
        x = self._layers(z, c)
        if self.num_ws is None:
            return x
        x = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return x
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(x[:, :cutoff], truncation_psi), x[:, cutoff:]], dim=1)

    def _layers(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """w ``[N, w_dim]``."""
        given = z if self.z_dim > 0 else c
        assert given is not None
        by_rows = not torch.is_grad_enabled() and given.is_cpu and not is_traced() and len(given) > 0

        def normalized(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([normalize_2nd_moment(row) for row in x.split(1)]) if by_rows else normalize_2nd_moment(x)

        parts = []
        if self.z_dim > 0:
            assert z is not None
            parts.append(normalized(z.float()))
        if self.c_dim > 0:
            assert c is not None
            parts.append(normalized(self.embed(c.float(), by_rows)))
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x, by_rows)
        return x


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, optional 2x downsampling, bias, activation and clamp."""

    impl = "auto"
    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        conv_clamp: float | None = None,  # largest absolute value of the result at gain 1; None: no limit
    ) -> None:
        super().__init__()
        self.kernel_size, self.activation, self.down = kernel_size, activation, down
        self.conv_clamp = conv_clamp
        self.register_buffer("resample_filter", fir_kernel())
        self.weight = nn.Parameter(initial(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """``[N, in, H, W]`` to ``[N, out, H/down, W/down]``; ``gain`` multiplies the activation's and the clamp."""
        weight = self.weight * self.weight_gain
        if self.down == 2 and self.kernel_size == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter, self.impl), weight)
        elif self.down == 2:
            x = F.conv2d(upfirdn2d(x, self.resample_filter, padding=2, impl=self.impl), weight, stride=2)
        elif self.kernel_size == 3:
            x = conv3x3(x, weight, self.impl)
        else:
            x = F.conv2d(x, weight, padding=self.kernel_size // 2)
        act_gain = math.sqrt(2.0) if self.activation == "lrelu" else 1.0
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias, act=self.activation, gain=act_gain * gain, clamp=clamp, impl=self.impl)
