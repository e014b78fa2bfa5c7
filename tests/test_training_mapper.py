"""Training of mappers on the tiny pack."""

from __future__ import annotations

import json
import math
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.conditions import CONDITIONS, get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.pack import SEGMENTER, load_pack, mapper_file
from sis_rearrange.training.mapper import MapperConfig, MapperTraining, train_mapper
from sis_rearrange.training.pack_training import train_pack_mapper
from sis_rearrange.training.rearranger import TRAIN_SEEDS, VALIDATION_SEEDS
from sis_rearrange.training.run import resume, save

ROOT = Path(__file__).resolve().parent.parent
TINY = MapperConfig(
    "sketch", kimg=0.032, batch=4, lr=1e-2, widths=(8, 16), save_every=4, natural=0.5, cycle_batch=1, cycle_after=0.25
)


def training_of(pack, config):
    split = SplitGenerator(pack.generator(), pack.proxy().resolution)
    return MapperTraining(
        split,
        pack.proxy(),
        get_condition(config.condition, pack.palette()),
        pack.segmenter(),
        config,
        pack.rearranger(),
        pack.discriminator(),
    )


def run_script(*arguments):
    script = runpy.run_path(str(ROOT / "train_mapper.py"))
    return CliRunner().invoke(script["main"], [str(argument) for argument in arguments])


def test_parts_are_left_out_of_the_asked_share_of_drawings(tiny_pack):
    config = replace(TINY, condition="segmentation", batch=64, cycle=0.0, natural=0.0, unpainted=0.5)
    pairs = training_of(tiny_pack, config).pairs(range(64), np.random.default_rng(0))
    bare = (pairs.drawings.sum(dim=1) < 0.01).flatten(1).any(dim=1)
    assert 0.3 < bare.float().mean() < 0.7
    for drawing, parts in zip(pairs.drawings[bare], pairs.parts[bare], strict=True):
        left_out = set(parts.unique().tolist()) - set(drawing.sum(dim=(1, 2)).nonzero().flatten().tolist())
        assert left_out  # all of a part, wherever it is
    whole = training_of(tiny_pack, replace(config, unpainted=0.0)).pairs(range(64), np.random.default_rng(0))
    assert torch.equal(whole.drawings[~bare], pairs.drawings[~bare])
    with pytest.raises(InputError, match="--unpainted 1"):
        replace(config, unpainted=1.0)


@pytest.mark.parametrize("name", CONDITIONS)
def test_learns_held_out_proxy_masks(tiny_pack, name):
    training = training_of(
        tiny_pack,
        replace(TINY, condition=name, kimg=0.16, ema=0.9, precision="bfloat16" if name == "sketch" else "float32"),
    )
    losses = [training.train_step()["loss/cross_entropy"] for _ in range(training.config.steps)]
    assert np.mean(losses[-8:]) < 0.93 * np.mean(losses[:2])
    labels = training.pairs(VALIDATION_SEEDS, np.random.default_rng(0)).looks.labels
    commonest = torch.bincount(labels.flatten()).max().item() / labels.numel()
    scores = training.score()
    assert scores["score/proxy_accuracy"] > commonest + 0.1  # a mapper that ignores drawing and place gets no more
    assert scores["score/cross_entropy"] < np.mean(losses[:2])


@torch.inference_mode()
def test_pairs_are_the_generators_own(tiny_pack):
    training = training_of(tiny_pack, TINY)
    seeds = range(TRAIN_SEEDS, TRAIN_SEEDS + 3)
    pairs = training.pairs(seeds, np.random.default_rng(1))
    ws = sample_ws(tiny_pack.generator(), seeds, TINY.psi)
    images = tiny_pack.generator().synthesis(ws, noise_mode="const").clamp(-1, 1)
    assert torch.equal(pairs.images, images)
    assert torch.equal(pairs.looks.labels, tiny_pack.proxy().labels(training.split.g1(ws)[0]))
    assert torch.equal(pairs.drawings, training.condition.from_samples(images, None, np.random.default_rng(1)))


