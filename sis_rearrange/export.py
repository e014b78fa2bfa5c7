"""ONNX files of a pack: synthesis, rearrangement after a proxy mask, or a mapper, for any runtime that reads ONNX.

What is exported is plain torch operations with the weights inside and a free batch dimension. A file is compared with
torch before it is written, where onnxruntime is installed, and says in its metadata what it is and whom to credit.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.features import sample_ws
from sis_rearrange.images import write_bytes
from sis_rearrange.inference import SynthesisGraph
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.sampling import metadata
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import one_hot
from sis_rearrange.whole_graph import MaskToPicture

WHAT = ("synthesis", "rearrange", "mapper")
TOLERANCE = 1e-3  # of the range of an output: how far onnxruntime may be from torch
MAX_BYTES = 2**31 - 1  # of one ONNX file
BATCHES = (1, 3)  # sizes that a file is tried at


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` wrote."""

    inputs: dict[str, list[int | str]]  # shapes; "N" is the batch
    outputs: dict[str, list[int | str]]
    opset: int
    bytes: int
    difference: float | None  # largest one to torch, as a share of an output's range; None: onnxruntime is missing


@dataclass(frozen=True)
class _Job:
    """One thing to export: a module, examples of its inputs for a batch size, and the names of both ends."""

    module: nn.Module
    example: Callable[[int], dict[str, torch.Tensor]]
    outputs: tuple[str, ...]
    notes: dict[str, str]


class Synthesis(nn.Module):
    """ws to images."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.synthesis = SynthesisGraph(generator)

    def forward(self, ws: torch.Tensor) -> torch.Tensor:
        """``ws [N, num_ws, w_dim]`` to images ``[N, 3, H, W]``."""
        return self.synthesis(ws)


class RearrangeAll(nn.Module):
    """ws of a look and the labels of a layout to a picture: G1, proxy mask, rearranger and G2."""

    def __init__(self, generator: Generator, proxy: ProxyClusters, rearranger: Rearranger) -> None:
        super().__init__()
        self.proxy, self.rearranger = proxy, rearranger
        blocks = SynthesisGraph(generator).blocks
        tapped = sum(r <= proxy.resolution for r in generator.synthesis.block_resolutions)
        self.g1 = blocks[:tapped]
        self.paint = MaskToPicture(rearranger, SynthesisGraph(generator, 2 * proxy.resolution))

    def forward(self, ws: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``ws [N, num_ws, w_dim]`` and labels ``[N, r, r]`` int64 to images and correspondence ``[N, 2, r, r]``."""
        x = img = None
        for block in self.g1:
            x, img = block(x, img, ws)
        assert x is not None and img is not None
        source = one_hot(self.proxy.labels(x), self.proxy.K)
        code = self.rearranger.encode(source)
        image, correspondence, _ = self.paint(one_hot(labels, self.proxy.K), ws, x, img, source, code)
        return image, correspondence


