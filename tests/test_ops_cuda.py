"""The CUDA ops: they compile wherever nvcc is found; they are run wherever torch sees a device."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest
import torch

from sis_rearrange.ops import bias_act, build, fir_kernel, modulated_epilogue, native, upfirdn2d

EXPORTED = {
    "sis_version",
    "sis_path",
    "sis_choose_path",
    "sis_epilogue",
    "sis_epilogue_grad",
    "sis_curve",
    "sis_upfirdn2d",
}


def nvcc() -> str | None:
    try:
        return build.find_compiler("gpu")
    except build.BuildError:
        return None


@pytest.mark.skipif(nvcc() is None, reason="no nvcc")
def test_the_kernels_compile_for_every_architecture_the_toolkit_knows():
    architectures = build.nvcc_architectures(nvcc())
    assert architectures, "nvcc knows none of the architectures we support"
    path = build.build("gpu", build.cache_folder() / "ops", architectures=architectures)  # cached by hash
    if dump := shutil.which("cuobjdump"):
        listing = subprocess.run([dump, "--list-elf", str(path)], capture_output=True, text=True, check=True).stdout
        assert all(f"sm_{number}" in listing for number in architectures)
    symbols = path.read_bytes()
    assert all(name.encode() in symbols for name in EXPORTED)


@pytest.mark.skipif(native.find().library is None, reason=native.find().why)
def test_the_cpu_library_has_the_same_interface():
    library = native.find().library
    assert all(isinstance(getattr(library, name), ctypes._CFuncPtr) for name in EXPORTED)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


def on_gpu(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.device("cuda"), memory_format=torch.preserve_format)


def both(function, inputs, tolerance):
    """`function(*inputs)` natively on the GPU and as the reference on the CPU: values and gradients."""
    results = []
    for move, impl in ((on_gpu, "native"), (lambda x: x.float(), "ref")):
        leaves = [move(x.detach()).requires_grad_() for x in inputs]
        y = function(*leaves, impl=impl)
        direction = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
        results.append([y, *torch.autograd.grad(y, leaves, direction)])
    for got, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got.float().cpu() / scale, expected / scale, atol=tolerance, rtol=tolerance)


@needs_gpu
class TestOnAGpu:
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
    def test_ops_equal_the_reference(self, layout, dtype, tolerance):
        x = torch.randn(3, 37, 33, 29).to(dtype).contiguous(memory_format=layout)
        bias, demodulation = torch.randn(37).to(dtype), torch.rand(3, 37).to(dtype)
        noise = torch.randn(33, 29).to(dtype)
        for act in native_activations():
            both(lambda x, b, impl, a=act: bias_act(x, b, a, clamp=1.0, impl=impl), [x, bias], tolerance)

        def epilogue(x, d, b, impl):
            return modulated_epilogue(x, d, noise.to(x), None, b, impl=impl)

        both(epilogue, [x, demodulation, bias], tolerance)
        for up, down in ((1, 1), (2, 1), (1, 2), (3, 2)):

            def filtered(x, impl, up=up, down=down):
                return upfirdn2d(x, fir_kernel().to(x.device), up, down, (2, 1, -1, 3), impl=impl)

            both(filtered, [x], tolerance)

    def test_second_gradients(self):
        x, bias = (on_gpu(torch.randn(*s, dtype=torch.float64)).requires_grad_() for s in ((2, 3, 2, 2), (3,)))
        for act in native_activations():
            assert torch.autograd.gradgradcheck(lambda x, b, a=act: bias_act(x, b, a, impl="native"), (x, bias))


def native_activations():
    from sis_rearrange.ops.activations import ACTIVATIONS

    return list(ACTIVATIONS)
