"""Synthesis for inference only: the same pictures, less work, in forms that trace into one fixed graph.

`SynthesisGraph` computes beforehand whatever does not depend on ws, and takes out of the network what no picture needs:

- Weights carry their gains. Leaky ReLU is homogeneous, so its gain of sqrt 2 moves into demodulation, noise and bias.
- Demodulation needs the squared weights summed over the kernel: a matrix of its own, made once.
- Noise is a constant picture per layer, and nothing where its strength is zero.
- Filters run with zero padding of the convolution itself instead of a padded copy.
- A `conv_clamp` limits what comes out of a layer with its gain in it, so it stays as it is.

What was found, for configuration f at 256 and 1024 px on AVX-512: stride-1 and transposed 3x3 convolutions are nine
tenths of the engine's time and run at the CPU's peak, so only fewer multiplications help. Inside the engine, four 3x3
phase convolutions instead of transposed convolution + filter take three times as long (four times the products), 2x2
phases + a 3x3 filter half as long again; resizing first is as slow as phases, and not exact at the border. The native
layers, with Winograd's transforms, take a third of the time of a stride-1 convolution and 0.6 of an upsampling one.

`accelerate` puts the fastest form behind a generator: the native layers (`sis_rearrange.native_synthesis`) or this
graph in the engine. In float16 or bfloat16 the graph is for GPUs (`sis_rearrange.gpu_synthesis`).
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange import engine, native_synthesis
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.native_synthesis import NativeSynthesis
from sis_rearrange.stylegan2 import Generator, SynthesisBlock, SynthesisLayer, ToRGBLayer, clamped

EPSILON = 1e-8  # under the root of the demodulation
GAIN = math.sqrt(2.0)  # of the leaky ReLU
SLOPE = 0.2


class _Affine(nn.Module):
    """w ``[N, w_dim]`` to styles ``[N, in]``; gains folded in."""

    def __init__(self, layer: SynthesisLayer | ToRGBLayer, gain: float = 1.0) -> None:
        super().__init__()
        affine = layer.affine
        self.register_buffer("weight", affine.weight.detach() * (affine.weight_gain * gain))
        self.register_buffer("bias", affine.bias.detach() * (affine.bias_gain * gain))
        self.weight: torch.Tensor
        self.bias: torch.Tensor

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return F.linear(w, self.weight, self.bias)


class _Layer(nn.Module):
    """`SynthesisLayer` with constant noise.

    In reduced precision styles and weights are brought to at most 1 before they meet, so that nothing overflows;
    demodulation, in float32, takes both factors out again.
    """

    def __init__(self, layer: SynthesisLayer, dtype: torch.dtype) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.up, self.dtype, self.clamp = layer.up, dtype, layer.conv_clamp
        if dtype != torch.float32:
            weight = weight / (weight.abs().amax() * math.sqrt(weight[0].numel())).clamp(min=EPSILON)
        noise = layer.noise_const.detach() * layer.noise_strength.detach() * GAIN
        kernel = (layer.resample_filter.flip([0, 1]) * 4.0)[None, None].repeat(weight.shape[0], 1, 1, 1)
        self.affine = _Affine(layer)
        self.weight: torch.Tensor
        self.squares: torch.Tensor
        self.bias: torch.Tensor
        self.noise: torch.Tensor | None
        self.filter: torch.Tensor | None
        self.register_buffer("weight", (weight.transpose(0, 1) if self.up == 2 else weight).to(dtype, copy=True))
        self.register_buffer("squares", weight.square().sum(dim=[2, 3]) / GAIN**2)
        self.register_buffer("bias", (layer.bias.detach()[None, :, None, None] * GAIN).to(dtype))
        self.register_buffer("noise", noise[None, None].to(dtype) if bool(noise.any()) else None)
        self.register_buffer("filter", kernel.to(dtype) if self.up == 2 else None)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w)
        if self.dtype != torch.float32:
            styles = styles / styles.abs().amax(dim=1, keepdim=True).clamp(min=EPSILON)
        demodulation = (F.linear(styles.square(), self.squares) + EPSILON / GAIN**2).rsqrt()
        x = _cast(x, self.dtype) * _cast(styles, self.dtype)[:, :, None, None]
        if self.filter is not None:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.filter, padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, self.weight, padding=1)
        x = x * _cast(demodulation, self.dtype)[:, :, None, None]
        if self.noise is not None:
            x = x + self.noise
        return clamped(F.leaky_relu(x + self.bias, SLOPE), self.clamp)


class _ToRGB(nn.Module):
    """`ToRGBLayer`; the picture is float32 in any precision."""

    def __init__(self, layer: ToRGBLayer, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.clamp = dtype, layer.conv_clamp
        self.affine = _Affine(layer, gain=layer.weight_gain)
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", layer.weight.detach().to(dtype, copy=True))
        self.register_buffer("bias", layer.bias.detach().to(dtype, copy=True))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x = x * _cast(self.affine(w), self.dtype)[:, :, None, None]
        return _cast(clamped(F.conv2d(x, self.weight, self.bias), self.clamp), torch.float32)


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # a cast that does nothing would still be in the graph


class _Block(nn.Module):
    """`SynthesisBlock`; ``first``: the number of its first row of ws."""

    def __init__(self, block: SynthesisBlock, first: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = first
        self.const: torch.Tensor | None
        self.filter: torch.Tensor
        self.register_buffer("const", block.const.detach()[None].clone() if block.num_conv == 1 else None)
        self.register_buffer("filter", (block.resample_filter * 4.0).repeat(block.torgb.weight.shape[0], 1, 1, 1))
        self.conv0 = _Layer(block.conv0, dtype) if block.num_conv == 2 else None
        self.conv1, self.torgb = _Layer(block.conv1, dtype), _ToRGB(block.torgb, dtype)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, ws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.first
        if self.conv0 is None:
            assert self.const is not None
            x = self.const.expand(ws.shape[0], -1, -1, -1)
        else:
            assert x is not None
            x, row = self.conv0(x, ws[:, row]), row + 1
        x = self.conv1(x, ws[:, row])
        rgb = self.torgb(x, ws[:, row + 1])
        if img is None:
            return x, rgb
        # zero insertion and filter in one
        return x, F.conv_transpose2d(img, self.filter, stride=2, padding=1, groups=img.shape[1]) + rgb


class SynthesisGraph(nn.Module):
    """Synthesis with constant noise as a module that traces: weights are copies, for inference only.

    ``SynthesisGraph(generator)`` takes ws ``[N, num_ws, w_dim]``. With ``first_resolution`` it begins at that block and
    takes the feature map ``[N, C, r, r]`` and RGB skip image ``[N, 3, r, r]`` of the block before, then ws. Either way
    it returns images ``[N, 3, H, W]``.
    """

    def __init__(
        self,
        generator: Generator,
        first_resolution: int | None = None,
        dtype: torch.dtype = torch.float32,  # of the feature maps in the last blocks; ws and images are float32
        num_reduced: int = 4,  # how many blocks, from the last one back, are of that type; the paper's choice
    ) -> None:
        super().__init__()
        known = generator.synthesis.block_resolutions
        if first_resolution is not None and first_resolution not in known[1:]:
            raise ValueError(f"first_resolution {first_resolution}: this generator has blocks {known[1:]} to begin at")
        start = known[0] if first_resolution is None else first_resolution
        reduced = known[-num_reduced:] if num_reduced > 0 else []
        self.blocks = nn.ModuleList(
            _Block(block, first, dtype if r in reduced else torch.float32)
            for r, block, first in generator.synthesis.blocks()
            if r >= start
        )
        self.eval().requires_grad_(False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """``(ws)``, or ``(feature_map, skip, ws)``."""
        *given, ws = inputs
        x, img = given if given else (None, None)
        for block in self.blocks:
            x, img = block(x, img, ws)
        assert img is not None
        return img


# ---------------------------------------------------------------- behind a generator's own synthesis

BACKENDS = ("auto", "torch", "native", "openvino")


def accelerate(generator: Generator, backend: str = "auto") -> Generator:
    """Let ``generator.synthesis`` run on ``backend`` where nothing but the picture is asked for; returns the generator.

    That is: gradients off, constant noise, float32 on the CPU; everything else goes on as before, and so does the
    mapping. After a change of its weights the generator falls back to torch by itself; accelerate it again then.
    "native" and "openvino" paint one picture at a time: its bits are the same in any batch. Those of "torch" are not,
    since torch sums in another order; in 8 bits a value now and then is one level off.

    Args:
        backend: "native" (`NativeSynthesis`), "openvino" (`SynthesisGraph` in the engine), "torch" (as it is), or
            "auto": the first of these that can be had.

    Raises InputError for a backend that does not exist or cannot be had here.
    """
    name, _ = resolve(generator, backend)
    generator.synthesis.fast = None if name == "torch" else _Fast(generator, name)
    return generator


def resolve(generator: Generator, backend: str = "auto") -> tuple[str, str]:
    """What `accelerate` takes for this generator, and why: ("native", "openvino" or "torch", one line)."""
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}{nearest(backend, BACKENDS)} (there are {', '.join(BACKENDS)})")
    device = next(generator.synthesis.parameters()).device
    if backend in ("torch", "openvino"):
        return engine.resolve(backend, device)
    reason = native_synthesis.lacking(generator)
    if not reason:
        return "native", "asked for" if backend == "native" else "inference on a CPU"
    if backend == "native":
        raise InputError(f"backend 'native': {reason}; use backend 'auto'")
    return engine.resolve("auto", device)


class _Fast:
    """What stands in for a synthesis network's blocks: made at the first call, void once the weights have changed."""

    def __init__(self, generator: Generator, backend: str) -> None:
        self.backend = backend
        self._generator = generator
        self._watch = _Watch(generator.synthesis)
        self._lock = threading.Lock()
        self._run: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, ws: torch.Tensor) -> torch.Tensor:
        synthesis = self._generator.synthesis
        if self._watch.changed():
            synthesis.fast = None
            return synthesis(ws)
        with self._lock:
            if self._run is None:
                self._run = self._make()
        return self._run(ws)

    def _make(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.backend == "native":
            return NativeSynthesis(self._generator)
        graph = SynthesisGraph(self._generator)
        example = torch.zeros(1, self._generator.num_ws, self._generator.w_dim)
        compiled = engine.compile_graph(graph, (example,), _key(self._generator), "synthesis")

        def run(ws: torch.Tensor) -> torch.Tensor:  # a picture at a time: all threads are busy with one already
            side = self._generator.img_resolution
            pictures = [compiled(w[None])[0] for w in ws]
            return torch.cat(pictures) if pictures else ws.new_empty(0, 3, side, side)

        return run


class _Watch:
    """Notices when tensors of a module change: in place, also behind autograd's back, or by being replaced."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen = self._look()

    def changed(self) -> bool:
        return self._look() != self._seen

    def _look(self) -> list[tuple[int, int, float]]:
        tensors = [*self._module.parameters(), *self._module.buffers()]
        # the version does not count writes through .data, as optimisers of averages make: look at a value too
        return [(x.data_ptr(), 0 if x.is_inference() else x._version, _first(x)) for x in tensors]


def _first(x: torch.Tensor) -> float:
    """The first value of a float32 tensor on the CPU, read without the cost of an op."""
    return ctypes.c_float.from_address(x.data_ptr()).value if x.is_cpu and x.numel() else 0.0


def _key(generator: Generator) -> str:
    """Hash of a synthesis network's weights, of its shape and clamps, and of the code that makes its graph."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    layers = (part for _, block, _ in generator.synthesis.blocks() for part in block.children())
    digest.update(str([getattr(layer, "conv_clamp", None) for layer in layers]).encode())
    for name, x in generator.synthesis.state_dict().items():
        digest.update(f"{name} {list(x.shape)}".encode())
        digest.update(x.contiguous().numpy().data)
    return digest.hexdigest()
