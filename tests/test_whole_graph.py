"""Whole graphs: the engine paints what torch paints, in one call, and a new drawing runs nothing of the look again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import SIDE, TAP, K

from sis_rearrange.errors import InputError
from sis_rearrange.images import read_image
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.pack import Pack
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.whole_graph import EARNS, Paths, for_run

ROOT = Path(__file__).resolve().parent.parent
CONDITIONS = ["scribble", "segmentation", "sketch"]


def ready(pack: Pack, backend: str) -> Synthesizer:
    synth = Synthesizer(pack, device="cpu", backend=backend)
    synth.set_source(seed=7)
    return synth


@pytest.fixture(scope="module")
def plain(tiny_pack: Pack) -> Synthesizer:
    return ready(tiny_pack, "torch")


@pytest.fixture(scope="module")
def engine(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synthesizer]:
    """With a cache of its own, `cached` lists it."""
    pytest.importorskip("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIS_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield ready(tiny_pack, "openvino")


def cached() -> list[str]:
    """Names of the graphs in the cache, without their hashes."""
    return sorted(p.name.rpartition("-")[0] for p in (Path(os.environ["SIS_CACHE"]) / "graphs").iterdir())


@contextmanager
def counted(**modules: nn.Module) -> Iterator[Counter[str]]:
    """How often each module runs inside the block."""
    count: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: count.update([name])) for name, module in modules.items()
    ]
    yield count
    for hook in hooks:
        hook.remove()


def parts(synth: Synthesizer, condition: str) -> dict[str, nn.Module]:
    generator = synth.split.generator
    return {
        "g1": generator.synthesis.b4,
        "encoder": synth.sources.rearranger.encoder,
        "mapper": synth.pack.mapper(condition).unet.head,
        "g2": getattr(generator.synthesis, f"b{SIDE}").torgb,
    }


# ---------------------------------------------------------------- what runs


def test_a_new_drawing_runs_mapper_rearranger_and_g2_once(plain, tiny_pack):
    with counted(**parts(plain, "sketch")) as count:
        plain.set_source(seed=3)
        assert count == {"g1": 1, "encoder": 1}
        for number in (1, 2, 3):
            plain.synthesize(tiny_pack.file(f"drawings/sketch-{number}.png"), "sketch")
        assert count == {"g1": 1, "encoder": 1 + 3, "mapper": 3, "g2": 3}


def test_a_drawing_is_read_once_for_all_looks(plain, tiny_pack):
    sources = [plain.set_source(seed=seed) for seed in (1, 2, 3)]
    with counted(**parts(plain, "sketch")) as count:
        target = plain.read(tiny_pack.file("drawings/sketch-1.png"), "sketch")
        for source in sources:
            plain.paint(target, source)
    assert count == {"mapper": 1, "encoder": 3, "g2": 3}


def test_the_engine_compiles_what_is_used_and_then_runs_alone(engine, tiny_pack):
    drawing = tiny_pack.file("drawings/sketch-1.png")
    engine.synthesize(drawing, "sketch")
    assert cached() == ["draw-sketch"]
    with counted(**parts(engine, "sketch")) as count:
        engine.synthesize(tiny_pack.file("drawings/sketch-2.png"), "sketch")
        engine.set_source(seed=7)
        engine.synthesize(drawing, "sketch")
        assert count == {"g1": 1, "encoder": 1}  # of the new look; the drawings ran in the engine
    assert cached() == ["draw-sketch"]
    target = engine.read(drawing, "sketch")
    for seed in (7, 8):
        engine.paint(target, engine.set_source(seed=seed))
    engine.synthesize(5, "exemplar")
    engine.set_source(seed=7)
    assert cached() == ["draw-sketch", "map-sketch", "paint"]


def test_another_process_finds_the_graphs(engine, tiny_pack):
    drawing = tiny_pack.file("drawings/sketch-3.png")
    first = engine.synthesize(drawing, "sketch")
    before = cached()
    again = ready(tiny_pack, "openvino").synthesize(drawing, "sketch")
    assert cached() == before
    assert np.array_equal(np.asarray(again.image), np.asarray(first.image))


# ---------------------------------------------------------------- the same results


def close_labels(labels: torch.Tensor, other: torch.Tensor, logits: torch.Tensor) -> bool:
    """Equal, but for ties of the logits."""
    best = logits.gather(1, labels[:, None]) - logits.gather(1, other[:, None])
    return bool((best.abs() < 1e-4).all())


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_engine_paints_what_torch_paints(plain, engine, tiny_pack, condition):
    for number in (1, 4):
        drawing = tiny_pack.file(f"drawings/{condition}-{number}.png")
        source = plain.set_source(seed=number)
        target = plain.read(drawing, condition)
        x = plain.readers.halves(condition)[0].read(read_image(drawing), SIDE)[0]
        mapper = plain.readers.halves(condition)[1]
        wanted, found = (each.paths.draw(mapper, x, source) for each in (plain, engine))
        spread = float(wanted[0].max() - wanted[0].min())
        assert float((found[0] - wanted[0]).abs().max()) < 1e-3 * spread
        assert close_labels(found[1], wanted[1], target.logits)
        for a, b in zip(found[2:], wanted[2:], strict=True):
            assert torch.allclose(a, b, atol=1e-3)
        assert found[1].dtype == torch.int64


@pytest.mark.parametrize(("drawing", "condition"), [(9, "exemplar"), (np.eye(TAP, dtype=np.int64), "proxy")])
def test_given_masks_too(plain, engine, drawing, condition):
    a, b = (each.synthesize(drawing, condition, source=plain.set_source(seed=2)) for each in (plain, engine))
    assert np.array_equal(a.proxy_mask, b.proxy_mask)
    assert np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image)).max() <= 1
    assert np.allclose(a.correspondence, b.correspondence, atol=1e-3)
    assert (a.metadata["backend"], b.metadata["backend"]) == ("torch", "openvino")


def test_reading_and_painting_is_synthesizing(engine, tiny_pack):
    drawing = tiny_pack.file("drawings/scribble-2.png")
    whole, steps = engine.synthesize(drawing, "scribble"), engine.paint(engine.read(drawing, "scribble"))
    assert np.mean(whole.proxy_mask != steps.proxy_mask) < 0.01
    assert np.allclose(whole.confidence, steps.confidence, atol=1e-3)
    assert np.array_equal(np.asarray(whole.drawing), np.asarray(steps.drawing))


def test_a_picture_does_not_depend_on_its_batch(engine):
    labels = torch.randint(K, (3, TAP, TAP), generator=torch.Generator().manual_seed(0))
    batch = engine.rearrange(labels)
    assert batch.images.shape == (3, 3, SIDE, SIDE) and torch.equal(batch.labels, labels)
    for n in range(3):
        single = engine.rearrange(labels[n : n + 1])
        assert torch.equal(single.images[0], batch.images[n]) and torch.equal(single.class_mass[0], batch.class_mass[n])
    assert engine.rearrange(labels[:0]).images.shape == (0, 3, SIDE, SIDE)


def test_results_are_new_tensors(engine):
    labels = torch.zeros(1, TAP, TAP, dtype=torch.int64)
    first = engine.rearrange(labels).images
    kept = first.clone()
    engine.rearrange(labels + 1)
    assert torch.equal(first, kept)


# ---------------------------------------------------------------- which backend


def test_backends(tiny_pack):
    assert Synthesizer(tiny_pack, device="cpu", backend="torch").backend == "torch"
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        Synthesizer(tiny_pack, device="cpu", backend="openvine")
    pytest.importorskip("openvino")
    assert Synthesizer(tiny_pack, device="cpu").backend == "openvino"


def test_short_runs_do_not_wait_for_the_engine():
    assert for_run("auto", EARNS - 1) == "torch" and for_run("auto", EARNS) == "auto"
    assert for_run("openvino", 1) == "openvino" and for_run("torch", 10**6) == "torch"


class Bessel(SemanticMapper):
    """A mapper with an operation that the engine lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.special.bessel_j0(x.mean())


