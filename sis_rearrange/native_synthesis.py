"""Synthesis on a CPU through the native layers of `sis_rearrange.ops.winograd`: float32, constant noise, no gradients.

Feature maps stay channels last from the first layer to the last. At 4x4 the transformed weights are four times as many
bytes to read, for a single tile; that still takes a third of torch's time, which packs its weights anew at every call.
"""

from __future__ import annotations

import math
import threading

import torch

from sis_rearrange.ops import fir_kernel, winograd
from sis_rearrange.stylegan2 import FullyConnectedLayer, Generator, SynthesisBlock, SynthesisLayer, ToRGBLayer
from sis_rearrange.tensors import assert_shape

GAIN = math.sqrt(2.0)  # of the leaky ReLU, which is homogeneous: demodulation, noise and bias carry it
SLOPE = 0.2
EPSILON = 1e-8  # under the root of the demodulation


def lacking(generator: Generator) -> str:
    """Why the native layers cannot run this generator, one line; "" if they can. May build their library: seconds."""
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in generator.synthesis.parameters()):
        return "its weights are not float32 on the CPU"
    for resolution, block, _ in generator.synthesis.blocks():
        if block.torgb.weight.shape[0] != 3:
            return f"{block.torgb.weight.shape[0]} image channels; they make pictures of 3"
        for layer in _convolutions(block):
            if any(count % winograd.PANEL for count in layer.weight.shape[:2]):
                return f"b{resolution} has {layer.weight.shape[0]} channels; they take multiples of {winograd.PANEL}"
            if not torch.equal(layer.resample_filter, fir_kernel()):
                return f"the filter of b{resolution} is not the usual (1 3 3 1)"
    found = winograd.backend()
    return "" if found.library is not None else found.why


class NativeSynthesis:
    """ws to images, or with ``first_resolution`` from there on: ``(feature_map, skip, ws)`` of the block before.

    Weights are copies. Working memory is kept between calls; threads may share an instance and take turns. ValueError
    where `lacking` has a reason.
    """

    def __init__(self, generator: Generator, first_resolution: int | None = None) -> None:
        if reason := lacking(generator):
            raise ValueError(f"no native synthesis: {reason}")
        self._w_shape = [None, generator.num_ws, generator.w_dim]
        start = first_resolution or 4
        self._blocks = [_Block(block, first) for r, block, first in generator.synthesis.blocks() if r >= start]
        self._turn, self._room = threading.Lock(), winograd.Room()

    @torch.no_grad()  # not inference mode: callers may go on with gradients from the picture
    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 3, H, W]`` from ws ``[N, num_ws, w_dim]``, or from ``(feature_map, skip, ws)``."""
        *given, ws = inputs
        assert_shape(ws, self._w_shape)
        with self._turn:
            # one picture at a time: the working memory of a batch would leave the cache, and two threads are busy
            pictures = [self._one(*(x[n : n + 1] for x in given), ws[n : n + 1]) for n in range(ws.shape[0])]
        if len(pictures) == 1:
            return pictures[0]
        side = self._blocks[-1].resolution
        return torch.cat(pictures) if pictures else ws.new_empty(0, 3, side, side)

    def _one(self, *inputs: torch.Tensor) -> torch.Tensor:
        *given, ws = inputs
        x, img = given if given else (None, None)
        if x is not None and img is not None:
            x, img = x.permute(0, 2, 3, 1).contiguous(), img.contiguous()
        for block in self._blocks:
            x, img = block.run(x, img, ws, self._room)
        assert img is not None
        return img


class _Affine:
    """w ``[N, w_dim]`` to styles ``[N, in]``, gains folded in."""

    def __init__(self, affine: FullyConnectedLayer, gain: float = 1.0) -> None:
        self.weight = (affine.weight.detach() * (affine.weight_gain * gain)).t().contiguous().t()
        self.bias = affine.bias.detach() * (affine.bias_gain * gain)

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(w, self.weight, self.bias)


class _Layer:
    """One convolution; ``x [N, h, w, in]``."""

    def __init__(self, layer: SynthesisLayer) -> None:
        self.up, self.clamp = layer.up == 2, layer.conv_clamp
        weight = layer.weight.detach()
        self.affine = _Affine(layer.affine)
        self.packed = winograd.pack(weight, self.up)
        self.squares = weight.square().sum(dim=[2, 3]) / GAIN**2
        self.bias = layer.bias.detach() * GAIN
        noise = layer.noise_const.detach() * (layer.noise_strength.detach() * GAIN)
        self.noise = noise if bool(noise.any()) else None

    def run(self, x: torch.Tensor, w: torch.Tensor, room: winograd.Room) -> torch.Tensor:
        styles = self.affine(w)
        norms = torch.nn.functional.linear(styles.square(), self.squares)
        demodulation = (norms + EPSILON / GAIN**2).rsqrt()
        name = "upsampled" if self.up else "convolved"  # two places in turn: each layer reads the other's
        return winograd.layer(
            x, self.packed, styles, demodulation, self.noise, self.bias, SLOPE, self.up, room, name, self.clamp
        )


class _ToRGB:
    """1x1 convolution to RGB."""

    def __init__(self, layer: ToRGBLayer) -> None:
        self.affine = _Affine(layer.affine, layer.weight_gain)
        self.weight = layer.weight.detach()[None, :, :, 0, 0].clone()
        self.bias = layer.bias.detach().clone()
        self.clamp = layer.conv_clamp

    def run(self, x: torch.Tensor, img: torch.Tensor | None, w: torch.Tensor) -> torch.Tensor:
        return winograd.to_rgb(x, self.affine(w)[:, None] * self.weight, self.bias, img, self.clamp)


class _Block:
    """One block with the number of its first row of ws."""

    def __init__(self, block: SynthesisBlock, first: int) -> None:
        self.first, self.resolution = first, block.conv1.resolution
        self.const = block.const.detach().permute(1, 2, 0)[None].contiguous() if block.num_conv == 1 else None
        self.layers = [_Layer(layer) for layer in _convolutions(block)]
        self.torgb = _ToRGB(block.torgb)

    def run(
        self, x: torch.Tensor | None, img: torch.Tensor | None, ws: torch.Tensor, room: winograd.Room
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if x is None:
            assert self.const is not None
            x = self.const.expand(ws.shape[0], -1, -1, -1).contiguous()
        for row, layer in enumerate(self.layers, self.first):
            x = layer.run(x, ws[:, row], room)
        return x, self.torgb.run(x, img, ws[:, self.first + len(self.layers)])


def _convolutions(block: SynthesisBlock) -> list[SynthesisLayer]:
    return [block.conv1] if block.num_conv == 1 else [block.conv0, block.conv1]
