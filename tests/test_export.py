"""ONNX files: the same pictures in another runtime, at any batch size, with their licences; and clean refusals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import SIDE, TAP, K

from sis_rearrange.cli import main
from sis_rearrange.errors import InputError
from sis_rearrange.export import TOLERANCE, Exported, compare, export_onnx
from sis_rearrange.features import sample_ws
from sis_rearrange.pack import Pack
from sis_rearrange.synthesis import Synthesizer

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs sis_rearrange[onnx]",
)


@pytest.fixture(scope="module")
def made(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Exported]]:
    folder = tmp_path_factory.mktemp("onnx")
    done = {}
    for what, condition in (("synthesis", None), ("rearrange", None), ("mapper", "sketch")):
        path = folder / f"{what}.onnx"
        done[what] = path, export_onnx(tiny_pack, path, what, condition)
    return done


def run(path: Path, **inputs: torch.Tensor) -> list[torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in inputs.items()})]


def off_by(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / (wanted.max() - wanted.min()))


@needs_onnx
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_synthesis_is_the_generators(made, tiny_pack, batch):
    generator = tiny_pack.generator()
    with torch.no_grad():
        ws = sample_ws(generator, range(batch))
        wanted = generator.synthesis(ws)
    (image,) = run(made["synthesis"][0], ws=ws)
    assert off_by(image, wanted) < TOLERANCE


@needs_onnx
def test_rearranging_is_the_facades(made, tiny_pack):
    synth = Synthesizer(tiny_pack, device="cpu", backend="torch")
    labels = torch.cat([synth.read(seed, "exemplar").labels for seed in (4, 5, 6)])
    sources = [synth.set_source(seed=seed) for seed in (1, 2, 3)]
    ws = torch.cat([source.ws for source in sources]).clone()
    image, correspondence = run(made["rearrange"][0], ws=ws, labels=labels.clone())
    for n, source in enumerate(sources):
        wanted = synth.rearrange(labels[n : n + 1], source)
        assert off_by(image[n : n + 1], wanted.images) < TOLERANCE
        assert off_by(correspondence[n : n + 1], wanted.correspondence) < TOLERANCE


@needs_onnx
def test_a_mapper_is_the_packs(made, tiny_pack):
    x = torch.rand(3, 2, SIDE, SIDE)
    with torch.no_grad():
        wanted = tiny_pack.mapper("sketch")(x)
    (logits,) = run(made["mapper"][0], condition=x)
    assert off_by(logits, wanted) < TOLERANCE


@needs_onnx
def test_the_file_says_what_it_is(made, tiny_pack):
    import onnx

    for what, (path, done) in made.items():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        assert (notes["what"], notes["pack"], notes["pack_hash"]) == (what, "tiny", tiny_pack.short_hash)
        assert json.loads(notes["licences"]) == tiny_pack.info["licences"] and notes["Credit"] == "drawn by the tests"
        assert done.bytes == path.stat().st_size and done.opset == model.opset_import[0].version
        assert done.difference is not None and done.difference < TOLERANCE
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}  # plain operations alone
    assert made["synthesis"][1].outputs == {"image": ["N", 3, SIDE, SIDE]}
    assert made["rearrange"][1].inputs["labels"] == ["N", TAP, TAP]
    assert made["mapper"][1].outputs == {"logits": ["N", K, TAP, TAP]}


@needs_onnx
def test_a_file_that_differs_is_noticed(made, tiny_pack):
    generator = tiny_pack.generator()

    class Darker(torch.nn.Module):
        def forward(self, ws: torch.Tensor) -> torch.Tensor:
            return generator.synthesis(ws) - 0.1

    data = made["synthesis"][0].read_bytes()
    found = compare(data, Darker(), lambda n: {"ws": sample_ws(generator, range(n))})
    assert found is not None and found > TOLERANCE


@needs_onnx
def test_the_command(tiny_pack_path, tmp_path):
    out = tmp_path / "new" / "sketch.onnx"
    args = ["export", str(tiny_pack_path), "--what", "mapper", "--condition", "sketch", "--onnx", str(out)]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0 and result.stderr == "", result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == [f"input condition: N x 2 x {SIDE} x {SIDE}", f"output logits: N x {K} x {TAP} x {TAP}"]
    assert "onnxruntime differs from torch by at most" in lines[2] and len(lines) == 3
    assert [path.name for path in out.parent.iterdir()] == ["sketch.onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.onnx", "synthesys"), "did you mean 'synthesis'"),
        (("a.pt", "synthesis"), "a.pt: let the name end in .onnx"),
        (("a.onnx", "mapper"), "a mapper needs one"),
        (("a.onnx", "synthesis", "sketch"), "belongs to 'mapper'"),
        (("a.onnx", "mapper", "skech"), "sketch"),
    ],
)
def test_requests_that_make_no_sense(tiny_pack, tmp_path, arguments, words):
    name, *rest = arguments
    with pytest.raises(InputError, match=words):
        export_onnx(tiny_pack, tmp_path / name, *rest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_exporters_packages(tiny_pack_path, tmp_path, missing):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {missing!r} else find(name, *rest)\n"
        "from sis_rearrange.cli import main\n"
        f"main(['export', {str(tiny_pack_path)!r}, '--onnx', {str(tmp_path / 'a.onnx')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("pip install 'sis_rearrange[onnx]'") and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
