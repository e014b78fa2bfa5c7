"""The native ops against their plain-torch references: values, gradients, second gradients, code paths, tracers."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from sis_rearrange import ops
from sis_rearrange.ops import bias_act, fir_kernel, modulated_epilogue, native, upfirdn2d
from sis_rearrange.ops.activations import ACTIVATIONS

UPFIRDN2D = importlib.import_module("sis_rearrange.ops.upfirdn2d")  # the package has the function of that name
pytestmark = pytest.mark.skipif(native.find().library is None, reason=native.find().why)

DTYPES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SETTINGS: tuple[dict, ...] = ({}, {"gain": 0.7, "clamp": 0.4}, {"alpha": 0.35, "gain": 2.0})
layouts = pytest.mark.parametrize("layout", LAYOUTS)
activations = pytest.mark.parametrize("act", ACTIVATIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def draw(*shape: int, dtype=torch.float32, seed: int = 0, layout: str = "nchw") -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=LAYOUTS[layout]) if x.ndim == 4 else x


def both(function, inputs, tolerance=1e-4):
    """Run `function(*inputs, impl=...)` on both paths; compare the value and all gradients.

    The reference of half precision is that of the same numbers in float32: its own rounding between its steps would
    now and then land on the other side of a kink.
    """
    results = []
    half = inputs[0].dtype in (torch.float16, torch.bfloat16)
    for impl in ("native", "ref"):
        leaves = [x.clone(memory_format=torch.preserve_format) for x in inputs]
        leaves = [(x.float() if half and impl == "ref" else x).requires_grad_() for x in leaves]
        y = function(*leaves, impl=impl)
        direction = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(inputs[0].dtype).to(y.dtype)
        results.append([y, *torch.autograd.grad(y, leaves, direction)])
    for got, expected in zip(*results, strict=True):
        assert got.dtype == inputs[0].dtype and got.shape == expected.shape
        got, expected = got.double(), expected.double()
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got / scale, expected / scale, atol=tolerance, rtol=tolerance)
    return results[0][0]


@activations
@dtypes
@layouts
def test_bias_act_equals_the_reference(act, dtype, layout):
    x, bias = draw(2, 5, 7, 6, dtype=dtype, layout=layout), draw(5, dtype=dtype, seed=1)
    for settings in SETTINGS:
        y = both(lambda x, b, impl, s=settings: bias_act(x, b, act, impl=impl, **s), [x, bias], DTYPES[dtype])
        assert y.stride() == x.stride()


@pytest.mark.parametrize("shape, dim", [((7,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4, 5), 3), ((2, 3, 4), -2)])
def test_bias_act_takes_any_shape_and_dimension(shape, dim):
    bias = draw(shape[dim], seed=1)
    both(lambda x, b, impl: bias_act(x, b, "lrelu", dim=dim, impl=impl), [draw(*shape), bias])
    both(lambda x, impl: bias_act(x, None, "swish", dim=dim, impl=impl), [draw(*shape)])
    both(lambda x, impl: bias_act(x.transpose(0, -1), None, "lrelu", impl=impl), [draw(*shape)])


def test_special_values_go_the_way_of_torch():
    x = torch.tensor([[math.inf, -math.inf, math.nan, 0.0, -0.0, 3e38]])
    for act in ACTIVATIONS:
        for clamp in (None, 2.0):
            got, expected = (bias_act(x, act=act, clamp=clamp, impl=impl) for impl in ("native", "ref"))
            torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@layouts
def test_half_precision_rounds_as_torch_does(dtype, layout):
    everything = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(1, 16, 64, 64)
    everything = everything.contiguous(memory_format=LAYOUTS[layout])
    for gain in (1.0, 0.3, 1e-3, 700.0):  # results in every binade, subnormal and overflowing ones among them
        got = bias_act(everything, gain=gain, impl="native")
        expected = (everything.float() * gain).to(dtype)
        torch.testing.assert_close(got, expected, atol=0, rtol=0, equal_nan=True)


@activations
@layouts
@pytest.mark.parametrize("parts", ["all", "no noise", "no demodulation", "noise per sample", "bias alone"])
def test_modulated_epilogue_equals_the_reference(act, layout, parts):
    x, demodulation, bias = draw(2, 5, 7, 6, layout=layout), draw(2, 5, seed=1), draw(5, seed=2)
    noise = draw(2, 1, 7, 6, seed=3) if parts == "noise per sample" else draw(7, 6, seed=3)
    strength = torch.tensor(0.4)

    def run(x, demodulation, strength, bias, impl):
        used = [demodulation, noise, strength, bias]
        if parts in ("no demodulation", "bias alone"):
            used[0] = None
        if parts in ("no noise", "bias alone"):
            used[1] = used[2] = None
        y = modulated_epilogue(x, *used, act=act, clamp=1.5, impl=impl)
        return y + 0 * (demodulation.sum() + strength)  # the unused have gradients too: zero

    both(run, [x, demodulation, strength, bias])


@dtypes
@layouts
def test_the_epilogue_is_the_arithmetic_of_the_paper(dtype, layout):
    x, demodulation = draw(3, 40, 32, 32, dtype=dtype, layout=layout), draw(3, 40, dtype=dtype, seed=1)
    noise, strength, bias = draw(32, 32, dtype=dtype, seed=2), torch.tensor(0.3, dtype=dtype), draw(40, dtype=dtype)
    y = modulated_epilogue(x, demodulation, noise, strength, bias, impl="native")
    v = x.double() * demodulation[:, :, None, None].double() + noise.double() * strength.double()
    v = v + bias[:, None, None].double()
    expected = torch.where(v > 0, v, 0.2 * v) * math.sqrt(2)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    torch.testing.assert_close(y.double(), expected, atol=tolerance, rtol=tolerance)
    assert y.dtype == dtype and y.stride() == x.stride()


def test_learned_noise_gets_its_gradient():
    x, noise = draw(2, 3, 4, 4), draw(4, 4).requires_grad_()
    modulated_epilogue(x, None, noise).sum().backward()
    assert noise.grad is not None and noise.grad.abs().sum() > 0


@pytest.mark.parametrize("up", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("down", [1, 2, 3, (1, 3)])
@pytest.mark.parametrize("padding", [0, (2, 1), (2, 1, 3, 0), (-1, 2, 0, -2), (9, -3, 11, 4)])
@layouts
def test_upfirdn2d_equals_the_reference(up, down, padding, layout):
    kernel = draw(4, 3, seed=1)
    for channels, flip in ((3, False), (35, True)):
        x = draw(2, channels, 9, 8, layout=layout)
        both(lambda x, impl, f=flip: upfirdn2d(x, kernel, up, down, padding, f, 1.3, impl=impl), [x])


@pytest.mark.parametrize("up", [1, 2, (3, 1)])
@pytest.mark.parametrize("down", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", [(2, 1, 1, 3), (-3, 1, 0, -2)])
@layouts
def test_a_column_times_a_row_equals_the_reference(up, down, padding, layout):
    """Lines and channels that fill some registers and a part of another; filters that are not their mirror image."""
    kernel = torch.outer(draw(4, seed=1), draw(3, seed=2))
    for channels, width in ((3, 70), (16, 9), (24, 33), (50, 18)):
        x = draw(2, channels, 10, width, layout=layout)
        both(lambda x, impl: upfirdn2d(x, kernel, up, down, padding, gain=1.3, impl=impl), [x])


def test_a_filter_with_zeros_and_one_of_zeros():
    x = draw(1, 18, 9, 40)
    for kernel in (torch.eye(4), torch.zeros(3, 3), torch.tensor([[0.0, 0, 0], [0, 2, 1], [0, 0, 0]])):
        for layout in LAYOUTS.values():
            both(lambda x, impl, k=kernel: upfirdn2d(x, k, padding=2, impl=impl), [x.contiguous(memory_format=layout)])


@pytest.mark.parametrize(
    ("shape", "layout", "settings", "path"),
    [
        ((8, 64, 65, 65), "nchw", {"padding": 1}, "native"),
        ((8, 128, 16, 16), "nchw", {"down": 2, "padding": 1}, "ref"),
        ((8, 128, 9, 9), "nchw", {"padding": 1}, "ref"),
        ((8, 128, 9, 9), "nhwc", {"padding": 1}, "native"),
        ((4, 3, 64, 64), "nhwc", {"padding": 1}, "ref"),
        ((4, 3, 64, 64), "nhwc", {"up": 2, "padding": (2, 1)}, "native"),
    ],
)
def test_auto_takes_the_faster_path(monkeypatch, shape, layout, settings, path):
    taken = []
    monkeypatch.setattr(UPFIRDN2D, "use_native", lambda impl, x: taken.append(impl) or native.use_native(impl, x))
    upfirdn2d(draw(*shape, layout=layout), fir_kernel(), **settings)
    assert taken == (["auto"] if path == "native" else [])


@dtypes
@layouts
def test_upfirdn2d_in_every_type(dtype, layout):
    x = draw(2, 33, 20, 37, dtype=dtype, layout=layout)
    for up, down in ((1, 1), (2, 1), (1, 2)):
        y = both(lambda x, impl, u=up, d=down: upfirdn2d(x, fir_kernel(), u, d, 2, impl=impl), [x], DTYPES[dtype])
        assert y.is_contiguous(memory_format=LAYOUTS[layout])


def test_a_kernel_of_one_dimension_is_applied_along_both_axes():
    taps = torch.tensor([1.0, 2.0, 3.0])
    x = draw(1, 2, 9, 8)
    full = upfirdn2d(x, torch.outer(taps, taps), (2, 3), (3, 1), (2, 1, 0, 2), gain=1.7, impl="ref")
    torch.testing.assert_close(upfirdn2d(x, taps, (2, 3), (3, 1), (2, 1, 0, 2), gain=1.7, impl="native"), full)


@pytest.mark.parametrize("path", ["baseline", "avx2", "avx512"])
def test_every_code_path_of_this_cpu_agrees(path):
    library = native.find().library
    best = library.sis_path()
    if not library.sis_choose_path(path.encode()):
        pytest.skip(f"this CPU has no {path}")
    try:
        assert library.sis_path() == path.encode()
        for layout in LAYOUTS:
            for dtype, tolerance in DTYPES.items():
                x, bias = draw(2, 37, 9, 11, dtype=dtype, layout=layout), draw(37, dtype=dtype, seed=1)
                demodulation = draw(2, 37, dtype=dtype, seed=2)
                both(
                    lambda x, d, b, impl: modulated_epilogue(x, d, None, None, b, impl=impl),
                    [x, demodulation, bias],
                    tolerance,
                )
                both(lambda x, impl: upfirdn2d(x, fir_kernel(), 2, 1, 2, impl=impl), [x], tolerance)
                both(lambda x, impl: upfirdn2d(x, fir_kernel(), 1, 2, 1, impl=impl), [x], tolerance)
    finally:
        assert library.sis_choose_path(best)


@activations
@pytest.mark.parametrize("clamp", [None, 0.9])
def test_first_and_second_gradients_of_bias_act(act, clamp):
    x, bias = (
        draw(2, 3, 2, 2, dtype=torch.float64).requires_grad_(),
        draw(3, dtype=torch.float64, seed=1).requires_grad_(),
    )

    def run(x, bias):
        return bias_act(x, bias, act, clamp=clamp, impl="native")

    assert torch.autograd.gradcheck(run, (x, bias))
    assert torch.autograd.gradgradcheck(run, (x, bias))


@pytest.mark.parametrize("act", ["lrelu", "swish", "softplus"])
@layouts
@pytest.mark.parametrize("noisy", [True, False])
def test_first_and_second_gradients_of_the_epilogue(act, layout, noisy):
    f64 = torch.float64
    x, demodulation = draw(2, 3, 2, 3, dtype=f64, layout=layout), draw(2, 3, dtype=f64, seed=1)
    noise, strength, bias = draw(2, 3, dtype=f64, seed=2), torch.tensor(0.3, dtype=f64), draw(3, dtype=f64, seed=3)
    inputs = [t.requires_grad_() for t in (x, demodulation, strength, bias)]

    def run(x, demodulation, strength, bias):
        used = (noise, strength) if noisy else (None, None)
        return modulated_epilogue(x, demodulation, *used, bias, act=act, impl="native") + 0 * strength

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@layouts
@pytest.mark.parametrize("up, down, padding", [(2, 1, (2, 1, 2, 1)), (1, 2, 1), ((3, 1), (2, 2), (-1, 3, 0, 2))])
def test_first_and_second_gradients_of_upfirdn2d(layout, up, down, padding):
    x = draw(1, 2, 5, 4, dtype=torch.float64, layout=layout).requires_grad_()

    def run(x):
        return upfirdn2d(x, fir_kernel(), up, down, padding, gain=1.3, impl="native").square()

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_results_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    x, demodulation, bias = draw(4, 64, 32, 32, layout="nhwc"), draw(4, 64, seed=1), draw(64, seed=2)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, demodulation, bias)]
            y = modulated_epilogue(leaves[0], leaves[1], None, None, leaves[2], impl="native")
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


class Chain(torch.nn.Module):
    """All three ops in a row."""

    def forward(self, x: torch.Tensor, demodulation: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = modulated_epilogue(x, demodulation, torch.ones(8, 8), torch.tensor(0.1), bias, impl="native")
        x = upfirdn2d(x, fir_kernel(), up=2, padding=(2, 1, 2, 1), impl="native")
        return bias_act(x, bias, "swish", impl="native")


def chain_inputs():
    return draw(2, 6, 8, 8, layout="nhwc"), draw(2, 6, seed=1), draw(6, seed=2)


def test_compile_sees_through_the_ops():
    inputs = [t.requires_grad_() for t in chain_inputs()]
    expected = Chain()(*inputs)
    compiled = torch.compile(Chain(), backend="aot_eager", fullgraph=True)
    got = compiled(*inputs)
    torch.testing.assert_close(got, expected)
    for a, b in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (got, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_export_sees_through_the_ops():
    exported = torch.export.export(Chain(), chain_inputs())
    names = {str(node.target) for node in exported.graph.nodes}
    assert {f"sis_rearrange.{op}.default" for op in ("epilogue", "upfirdn2d")} <= names
    torch.testing.assert_close(exported.module()(*chain_inputs()), Chain()(*chain_inputs()))


def test_torchscript_traces_take_the_reference():
    x = draw(2, 64, 16, 16)
    traced = torch.jit.trace(lambda x: upfirdn2d(bias_act(x, act="lrelu"), fir_kernel(), padding=2), (x,))
    assert "sis_rearrange::" not in str(traced.graph)
    torch.testing.assert_close(traced(x), upfirdn2d(bias_act(x, act="lrelu"), fir_kernel(), padding=2))


def test_the_ops_pass_the_checks_of_torch_library():
    for name, arguments in {
        "epilogue": (*chain_inputs()[:2], None, None, chain_inputs()[2], "lrelu", 0.2, 1.4, -1.0),
        "upfirdn2d": (chain_inputs()[0], fir_kernel(), [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0),
    }.items():
        leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) and a.ndim == 4 else a for a in arguments]
        torch.library.opcheck(getattr(torch.ops.sis_rearrange, name).default, tuple(leaves))


def test_what_the_native_path_cannot_do_is_said():
    with pytest.raises(RuntimeError, match="native ops for torch.int64"):
        bias_act(torch.zeros(3, dtype=torch.int64), impl="native")
    with pytest.raises(ValueError, match="impl is 'fast'"):
        bias_act(torch.zeros(3), impl="fast")
    assert ops.backend()[0] == "native"
