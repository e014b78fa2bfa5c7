"""The command that says what runs here, and why: the first thing to look at, and to quote, when something is slow."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

import click

from sis_rearrange import __version__
from sis_rearrange.cli.options import OneLine

PACKAGES = ("torch", "numpy", "openvino", "safetensors", "scikit-learn", "onnx", "onnxruntime", "ninja")
# of the many that a CPU has, those that decide which code path a kernel takes
FEATURES = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _compiler(device: str) -> str:
    from sis_rearrange.ops import build

    try:
        return build.find_compiler(device)
    except build.BuildError as error:
        return str(error)


def _ops() -> Iterator[tuple[str, str]]:
    """Which path the ops take. This builds the native libraries if that was not tried yet."""
    from sis_rearrange.ops import native, winograd

    for kind, on_gpu in (("CPU", False), ("CUDA", True)):
        found = native.find(on_gpu)
        if found.library is None:
            yield f"ops on {kind}", f"plain torch: {found.why}"
        else:
            yield f"ops on {kind}", f"native, code path {found.library.sis_path().decode()}: {found.why}"
    layers = winograd.backend()
    yield "synthesis layers", f"{'plain torch' if layers.library is None else 'native'}: {layers.why}"


def _cuda() -> Iterator[tuple[str, str]]:
    import torch

    built = torch.version.cuda
    yield "CUDA in torch", str(built) if built else "none: this torch is for the CPU only"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield f"GPU {number}", f"{about.name}, sm_{about.major}{about.minor}, {about.total_memory / 2**30:.0f} GiB"
    else:
        yield "GPU", "torch sees none"
    yield "nvcc", _compiler("gpu")


def _cache() -> str:
    from sis_rearrange.ops import build

    try:
        folder = build.cache_folder()
    except build.BuildError as error:
        return str(error)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return f"{folder} ({size / 2**20:.0f} MB)"


def findings() -> Iterator[tuple[str, str]]:
    """(what, how it stands) in the order of the report."""
    import torch

    from sis_rearrange import engine
    from sis_rearrange.ops import build

    yield "sis_rearrange", __version__
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "system", f"{platform.system()} {platform.machine()}"
    yield from _ops()
    name, why = engine.resolve("auto", "cpu")
    yield "inference on CPU", f"{name}: {why}"
    known = set(build.cpu_features())
    yield "CPU features", " ".join(feature for feature in FEATURES if feature in known) or "unknown"
    limits = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    yield "threads", ", ".join([f"{torch.get_num_threads()} of {os.cpu_count()} CPUs", *limits])
    yield "C++ compiler", _compiler("cpu")
    yield from _cuda()
    yield "cache folder", _cache()
    yield from ((package, _version(package)) for package in PACKAGES)


@click.command(cls=OneLine, epilog="\b\nExample:\n  sis doctor")
def doctor() -> None:
    """Say what runs on this machine and why: native ops, inference engine, CPU, GPU, versions, cache folder.

    Builds the native ops if that was not tried before: seconds. SIS_NATIVE=0 in the environment switches them off.
    """
    for what, how in findings():
        click.echo(f"{what + ':':18} {how}")
