"""Parts that nobody named: classes of feature maps, a U-Net that sees them, a rearranger trained with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, all_features, sample_ws
from sis_rearrange.pack import REARRANGER, SEGMENTER, UNLABELLED, copy_pack, load_pack
from sis_rearrange.training import pseudo_parts
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.pack_training import train_pack_rearranger
from sis_rearrange.training.pseudo_parts import pseudo_parts_training, pseudo_segmenter
from sis_rearrange.training.rearranger import LossWeights, RearrangerConfig
from sis_rearrange.training.run import resume, save
from sis_rearrange.unet import UNet
from train_rearranger import main

TINY = RearrangerConfig(
    kimg=0.016,
    batch=4,
    width=16,
    refine_width=8,
    adversarial_after=0.004,
    guide_classes=8,
    guide_samples=16,
    pseudo_parts=6,
    weights=LossWeights(parts=1.0, part_colour=1.0),
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Trainings of the U-Net in seconds."""
    monkeypatch.setattr(pseudo_parts, "SETTINGS", replace(pseudo_parts.SETTINGS, steps=8, batch=4, widths=(8, 16)))


@pytest.fixture
def split(tiny_pack):
    return SplitGenerator(tiny_pack.generator(), tiny_pack.proxy().resolution)


@pytest.fixture
def unlabelled_pack(tiny_pack_path, tmp_path):
    """A copy of the tiny pack that has no segmenter."""
    return copy_pack(load_pack(tiny_pack_path), tmp_path / "own", without=[SEGMENTER]).path


def test_a_guides_logits_are_of_the_pictures_size_and_agree_with_its_labels(split):
    guide = Guide(split, 6, range(32), psi=0.9)
    ws = sample_ws(split.generator, range(100, 104))
    maps, images = all_features(split.generator, ws)
    logits = guide(maps)
    assert logits.shape == (4, 6, *images.shape[2:])
    labels = guide.labels(ws, split.g1(ws)[0])
    enlarged = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert 0.8 < (logits.argmax(1) == enlarged).float().mean() < 1  # the same, but for smooth borders


def test_the_unet_learns_to_see_the_classes(split, monkeypatch):
    longer = replace(pseudo_parts.SETTINGS, steps=60, batch=8)
    monkeypatch.setattr(pseudo_parts, "SETTINGS", longer)
    training = pseudo_parts_training(split, TINY)
    before = training.score()["score/agreement"]
    for _ in range(training.steps):
        training.train_step()
    assert training.score()["score/agreement"] > before + 0.1


def test_an_interrupted_training_goes_on_with_its_own_classes(split, tmp_path):
    whole, cut = (pseudo_parts_training(split, TINY) for _ in range(2))
    for _ in range(3):
        whole.train_step()
        cut.train_step()
    save(cut, tmp_path)
    resumed = pseudo_parts_training(split, TINY)
    with torch.no_grad():
        resumed.parts()[0]["guide"].clusters.centroids.add_(1)  # as if threads had summed up in another order, much
    assert resume(resumed, tmp_path)
    for _ in range(3):
        assert resumed.train_step() == whole.train_step()


def test_it_is_learnt_once_for_a_run(split, tmp_path, monkeypatch):
    first = pseudo_segmenter(split, TINY, tmp_path)
    assert isinstance(first, UNet) and first.out_channels == 6 and not first.training
    assert not any(p.requires_grad for p in first.parameters())
    monkeypatch.setattr(pseudo_parts.DistilTraining, "train_step", lambda _: pytest.fail("trained again"))
    second = pseudo_segmenter(split, TINY, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_pack_without_a_segmenter_is_trained_with_terms_of_parts(unlabelled_pack, tmp_path):
    before = load_pack(unlabelled_pack).read(REARRANGER)
    with pytest.raises(InputError, match="--pseudo-parts"):
        train_pack_rearranger(str(unlabelled_pack), tmp_path / "named", replace(TINY, pseudo_parts=0))
    train_pack_rearranger(str(unlabelled_pack), tmp_path / "run", TINY)
    logged = json.loads((tmp_path / "run" / "stats.jsonl").read_text().splitlines()[-1])
    assert logged["loss/parts"] > 0 and logged["loss/part_colour"] > 0
    pack = load_pack(unlabelled_pack)
    assert pack.read(REARRANGER) != before
    assert pack.info["provenance"][REARRANGER]["config"]["pseudo_parts"] == 6
    assert SEGMENTER not in pack.info["files"]  # nobody has named what that network sees


def test_an_unlabelled_one_may_use_them_and_never_asks_the_packs_segmenter(tiny_pack_path, tmp_path, monkeypatch):
    path = shutil.copytree(tiny_pack_path, tmp_path / "own")
    monkeypatch.setattr("sis_rearrange.pack.Pack.segmenter", lambda _: pytest.fail("asked the segmenter"))
    train_pack_rearranger(str(path), tmp_path / "run", TINY, relpath=UNLABELLED)
    assert UNLABELLED in load_pack(path).info["files"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pseudo-parts", "6"], "give --parts or --part-colour a weight"),
        (["--pseudo-parts", "1", "--parts", "1"], "--pseudo-parts 1: must be 2 to 256"),
        (["--pseudo-parts", "300", "--parts", "1"], "--pseudo-parts 300: must be 2 to 256"),
    ],
)
def test_bad_options_end_with_one_line_and_code_2(tiny_pack, tmp_path, options, message):
    result = CliRunner().invoke(main, [str(tiny_pack.path), "--run", str(tmp_path / "run"), *options])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_dry_run_counts_the_network_and_trains_nothing(tiny_pack, tmp_path):
    options = ["--batch", "4", "--guide-classes", "4", "--parts", "1", "--pseudo-parts", "6", "--dry-run"]
    result = CliRunner().invoke(main, [str(tiny_pack.path), "--run", str(tmp_path / "run"), *options])
    assert result.exit_code == 0 and '"pseudo_parts": 6' in result.output, result.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