def export_onnx(pack: Pack, path: str | Path, what: str = "synthesis", condition: str | None = None) -> Exported:
    """Write a part of a pack as one ONNX file, whole or not at all.

    Args:
        what: "synthesis": ws to image. "rearrange": ws of the look and labels of the layout to image and
            correspondence. "mapper": a condition's tensor to logits of proxy masks.
        condition: of the mapper.

    Raises InputError for an unknown ``what`` or ``condition``, where onnx and onnxscript are not installed, where the
    file cannot be written or would be over 2 GB, and where its pictures are off by more than ``TOLERANCE``.
    """
    path = Path(path)
    if what not in WHAT:
        raise InputError(f"cannot export {what!r}{nearest(what, WHAT)} (there are {', '.join(WHAT)})")
    if path.suffix.lower() != ".onnx":
        raise InputError(f"{path}: let the name end in .onnx")
    if (what == "mapper") != (condition is not None):
        raise InputError("a condition belongs to 'mapper', and a mapper needs one")
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"exporting needs the package {package}; pip install 'sis_rearrange[onnx]'")
    job = _mapper_job(pack, condition) if condition is not None else _JOBS[what](pack)
    model = _export(job)
    notes = {**metadata(pack, condition=condition), "what": what, **job.notes}
    notes["licences"] = json.dumps(pack.info["licences"], ensure_ascii=False)
    model.producer_name, model.doc_string = notes["Software"], f"{what} of the pack {pack.name}"
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    if model.ByteSize() > MAX_BYTES:
        raise InputError(f"{path}: {model.ByteSize():,} bytes are too many for one ONNX file (limit {MAX_BYTES:,})")
    data = model.SerializeToString()
    difference = compare(data, job.module, job.example)
    if difference is not None and not difference <= TOLERANCE:
        raise InputError(f"{path}: not written: onnxruntime's results are off by {difference:.1e} of the range")
    write_bytes(path, data)
    ends = [{end.name: _shape(end) for end in side} for side in (model.graph.input, model.graph.output)]
    return Exported(ends[0], ends[1], model.opset_import[0].version, len(data), difference)


def compare(
    data: bytes,
    module: nn.Module,
    example: Callable[[int], dict[str, torch.Tensor]],
    batches: tuple[int, ...] = BATCHES,
) -> float | None:
    """Largest difference of an ONNX file's results in onnxruntime to the module's, as a share of an output's range.

    None where onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in batches:
        inputs = example(batch)
        with torch.inference_mode():
            wanted = module(*inputs.values())
        found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        for ours, theirs in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            spread = float(theirs.max() - theirs.min()) or 1.0
            worst = max(worst, float((torch.from_numpy(ours) - theirs).abs().max()) / spread)
    return worst


# ---------------------------------------------------------------- what there is to export


def _synthesis_job(pack: Pack) -> _Job:
    generator = pack.generator()
    notes = {"image_range": "-1 to 1"}
    return _Job(Synthesis(generator), lambda n: {"ws": sample_ws(generator, range(n))}, ("image",), notes)


def _rearrange_job(pack: Pack) -> _Job:
    generator, proxy = pack.generator(), pack.proxy()

    def example(n: int) -> dict[str, torch.Tensor]:
        rows = torch.arange(proxy.resolution) * proxy.K // proxy.resolution  # clusters are ordered from top to bottom
        labels = rows[:, None].expand(n, -1, proxy.resolution).contiguous()
        return {"ws": sample_ws(generator, range(n)), "labels": labels}

    notes = {"image_range": "-1 to 1", "clusters": str(proxy.K), "correspondence": "(y, x) of the source, -1 to 1"}
    return _Job(RearrangeAll(generator, proxy, pack.rearranger()), example, ("image", "correspondence"), notes)


def _mapper_job(pack: Pack, condition: str) -> _Job:
    mapper = pack.mapper(condition)
    shape = mapper.in_channels, mapper.image_resolution, mapper.image_resolution

    def example(n: int) -> dict[str, torch.Tensor]:
        return {"condition": torch.linspace(0, 1, n * shape[0] * shape[1] * shape[2]).reshape(n, *shape)}

    return _Job(mapper, example, ("logits",), {"clusters": str(mapper.K)})


_JOBS: dict[str, Callable[[Pack], _Job]] = {"synthesis": _synthesis_job, "rearrange": _rearrange_job}


# ---------------------------------------------------------------- the exporter


def _export(job: _Job) -> Any:
    """The ONNX model."""
    with torch.inference_mode():
        made = job.example(2)  # a batch of one would be taken for a constant
    inputs = {name: torch.from_numpy(x.numpy().copy()) for name, x in made.items()}
    batch = torch.export.Dim("N")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            job.module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(job.outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own parts and on packages that it could use."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _shape(end: Any) -> list[int | str]:
    return [axis.dim_param or int(axis.dim_value) for axis in end.type.tensor_type.shape.dim]
