"""Synthesis on a CUDA device: reduced precision, and the whole network as one captured graph for a fixed batch.

At small batches a GPU waits for Python to name the next of some two hundred kernels; a captured graph names them all at
once. Not run on a GPU yet: the precision is tested on the CPU, and the capture where torch sees a device.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.inference import SynthesisGraph
from sis_rearrange.stylegan2 import Generator

WARM_UP = 3  # runs before the capture, in which libraries choose their kernels and take their memory


def reduced_synthesis(generator: Generator, dtype: torch.dtype, num_reduced: int = 4) -> SynthesisGraph:
    """Synthesis whose last ``num_reduced`` blocks compute in float16 or bfloat16, channels last; weights are copies."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"synthesis computes in float32, float16 or bfloat16, not in {dtype}")
    graph = SynthesisGraph(generator, dtype=dtype, num_reduced=num_reduced)
    for name, x in graph.named_buffers():
        if x.ndim == 4 and name.endswith("weight"):  # convolutions follow the layout of their weights
            x.data = x.data.contiguous(memory_format=torch.channels_last)
    return graph


def capture_synthesis(
    generator: Generator,  # on a CUDA device
    batch: int,
    dtype: torch.dtype = torch.float16,
    num_reduced: int = 4,
) -> CapturedGraph:
    """From ws ``[batch, num_ws, w_dim]`` to images, as one captured graph; InputError where there is no CUDA device."""
    device = next(generator.synthesis.parameters()).device
    network = reduced_synthesis(generator, dtype, num_reduced)
    return CapturedGraph(network, torch.zeros(batch, generator.num_ws, generator.w_dim, device=device))


class CapturedGraph:
    """A module captured with the memory it runs in; call it with tensors of the examples' shapes and types.

    Later changes of the module's weights in place are seen, replaced tensors are not. Threads take turns.
    """

    def __init__(self, module: nn.Module, *examples: torch.Tensor) -> None:
        device = examples[0].device
        if not examples[0].is_cuda:
            raise InputError(f"a graph is captured on a CUDA device; the examples are on {device.type!r}")
        self._inputs = [x.clone() for x in examples]
        self._turn = threading.Lock()
        with torch.cuda.device(device), torch.no_grad():
            side: Any = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):  # a capture must not be the first thing that its stream does
                for _ in range(WARM_UP):
                    module(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output: torch.Tensor = module(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The module's output as a new tensor."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            if kept.shape != given.shape or kept.dtype != given.dtype:
                wanted = f"{kept.dtype} {list(kept.shape)}"
                raise ValueError(f"captured for {wanted}, called with {given.dtype} {list(given.shape)}")
        with self._turn, torch.no_grad():
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given)
            self._graph.replay()
            return self._output.clone()