def test_auto_goes_on_with_torch_where_the_engine_cannot(engine, tiny_pack):
    odd = Bessel(**tiny_pack.mapper("sketch").config).eval()
    odd.load_state_dict(tiny_pack.mapper("sketch").state_dict())
    x = torch.rand(2, 2, SIDE, SIDE)
    paths = {name: Paths("bessel", engine.split, engine.sources.rearranger, name) for name in ("auto", "openvino")}
    assert paths["auto"].backend == "openvino"
    with torch.inference_mode():
        assert torch.allclose(paths["auto"].map(odd, x), odd(x))
    assert paths["auto"].backend == "torch" and "map-sketch" in paths["auto"].why
    with pytest.raises(RuntimeError, match="map-sketch"):
        paths["openvino"].map(odd, x)


def test_torch_alone_starts_quickly(tiny_pack_path):
    """Building networks and painting does not import torch's compiler, which takes longer than either."""
    code = (
        "import sys; from sis_rearrange import load_pack, Synthesizer\n"
        f"synth = Synthesizer(load_pack({str(tiny_pack_path)!r}), 'cpu', 'torch')\n"
        f"synth.set_source(seed=1); synth.synthesize(synth.pack.file('drawings/sketch-1.png'), 'sketch')\n"
        "print([name for name in ('torch._dynamo', 'sympy', 'openvino') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
