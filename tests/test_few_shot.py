"""Learning parts from a few annotated samples: extractor, distilled U-Net, mapper."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.conditions import get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, all_features, sample_ws
from sis_rearrange.pack import SEGMENTER, load_pack, mapper_file
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.distil import DistilConfig, weighted_loss
from sis_rearrange.training.few_shot import (
    Shot,
    distil_training,
    learn_from_shots,
    shots_hash,
    train_extractor,
    train_mapper_from_shots,
)
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.run import resume, save
from sis_rearrange.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
P = 10
DISTIL = DistilConfig(extractor_steps=20, steps=6, batch=4, widths=(8, 16), save_every=3)
MAPPER = MapperConfig("segmentation", kimg=0.016, batch=4, widths=(8, 16), save_every=4, cycle_batch=1)


def regions(pack, ws: torch.Tensor) -> torch.Tensor:
    """Labels ``[N, 32, 32]`` that feature maps decide: the proxy masks, enlarged."""
    proxy = pack.proxy()
    labels = proxy.labels(SplitGenerator(pack.generator(), proxy.resolution).g1(ws)[0])
    return labels.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.fixture(scope="module")
def shots(tiny_pack):
    with torch.no_grad():
        ws = sample_ws(tiny_pack.generator(), [1, 2])
        labels = regions(tiny_pack, ws)
    return [Shot(w.clone(), mask) for w, mask in zip(ws, labels, strict=True)]


@torch.no_grad()
def accuracy(extractor, pack, seeds=range(50, 58)):
    ws = sample_ws(pack.generator(), seeds)
    return (extractor(all_features(pack.generator(), ws)[0]).argmax(1) == regions(pack, ws)).float().mean().item()


@pytest.mark.parametrize(("kind", "steps"), [("linear", 800), ("nonlinear", 60)])
def test_what_one_sample_teaches_holds_for_others(tiny_pack, shots, kind, steps):
    extractor = train_extractor(tiny_pack.generator(), shots[:1], P, kind, steps, seed=3, progress=False)
    assert not extractor.training and not any(p.requires_grad for p in extractor.parameters())
    with torch.no_grad():
        labels = regions(tiny_pack, sample_ws(tiny_pack.generator(), range(50, 58)))
    commonest = torch.bincount(labels.flatten()).max().item() / labels.numel()
    assert accuracy(extractor, tiny_pack) > commonest + 0.05


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_same_arguments_same_extractor(tiny_pack, shots, kind):
    state = torch.random.get_rng_state()
    one, two, other = (
        train_extractor(tiny_pack.generator(), shots, P, kind, 5, seed, False).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    if kind == "nonlinear":  # the linear one starts at zero and two shots make one batch
        assert not all(torch.equal(one[name], other[name]) for name in one)


def test_unpainted_pixels_teach_nothing(tiny_pack, shots):
    generator, shot = tiny_pack.generator(), shots[0]
    half = shot.labels.clone()
    half[:, 16:] = -1
    wrong = torch.where(half < 0, 9, half)
    painted = train_extractor(generator, [Shot(shot.ws, half)], P, steps=40, progress=False)
    misled = train_extractor(generator, [Shot(shot.ws, wrong)], P, steps=40, progress=False)
    with torch.no_grad():
        maps = all_features(generator, shot.ws[None])[0]
        seen = [e(maps).argmax(1) for e in (painted, misled)]
    assert (seen[0] == 9).sum() == 0 and (seen[1] == 9).sum() > 100


def test_bad_shots(tiny_pack, shots):
    generator, (ws, labels) = tiny_pack.generator(), (shots[0].ws, shots[0].labels)
    with pytest.raises(InputError, match="no annotated picture"):
        train_extractor(generator, [], P)
    with pytest.raises(InputError, match="fewer than two parts"):
        train_extractor(generator, [Shot(ws, torch.where(labels == 1, 1, -1))], P)
    with pytest.raises(ValueError, match="labels must lie"):
        train_extractor(generator, [Shot(ws, labels + 8)], P)
    with pytest.raises(ValueError, match="shape"):
        train_extractor(generator, [Shot(ws[1:], labels)], P)


def test_the_unet_learns_the_extractors_labels(tiny_pack, shots):
    config = replace(DISTIL, steps=40, batch=6, extractor_steps=40)
    training = distil_training(tiny_pack.generator(), shots, P, config, False)
    before = training.score()["score/agreement"]
    for _ in range(config.steps):
        training.train_step()
    assert training.score()["score/agreement"] > before + 0.2


def test_soft_loss_counts_painted_pixels_alone():
    logits, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).softmax(1)
    counted = torch.ones(2, 4, 4)
    counted[1] = 0
    changed = logits.clone()
    changed[1] = 7 * torch.randn(3, 4, 4)
    assert torch.equal(weighted_loss(logits, target, counted), weighted_loss(changed, target, counted))
    best = weighted_loss(target.log(), target, torch.ones(2, 4, 4))
    assert best < weighted_loss(logits, target, torch.ones(2, 4, 4))


def test_interrupted_distillation_ends_where_an_uninterrupted_one_does(tiny_pack, shots, tmp_path):
    whole, cut = (distil_training(tiny_pack.generator(), shots, P, DISTIL, False) for _ in range(2))
    for _ in range(3):
        whole.train_step()
        cut.train_step()
    save(cut, tmp_path)
    resumed = distil_training(tiny_pack.generator(), shots, P, DISTIL, False)
    assert resume(resumed, tmp_path)
    for _ in range(3):
        assert resumed.train_step() == whole.train_step()
    with pytest.raises(InputError, match="shots_sha256"):
        resume(distil_training(tiny_pack.generator(), shots[:1], P, DISTIL, False), tmp_path)


def test_neither_segmenter_nor_judge_takes_part(tiny_pack, shots, tmp_path, monkeypatch):
    def forbidden(_):
        raise AssertionError("a network that knows true masks was asked")

    for name in ("segmenter", "judge"):
        monkeypatch.setattr(type(tiny_pack), name, forbidden)
    learnt = learn_from_shots(tiny_pack, shots, tmp_path / "run", MAPPER, DISTIL, progress=False)
    assert 0 <= learnt.scores["score/proxy_accuracy"] <= 1 and learnt.scores["minutes"] > 0
    assert not learnt.segmenter.training and not learnt.mapper.training


@pytest.mark.parametrize("name", ["segmentation", "scribble"])
def test_parts_that_no_shot_shows_count_as_unpainted(tiny_pack, shots, tmp_path, name):
    part = int(shots[0].labels.flatten().mode().values)
    shots = [Shot(shot.ws, shot.labels.where(shot.labels != part, (part + 1) % P)) for shot in shots]
    config = replace(MAPPER, condition=name, unpainted=0.5)
    learnt = learn_from_shots(tiny_pack, shots, tmp_path / "run", config, DISTIL, progress=False)
    condition = get_condition(name, tiny_pack.palette())
    labels = torch.randint(0, P, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    drawings = one_hot(labels, condition.channels)
    with torch.no_grad():
        painted, left_out = learnt.mapper(drawings), learnt.mapper(condition.without(drawings, [part]))
        other = learnt.mapper(condition.without(drawings, [(part + 1) % P]))
    torch.testing.assert_close(painted, left_out, atol=1e-5, rtol=0)
    assert (painted - other).abs().max() > 1e-3


def test_the_pack_gets_mapper_and_segmenter(tiny_pack_path, shots, tmp_path):
    path = shutil.copytree(tiny_pack_path, tmp_path / "pack")
    before = load_pack(path)
    learnt = train_mapper_from_shots(path, shots, tmp_path / "run", MAPPER, DISTIL, progress=False)
    after = load_pack(path)
    file = mapper_file("segmentation")
    assert after.info["files"][file] != before.info["files"][file]
    assert after.info["files"][SEGMENTER] == before.info["files"][SEGMENTER]  # one that is there stays
    noted = after.info["provenance"][file]
    assert (noted["shots"], noted["shots_sha256"]) == (2, shots_hash(shots))
    assert isinstance(learnt.segmenter, UNet)


def test_the_benchmark_prints_its_table(tiny_pack, tmp_path, monkeypatch):
    monkeypatch.setattr("sis_rearrange.training.few_shot.EXTRACTOR_STEPS", {"linear": 3, "nonlinear": 3})
    script = runpy.run_path(str(ROOT / "benchmarks" / "extractors.py"))["main"]
    arguments = ["--shots", "1,2", "--repeats", "2", "--held-out", "8", "--no-unet", "--out", tmp_path / "table.md"]
    result = CliRunner().invoke(script, [str(tiny_pack.path), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    titles = ["| linear", "| nonlinear", "| nonlinear, with each sample's colours"]
    assert rows[0] == "| | N = 1 | N = 2 |" and [row.split(" | ")[0] for row in rows[1:]] == titles
    assert "the ceiling: " in result.output
