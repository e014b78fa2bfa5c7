"""Confidence: the temperature that was put in is found again, and it reaches users on every path, and only there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.calibration import CALIBRATION_SEEDS, RANGE, answers, calibrate, fit_temperature, write_temperature
from sis_rearrange.cli import main
from sis_rearrange.domains import SPLITS
from sis_rearrange.evaluation.protocol import FULL, QUICK
from sis_rearrange.evaluation.reliability import SEEDS
from sis_rearrange.metrics import reliability
from sis_rearrange.pack import load_pack, mapper_file, verify_pack
from sis_rearrange.sources import BANK_SEEDS
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.training.rearranger import TRAIN_SEEDS, VALIDATION_SEEDS


@pytest.fixture
def folder(tiny_pack_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pack_path, tmp_path / "tiny"))


def honest(temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [8, 5, 32, 32], and labels drawn from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(8, 5, 32, 32, generator=generator)
    gumbel = -torch.empty(logits.shape).exponential_(generator=generator).log()
    return logits, (logits / temperature + gumbel).argmax(dim=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    logits, labels = honest(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_right_temperature_has_the_least_calibration_error():
    logits, labels = honest(2.0)
    found = fit_temperature(logits, labels)

    def error(temperature: float) -> float:
        sure, best = (logits / temperature).softmax(dim=1).max(dim=1)
        return reliability(sure, best == labels).error

    assert error(found) < 0.02 < min(error(0.5 * found), error(2 * found))


def test_hopeless_logits_get_the_largest_temperature():
    logits, _ = honest(1.0)
    labels = torch.randint(5, (8, 32, 32), generator=torch.Generator().manual_seed(1))
    assert fit_temperature(logits, labels) > 0.8 * RANGE[1]


def test_samples_of_the_calibration_are_nobody_elses():
    ours = range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + 10_000)
    others = [
        VALIDATION_SEEDS,
        range(BANK_SEEDS, BANK_SEEDS + 1000),
        range(SEEDS, SEEDS + 10_000),
        range(TRAIN_SEEDS, TRAIN_SEEDS + 10**9),
        *(range(each, each + 10_000) for p in (QUICK, FULL) for each in (p.sample_seeds, p.source_seeds)),
    ]
    for other in others:
        assert ours.stop <= other.start or other.stop <= ours.start
    assert max(SPLITS["test"]) < TRAIN_SEEDS  # of pictures, not of samples


def test_answers_are_of_the_samples_own_masks(tiny_pack):
    found = answers(tiny_pack, "sketch", range(3))
    assert found.logits.shape == (3, 5, 16, 16) and found.labels.shape == (3, 16, 16)
    alone = answers(tiny_pack, "sketch", range(1, 2))
    assert torch.equal(found.labels[1:2], alone.labels) and torch.allclose(found.logits[1:2], alone.logits, atol=1e-4)


def test_a_calibrated_mapper_says_other_things_of_the_same_layout(folder, tiny_pack):
    before = tiny_pack
    drawing = before.file("drawings/sketch-1.png")
    write_temperature(load_pack(folder), "sketch", 3.0)
    after = load_pack(folder)
    assert verify_pack(folder) == [] and after.hash != before.hash
    assert after.mapper("sketch").temperature == 3.0 and after.mapper("scribble").temperature == 1.0
    states = (pack.mapper("sketch").state_dict() for pack in (before, after))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    old, new = before.info["provenance"], after.info["provenance"]
    relpath = mapper_file("sketch")
    assert {**old[relpath], "calibrated": new[relpath]["calibrated"]} == new[relpath]
    sizes = (pack.info["files"][relpath]["bytes"] for pack in (before, after))
    assert abs(next(sizes) - next(sizes)) < 100  # half precision still

    results = []
    for pack in (before, after):
        synth = Synthesizer(pack, "cpu", "torch")
        synth.set_source(seed=3)
        results.append((synth.synthesize(drawing, "sketch"), synth.paint(synth.read(drawing, "sketch"))))
    (a, a_steps), (b, b_steps) = results
    assert np.array_equal(a.proxy_mask, b.proxy_mask) and np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert np.allclose(a.confidence, a_steps.confidence, atol=1e-6)
    assert np.allclose(b.confidence, b_steps.confidence, atol=1e-6)
    assert b.confidence.mean() < a.confidence.mean() - 0.01
    logits = Synthesizer(before, "cpu", "torch").read(drawing, "sketch").logits[0].permute(1, 2, 0)
    expected = (logits / 3).softmax(dim=2).gather(2, torch.from_numpy(b.proxy_mask)[..., None])[..., 0]
    assert np.allclose(b.confidence, expected.numpy(), atol=1e-5)


def test_the_engine_knows_the_temperature(folder):
    pytest.importorskip("openvino")
    write_temperature(load_pack(folder), "sketch", 3.0)
    pack, found = load_pack(folder), []
    for backend in ("torch", "openvino"):
        synth = Synthesizer(pack, "cpu", backend)
        synth.set_source(seed=3)
        found.append(synth.synthesize(pack.file("drawings/sketch-1.png"), "sketch").confidence)
    assert np.allclose(*found, atol=1e-3)


def test_the_command_calibrates_every_mapper(folder):
    result = CliRunner().invoke(main, ["pack", "calibrate", str(folder), "--samples", "8"])
    assert result.exit_code == 0, result.output
    pack = load_pack(folder)
    for name in pack.conditions():
        assert f"{name}: temperature {pack.mapper(name).temperature:g}" in result.output
        assert pack.mapper(name).temperature == calibrate(pack, name, 8) != 1.0
    assert pack.short_hash in result.output and verify_pack(folder) == []
