"""The native ops against their plain-torch references, at shapes of synthesis and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from pairs import NotMeasured, Row, compare, fewer, largest_difference

from sis_rearrange import ops

Inputs = tuple[torch.Tensor, ...]
ROUNDS = 20
SHAPES = ((8, 64, 64), (1, 128, 256))  # batch, channels, side: training at 64 px, one picture at 256 px
FILTERED = ((8, 32, 64), (8, 64, 32), (8, 128, 16), (8, 128, 8), (4, 16, 256))


def op_calls(shapes: Sequence[tuple[int, int, int]] = SHAPES) -> dict[str, tuple[Inputs, Callable[..., torch.Tensor]]]:
    """Name -> (inputs that take gradients, function of the inputs and ``impl``) of every op at every shape, NCHW."""
    draw = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    kernel = ops.fir_kernel()
    calls: dict[str, tuple[Inputs, Callable[..., torch.Tensor]]] = {}
    for n, c, side in shapes:
        shape = f"{n} x {c} x {side} x {side}"
        maps, bias, factors = normal(n, c, side, side), normal(c), normal(n, c)
        calls[f"bias_act {shape}"] = (maps, bias), partial(ops.bias_act, act="lrelu")
        calls[f"modulated_epilogue {shape}"] = (
            (maps, factors, torch.tensor(0.1), bias),
            partial(_epilogue, noise=normal(side, side)),
        )
        filtered = partial(ops.upfirdn2d, kernel=kernel, padding=(1, 1, 1, 1), gain=4.0)
        calls[f"upfirdn2d filter {shape}"] = (normal(n, c, side + 1, side + 1),), filtered
        halved = partial(ops.upfirdn2d, kernel=kernel, down=2, padding=(1, 1, 1, 1))
        calls[f"upfirdn2d down {shape}"] = (maps,), halved
        doubled = partial(ops.upfirdn2d, kernel=kernel, up=2, padding=(2, 1, 2, 1), gain=4.0)
        calls[f"upfirdn2d up {n} x 3 x {side // 2} x {side // 2}"] = (normal(n, 3, side // 2, side // 2),), doubled
    return calls


def _epilogue(
    x: torch.Tensor, factors: torch.Tensor, strength: torch.Tensor, bias: torch.Tensor, noise: torch.Tensor, impl: str
) -> torch.Tensor:
    return ops.modulated_epilogue(x, factors, noise, strength, bias, act="lrelu", impl=impl)


def op_rows(quick: bool) -> list[Row]:
    """Each op, native against reference, and the filters of the networks: forward, and forward with backward."""
    active, why = ops.backend()
    if active != "native":
        raise NotMeasured(f"the ops run on the {active} path here: {why}")
    rows = []
    for name, (inputs, call) in op_calls().items():
        for backward in (False, True):
            rows += _rows(name, inputs, call, backward, "native", quick)
    for name, (inputs, call) in filter_calls().items():
        for backward in (False, True):
            rows += _rows(name, inputs, call, backward, "auto", quick)
    return rows


def filter_calls(
    shapes: Sequence[tuple[int, int, int]] = FILTERED,
) -> dict[str, tuple[Inputs, Callable[..., torch.Tensor]]]:
    """upfirdn2d as the networks call it, at their shapes and in their layout: what "auto" does there."""
    draw, kernel = torch.Generator().manual_seed(3), ops.fir_kernel()
    calls: dict[str, tuple[Inputs, Callable[..., torch.Tensor]]] = {}
    for n, c, side in shapes:
        for what, size, settings in (
            ("filter", side + 1, {"padding": 1, "gain": 4.0}),  # after a transposed convolution
            ("pad and filter", side, {"padding": 2}),  # before a convolution with stride 2
            ("down", side, {"down": 2, "padding": 1}),  # in a residual connection
        ):
            x = torch.randn(n, c, size, size, generator=draw).contiguous(memory_format=torch.channels_last)
            call = partial(ops.upfirdn2d, kernel=kernel, **settings)
            calls[f"upfirdn2d {what} {n} x {c} x {size} x {size}, channels last"] = (x,), call
        image = torch.randn(n, 3, side, side, generator=draw).contiguous(memory_format=torch.channels_last)
        doubled = partial(ops.upfirdn2d, kernel=kernel, up=2, padding=(2, 1, 2, 1), gain=4.0)
        calls[f"upfirdn2d up {n} x 3 x {side} x {side}, channels last"] = (image,), doubled
    return calls


def _rows(
    name: str, inputs: Inputs, call: Callable[..., torch.Tensor], backward: bool, impl: str, quick: bool
) -> list[Row]:
    calls = {path: op_call(call, inputs, path, backward) for path in ("ref", impl)}
    results = {path: run() for path, run in calls.items()}
    differences = {impl: max(map(largest_difference, results[impl], results["ref"]))}
    work = f"{name}, forward{' and backward' if backward else ''}"
    return compare(work, calls, fewer(ROUNDS, quick), differences=differences)


def op_call(call: Callable[..., torch.Tensor], inputs: Inputs, impl: str, backward: bool) -> Callable[[], Inputs]:
    """The op without gradients: its result; with: the result and the gradient of every input."""
    if not backward:

        def forward() -> Inputs:
            with torch.inference_mode():
                return (call(*inputs, impl=impl),)

        return forward
    leaves = tuple(x.clone().requires_grad_(True) for x in inputs)
    result = call(*leaves, impl=impl)
    # dense and uneven, as the gradient that a layer above hands down
    above = torch.randn(result.shape, generator=torch.Generator().manual_seed(4))

    def both() -> Inputs:
        y = call(*leaves, impl=impl)
        return (y.detach(), *torch.autograd.grad(y, leaves, above))

    return both
