"""OpenVINO as the engine behind inference on a CPU: trace a module, convert it, keep it on disk, run it.

Knows torch and OpenVINO and no network of ours. Nothing phones home: importing OpenVINO, and converting with its own
tools, reports to its makers and leaves an id in the home folder; here the import finds no reporting package and
conversion goes through the frontend that lies beneath those tools. Graphs wait in a cache folder, `cache_folder`, one
folder per graph, weights included; delete what you like of it, at any time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.ops import build

BACKENDS = ("auto", "torch", "openvino")
CACHE_BYTES = 4 << 30  # of graphs on disk; beyond it those that were used longest ago are deleted
FORMAT = 1  # of the entries on disk: a change makes them all anew
REPORTER = "openvino_telemetry"  # the package that OpenVINO's tools report through where they find it

Tensors = tuple[torch.Tensor, ...]


def resolve(backend: str = "auto", device: str | torch.device = "cpu") -> tuple[str, str]:
    """What runs where ``backend`` ("auto", "torch" or "openvino") is asked for: ("torch" or "openvino", why).

    Raises InputError for another name, and for "openvino" where it is not installed or ``device`` is not the CPU.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}{nearest(backend, BACKENDS)} (there are {', '.join(BACKENDS)})")
    if backend == "torch":
        return "torch", "asked for"
    kind = torch.device(device).type
    lacking = f"OpenVINO runs on the CPU only, the device is {kind}" if kind != "cpu" else ""
    if not lacking and not _installed():
        lacking = "OpenVINO is not installed"
    if not lacking:
        return "openvino", "asked for" if backend == "openvino" else "inference on a CPU"
    if backend == "auto":
        return "torch", lacking
    advice = "use backend 'auto' or 'torch'" if kind != "cpu" else "pip install openvino, or use backend 'torch'"
    raise InputError(f"backend 'openvino': {lacking}; {advice}")


def cache_folder() -> Path | None:
    """Where graphs are kept: beside the native ops, see `build.cache_folder`; None where the user has no home."""
    try:
        return build.cache_folder()
    except RuntimeError:
        return None


def compile_graph(module: nn.Module, inputs: Tensors, key: str, name: str) -> Callable[..., Tensors]:
    """``module`` compiled for inputs of the given shapes.

    Args:
        module: takes and returns tensors (one or a tuple); what it does must not depend on their values.
        inputs: float32 or int64 example tensors on the CPU, in the order of ``forward``.
        key: names the weights and the code of the module; another key, another graph.
        name: what messages and file names call it.

    Returns a callable from tensors of these shapes and types to a tuple of new float32 (or int64) tensors. Threads may
    share it; they take turns. It uses as many threads as torch did when it was compiled, and does not follow later
    changes of the module's weights.

    Raises InputError where OpenVINO is not installed and RuntimeError for a module that it cannot run.
    """
    resolve("openvino")
    entry = _Entry(name, _digest(key, name, inputs))
    model = entry.read()
    if model is None:
        try:
            model = _convert(module, inputs)
        except Exception as error:  # whatever tracer and frontend raise
            reason = " ".join(str(error).split())[:300]
            raise RuntimeError(f"{name}: OpenVINO cannot run this graph ({reason})") from error
        model = entry.write(model) or model
    return _Graph(name, _compile(model), inputs)


class _Graph:
    """A compiled graph with its fixed shapes."""

    def __init__(self, name: str, compiled: Any, examples: Tensors) -> None:
        self._name, self._outputs = name, len(compiled.outputs)
        self._wanted = [(x.shape, x.dtype) for x in examples]
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        found = [(x.shape, x.dtype) for x in inputs]
        if found != self._wanted:
            raise ValueError(f"{self._name}: compiled for {_show(self._wanted)}, called with {_show(found)}")
        arrays = [x.detach().contiguous().numpy() for x in inputs]
        with self._turn:
            results = self._request.infer(arrays, share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(results[i]) for i in range(self._outputs))


def _show(signature: list[tuple[torch.Size, torch.dtype]]) -> str:
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {list(shape)}" for shape, dtype in signature)


def _digest(key: str, name: str, inputs: Tensors) -> str:
    signature = _show([(x.shape, x.dtype) for x in inputs])
    versions = f"{FORMAT} {torch.__version__} {_openvino().get_version()}"
    return hashlib.sha256("\0".join([key, name, signature, versions]).encode()).hexdigest()[:32]


# ---------------------------------------------------------------- OpenVINO


def _installed() -> bool:
    if "openvino" in sys.modules:
        return sys.modules["openvino"] is not None
    return importlib.util.find_spec("openvino") is not None


@cache
def _openvino() -> Any:
    """The package, imported where its tools cannot find the package that they report through."""
    hidden = REPORTER not in sys.modules and "openvino" not in sys.modules
    if hidden:
        sys.modules[REPORTER] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[REPORTER]
    return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


def _convert(module: nn.Module, inputs: Tensors) -> Any:
    """An OpenVINO model of ``module`` with the inputs' shapes, its weights copied."""
    ov = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # tensors made in inference mode cannot be traced, so examples are copied outside of it
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of itself, and of checks on shapes, which are fixed here
        examples = tuple(x.detach().clone() for x in inputs)
        traced = torch.jit.trace(module, examples, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=examples, shared_memory=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    types = {torch.float32: ov.Type.f32, torch.int64: ov.Type.i64}
    for parameter, example in zip(model.get_parameters(), examples, strict=True):
        parameter.set_partial_shape(ov.PartialShape(list(example.shape)))
        parameter.set_element_type(types[example.dtype])
    model.validate_nodes_and_infer_types()
    return model


def _compile(model: Any) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # pinned threads of two processes would share one core and leave another idle
    }
    return _core().compile_model(model, "CPU", options)


# ---------------------------------------------------------------- on disk


class _Entry:
    """One graph in the cache folder: a folder with the model, its weights and a checksum of both."""

    def __init__(self, name: str, digest: str) -> None:
        root = cache_folder()
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]
        self.folder = None if root is None else root / "graphs" / f"{safe}-{digest}"

    def read(self) -> Any | None:
        """The model, or None: not there, or damaged (then it is deleted, to be made anew)."""
        if self.folder is None or not self.folder.is_dir():
            return None
        try:
            if (self.folder / "sha256").read_text() == _checksum(self.folder):
                model = _core().read_model(self.folder / "graph.xml", self.folder / "graph.bin")
                os.utime(self.folder)  # for the order of deletion
                return model
        except (OSError, UnicodeError, RuntimeError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        return None

    def write(self, model: Any) -> Any | None:
        """Store a model whole or not at all, and read it back; None where the folder cannot be written."""
        if self.folder is None:
            return None
        temporary = self.folder.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.mkdir(parents=True)
            _openvino().serialize(model, temporary / "graph.xml", temporary / "graph.bin")
            (temporary / "sha256").write_text(_checksum(temporary))
            if not self.folder.is_dir():  # another process may have been faster
                os.replace(temporary, self.folder)
        except (OSError, RuntimeError):  # a full disk, no permission: the engine runs without a cache
            if not self.folder.is_dir():
                return None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _make_room(self.folder)
        return self.read()


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in ("graph.xml", "graph.bin"):
        with (folder / file).open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def _make_room(newest: Path) -> None:
    """Delete entries, those used longest ago first, until the cache is within its bounds."""
    try:
        entries = sorted(newest.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        total = 0
        for entry in entries:
            total += sum(file.stat().st_size for file in entry.iterdir())
            if total > CACHE_BYTES and entry != newest:
                shutil.rmtree(entry, ignore_errors=True)
    except OSError:
        return  # another process is tidying up
