"""Build the native libraries: sources, compiler, cache, lock. Standard library only: the installer runs this too.

A library is a file ``<device>-<key>.so`` in the cache folder; the key is the hash of everything that decides its
bytes: sources, compiler, command and CPU. It is written beside its place and renamed into it, so that no process ever
loads half a library, and a lock keeps two processes from building the same one twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HEADERS = ("arguments.h", "pixel.h")
SOURCES = {  # of a library: what is compiled, all at once, and what that includes beside the headers above
    "cpu": ("cpu_epilogue.cpp", "cpu_filter.cpp", "cpu.h", "code_paths.h", "epilogue_kernels.h", "filter_kernels.h"),
    "winograd": ("winograd.cpp", "winograd.h", "code_paths.h", "winograd_kernels.h"),
    "gpu": ("cuda.cu",),
}
# All that `make test` compiles for; a toolkit that no longer (or not yet) knows one leaves it out.
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
CPU_FLAGS = ("-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-fPIC")
TIMEOUT = 600  # seconds for one compiler call


class BuildError(RuntimeError):
    """No library, and why: one line."""


def source_folder() -> Path:
    """The folder of the native sources: beside this file in an installed package, ``ops/`` in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "src", here.parent.parent / "ops"):
        if all((folder / name).is_file() for name in (*HEADERS, *SOURCES["cpu"])):
            return folder
    raise BuildError("the native sources are missing from this installation")


def cache_folder() -> Path:
    """Where everything built or compiled at run time lies: ``SIS_CACHE``, or ``sis_rearrange`` in the user's cache.

    BuildError where there is no home folder either.
    """
    if own := os.environ.get("SIS_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "sis_rearrange"
    try:
        return Path.home() / ".cache" / "sis_rearrange"
    except RuntimeError as error:
        raise BuildError("there is no home folder to build in; set SIS_CACHE to a folder") from error


def find_compiler(device: str) -> str:
    """Path of the C++ compiler (``CXX``, then c++, g++, clang++) or of nvcc (``CUDA_HOME``, then the search path)."""
    if device == "gpu":
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        names = [str(Path(home) / "bin" / "nvcc")] if home else []
        names += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    else:
        names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    kind = "nvcc" if device == "gpu" else "C++ compiler"
    raise BuildError(f"no {kind} found (looked for {', '.join(names)})")


def _run(command: Sequence[str]) -> str:
    """Output of a compiler call; BuildError with the first telling line where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    output = done.stdout + done.stderr
    if done.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        telling = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")
        raise BuildError(f"{Path(command[0]).name} failed: {telling[:300]}")
    return output


def cpu_features() -> list[str]:
    """What the kernel says this CPU can do, sorted; empty where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return sorted(value.split())
    return []


def nvcc_architectures(nvcc: str) -> list[str]:
    """Those of ARCHITECTURES that this toolkit compiles for."""
    known = _run([nvcc, "--list-gpu-code"]).split()
    return [number for number in ARCHITECTURES if f"sm_{number}" in known]


def _compile_command(device: str, compiler: str, openmp: bool, architectures: Sequence[str]) -> list[str]:
    """The call that makes an object file of the device's source; paths are added by `_compile`."""
    if device != "gpu":
        return [compiler, *CPU_FLAGS, "-fvisibility=hidden", *(["-fopenmp"] if openmp else [])]
    code = [f"--generate-code=arch=compute_{number},code=sm_{number}" for number in architectures]
    return [compiler, "-O3", "-std=c++17", "--threads", "0", "-Xcompiler", "-fPIC,-fvisibility=hidden", *code]


def _compile(device: str, command: Sequence[str], folder: Path, out: Path) -> None:
    """Sources to shared library. The linker gets no OpenMP library: torch has loaded one already (see code_paths.h)."""
    sources = [folder / name for name in SOURCES[device] if not name.endswith(".h")]
    if device == "gpu":
        _run([*command, "--shared", "--cudart", "shared", *map(str, sources), "-o", str(out)])
        return
    objects = [str(out.with_name(f"{source.stem}.o")) for source in sources]
    with ThreadPoolExecutor(len(sources)) as pool:  # a compiler each
        calls = [pool.submit(_run, [*command, "-c", str(s), "-o", o]) for s, o in zip(sources, objects, strict=True)]
        for call in calls:
            call.result()
    _run([command[0], "-shared", *objects, "-o", str(out)])


def library_key(device: str, compiler: str, command: Sequence[str], folder: Path) -> str:
    """Hash of what decides the library: sources, compiler and its version, command, machine and CPU features."""
    digest = hashlib.sha256()
    for name in (*HEADERS, *SOURCES[device]):
        digest.update((folder / name).read_bytes())
    about = [_run([compiler, "--version"]), *command, platform.machine(), *cpu_features()]
    digest.update("\0".join(about).encode())
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; the operating system frees it if the process dies."""
    import fcntl

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def library_path(
    device: str,  # "cpu", "winograd" or "gpu": the key in SOURCES
    folder: Path,  # where the library goes
    openmp: bool = True,
    architectures: Sequence[str] = (),  # of the GPU, as in ARCHITECTURES
) -> Path:
    """Where `build` puts the library, or finds it."""
    compiler = find_compiler(device)
    command = _compile_command(device, compiler, openmp, architectures)
    return folder / f"{device}-{library_key(device, compiler, command, source_folder())}.so"


def build(device: str, folder: Path, openmp: bool = True, architectures: Sequence[str] = ()) -> Path:
    """The library's path, built now unless it lies there already; arguments as in `library_path`.

    BuildError, one line, where that cannot be.
    """
    try:
        path = library_path(device, folder, openmp, architectures)
        if path.is_file():
            return path
        command = _compile_command(device, find_compiler(device), openmp, architectures)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{device}.lock"):
            if not path.is_file():  # else the process that held the lock has built it
                with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
                    made = Path(scratch) / "library.so"
                    _compile(device, command, source_folder(), made)
                    os.replace(made, path)
    except OSError as error:
        raise BuildError(f"cannot write to the cache folder {folder}: {error.strerror or error}") from error
    return path