def test_drawings_of_a_step_are_repeatable_and_vary(tiny_pack):
    training = training_of(tiny_pack, replace(TINY, condition="scribble"))
    seeds = range(TRAIN_SEEDS, TRAIN_SEEDS + 3)
    one, two, other = (training.pairs(seeds, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.drawings.shape == (3, training.condition.channels, tiny_pack.resolution, tiny_pack.resolution)
    assert torch.equal(one.drawings, two.drawings)
    assert torch.equal(one.looks.labels, other.looks.labels) and not torch.equal(one.drawings, other.drawings)


def test_interrupted_training_ends_where_an_uninterrupted_one_does(tiny_pack, tmp_path):
    whole, cut = training_of(tiny_pack, TINY), training_of(tiny_pack, TINY)
    for _ in range(4):
        whole.train_step()
        cut.train_step()
    save(cut, tmp_path)
    resumed = training_of(tiny_pack, TINY)
    assert resume(resumed, tmp_path)
    assert resumed.step == 4
    for _ in range(4):
        assert resumed.train_step() == whole.train_step()
    for attribute in ("net", "ema"):
        one, two = getattr(whole, attribute).state_dict(), getattr(resumed, attribute).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_average_follows_weights_and_running_statistics(tiny_pack):
    training = training_of(tiny_pack, TINY)
    before = {name: value.clone() for name, value in training.ema.state_dict().items()}
    training.train_step()
    after, now = training.ema.state_dict(), training.net.state_dict()
    assert any("running_mean" in name for name in before)
    for name, value in before.items():
        share = 0.9 if value.is_floating_point() else 1.0  # first step: the decay starts at 1/10
        assert torch.allclose(after[name].float(), value + share * (now[name] - value), atol=1e-5), name


def test_pack_gets_the_mapper_and_the_run_its_logs(tiny_pack_path, tmp_path):
    path = shutil.copytree(tiny_pack_path, tmp_path / "pack")
    before = load_pack(path).mapper("sketch").state_dict()
    scores = train_pack_mapper(str(path), tmp_path / "run", TINY)
    pack = load_pack(path)
    after = pack.mapper("sketch").state_dict()
    assert not all(torch.equal(before[name], after[name]) for name in before)
    noted = pack.info["provenance"][mapper_file("sketch")]
    assert noted["config"]["condition"] == "sketch" and noted["config"]["widths"] == [8, 16]
    assert noted["scores"]["score/proxy_accuracy"] == pytest.approx(scores["score/proxy_accuracy"], abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert list((tmp_path / "run").glob("events.*"))
    assert train_pack_mapper(str(path), tmp_path / "run", TINY) == scores  # done: nothing is trained again


def test_goes_on_from_another_packs_mapper(tiny_pack_path, tmp_path):
    path = shutil.copytree(tiny_pack_path, tmp_path / "pack")
    config = replace(TINY, lr=1e-9, ema=0.0)
    train_pack_mapper(str(path), tmp_path / "run", config, resume_from=str(tiny_pack_path))
    pack, given = load_pack(path), load_pack(tiny_pack_path)
    assert pack.info["provenance"][mapper_file("sketch")]["from"] == given.name
    for (name, now), before in zip(
        pack.mapper("sketch").named_parameters(), given.mapper("sketch").parameters(), strict=True
    ):
        assert torch.allclose(now, before, atol=1e-3), name
    with pytest.raises(InputError, match="other settings"):
        train_pack_mapper(str(path), tmp_path / "run", config)
    for _ in range(2):  # in place; repeated, it tells of the training before it, not of itself
        train_pack_mapper(str(path), tmp_path / "again", config, resume_from=str(path))
        told = load_pack(path).info["provenance"][mapper_file("sketch")]
        assert told["run"] == "again" and told["before"] == pack.info["provenance"][mapper_file("sketch")]
    with pytest.raises(InputError, match=f"--resume-from {given.name}: widths 12,16 do not end with"):
        wider = replace(config, widths=(12, 16))
        train_pack_mapper(str(path), tmp_path / "other", wider, resume_from=str(tiny_pack_path))


def test_grid_shows_drawing_target_and_prediction(tiny_pack):
    training = training_of(tiny_pack, TINY)
    grid = training.grid(columns=3)
    side = tiny_pack.resolution
    assert grid.shape == (3, 4 * side, 3 * side)
    assert grid.min() >= 0 and grid.max() <= 1
    drawn = grid[:, side : 2 * side, :side]
    shown = training.condition.show(training._held_out(3).drawings[0])
    assert np.allclose(drawn.permute(1, 2, 0).numpy() * 255, np.asarray(shown))


def test_other_settings_do_not_overwrite_a_run(tiny_pack, tmp_path):
    save(training_of(tiny_pack, TINY), tmp_path)
    split = SplitGenerator(tiny_pack.generator(), tiny_pack.proxy().resolution)
    with pytest.raises(InputError, match=r"other settings \(lr\)"):
        networks = tiny_pack.proxy(), get_condition("sketch"), tiny_pack.segmenter()
        train_mapper(
            split, *networks, replace(TINY, lr=1e-3), tmp_path, tiny_pack.rearranger(), tiny_pack.discriminator()
        )


@pytest.mark.parametrize(
    "change",
    [
        *({"condition": "skech"}, {"batch": 0}, {"kimg": 0.0}, {"label_smoothing": 1.0}, {"save_every": 0}),
        *({"ema": 1.5}, {"ema": math.nan}, {"cycle_after": 1.0}, {"psi": math.nan}, {"psi": 9.0}),
    ],
)
def test_settings_that_make_no_sense(change):
    (name,) = change
    with pytest.raises(InputError, match=f"^(--)?{name.replace('_', '-')} "):
        replace(TINY, **change)


@pytest.mark.parametrize("widths", [(8,), (8,) * 7])
def test_networks_that_do_not_fit_the_pictures(tiny_pack, widths):
    with pytest.raises(InputError, match="--widths"):
        training_of(tiny_pack, replace(TINY, widths=widths))


def test_labels_need_a_segmenter(tiny_pack_path, tmp_path):
    path = shutil.copytree(tiny_pack_path, tmp_path / "pack")
    info = json.loads((path / "domain.json").read_text())
    del info["files"][SEGMENTER]
    (path / SEGMENTER).unlink()
    (path / "domain.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="segmenter"):
        train_pack_mapper(str(path), tmp_path / "run", replace(TINY, condition="scribble"))
    assert not (tmp_path / "run").exists()


def test_script_helps():
    done = run_script("--help")
    assert done.exit_code == 0
    assert "Examples:" in done.output and "segmentation|sketch|scribble" in done.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny", "--condition", "skech"], "did you mean 'sketch'?"),
        (["no-such-pack", "--condition", "sketch"], "no-such-pack"),
        (["tiny", "--condition", "sketch", "--widths", "8,x"], "'8,x'"),
        (["tiny"], "Missing option '--condition'"),
    ],
)
def test_script_explains_bad_input(tmp_path, arguments, message):
    done = run_script(*arguments, "--run", tmp_path / "run")
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert isinstance(done.exception, SystemExit) and not (tmp_path / "run").exists()


def test_a_dry_run_leaves_the_pack_alone(tiny_pack, tmp_path):
    done = run_script(
        tiny_pack.path, "--condition", "sketch", "--run", tmp_path / "run", "--dry-run", "--widths", "8,16"
    )
    assert done.exit_code == 0, done.output
    assert '"condition": "sketch"' in done.output and "memory: " in done.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    assert load_pack(tiny_pack.path).hash == tiny_pack.hash
