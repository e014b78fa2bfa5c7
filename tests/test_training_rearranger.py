from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.latency import training_minutes
from sis_rearrange.features import SplitGenerator
from sis_rearrange.pack import PROXY, REARRANGER, UNLABELLED, load_pack, write_component
from sis_rearrange.pack_files import update_info
from sis_rearrange.training.mapper_config import MapperConfig
from sis_rearrange.training.pack_training import train_pack_mapper, train_pack_rearranger
from sis_rearrange.training.rearranger import LossWeights, RearrangerConfig, RearrangerTraining, train_rearranger
from sis_rearrange.training.run import save
from train_rearranger import main

TINY = RearrangerConfig(
    kimg=0.048,
    batch=4,
    own=2,
    width=16,
    refine_width=8,
    adversarial_after=0.004,
    save_every=6,
    guide_classes=8,
    guide_samples=16,
    weights=LossWeights(parts=1.0, part_colour=1.0),
)


@pytest.fixture
def own_pack(tiny_pack_path, tmp_path):
    """A copy of the tiny pack to be trained."""
    return shutil.copytree(tiny_pack_path, tmp_path / "own")


@pytest.fixture
def parts(tiny_pack):
    proxy = tiny_pack.proxy()
    return (
        SplitGenerator(tiny_pack.generator(), proxy.resolution),
        proxy,
        tiny_pack.discriminator(),
        tiny_pack.segmenter(),
    )


def test_training_improves_agreement_and_logs_every_term(parts, tmp_path):
    start = RearrangerTraining(*parts, TINY).score()
    net, scores = train_rearranger(*parts, replace(TINY, kimg=0.24, lr=3e-3), tmp_path)
    assert scores["score/agreement_cross"] > start["score/agreement_cross"] + 0.02
    assert not any(p.requires_grad for p in net.parameters())
    logged = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])
    assert {f"loss/{name}" for name in vars(LossWeights())} <= set(logged)
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("change", [{"psi": math.nan}, {"psi": 9.0}, {"ema": 1.0}, {"lr": math.inf}, {"batch": 1}])
def test_settings_that_make_no_sense(change):
    (name,) = change
    with pytest.raises(InputError, match=f"^(--)?{name} "):
        replace(TINY, **change)


def test_resumed_training_equals_an_uninterrupted_one_to_the_bit(parts, tmp_path):
    whole, _ = train_rearranger(*parts, TINY, tmp_path / "whole")
    broken = RearrangerTraining(*parts, TINY)
    for _ in range(5):
        broken.train_step()
    save(broken, tmp_path / "broken")
    resumed, _ = train_rearranger(*parts, TINY, tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("term", list(vars(LossWeights())))
def test_every_term_can_be_switched_off(parts, term):
    config = replace(TINY, adversarial_after=0.0, weights=replace(TINY.weights, **{term: 0.0}))
    stats = RearrangerTraining(*parts, config).train_step()
    expected = set(vars(LossWeights())) - {term}
    assert {name for name in stats if name.startswith("loss/")} >= {f"loss/{name}" for name in expected}
    assert f"loss/{term}" not in stats


def test_other_settings_in_the_run_folder_are_refused(parts, tmp_path):
    save(RearrangerTraining(*parts, TINY), tmp_path)
    with pytest.raises(InputError, match=r"other settings \(lr\)"):
        train_rearranger(*parts, replace(TINY, lr=0.5), tmp_path)


def test_divergence_is_an_error_with_advice(parts):
    training = RearrangerTraining(*parts, TINY)
    training.net.log_sharpness.data.fill_(float("nan"))
    with pytest.raises(InputError, match="lower --lr"):
        training.train_step()


def test_the_script_writes_the_pack(own_pack, tmp_path):
    before = load_pack(own_pack).info["files"]
    arguments = [str(own_pack), "--run", str(tmp_path / "run"), "--kimg", "0.008", "--batch", "4", "--refit-proxy"]
    result = CliRunner().invoke(main, [*arguments, "--tap", "16", "--clusters", "3", "--proxy-samples", "16"])
    assert result.exit_code == 0, result.output
    pack = load_pack(own_pack)
    assert pack.proxy().K == 3 and pack.rearranger().K == 3
    assert all(pack.info["files"][part] != before[part] for part in (PROXY, REARRANGER))
    assert pack.info["provenance"][REARRANGER]["config"]["kimg"] == 0.008
    assert training_minutes(pack)["train_minutes_rearranger"] == pack.info["provenance"][REARRANGER]["minutes"]


def test_goes_on_from_another_packs_rearranger_and_its_clusters(own_pack, tiny_pack, tmp_path):
    config = replace(TINY, kimg=0.004, lr=1e-9, ema=0.0)
    fitting = {"tap": 16, "num_clusters": 5, "proxy_samples": 64, "refit_proxy": True}
    train_pack_rearranger(str(own_pack), tmp_path / "run", config, **fitting, resume_from=str(tiny_pack.path))
    pack = load_pack(own_pack)
    assert pack.info["provenance"][REARRANGER]["from"] == pack.info["provenance"][PROXY]["from"] == tiny_pack.name
    for name, value in tiny_pack.rearranger().state_dict().items():
        if name != "feature_std":  # that of the features at hand
            assert torch.allclose(pack.rearranger().state_dict()[name], value, atol=1e-3), name
    assert pack.info["provenance"][REARRANGER]["before"] == tiny_pack.info["provenance"][REARRANGER]
    nearest = torch.cdist(pack.proxy().centroids, tiny_pack.proxy().centroids).argmin(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="other settings"):  # from nothing: not the same run
        train_pack_rearranger(str(own_pack), tmp_path / "run", config)


def test_networks_are_not_taken_over_for_clusters_of_another_order(own_pack, tiny_pack_path, tiny_pack, tmp_path):
    start, proxy = str(tiny_pack_path), tiny_pack.proxy()
    turned = proxy.state_dict() | {"centroids": proxy.centroids.roll(1, dims=0)}
    write_component(own_pack, PROXY, turned, {"kind": "proxy", "args": proxy.config, "psi": 0.9}, {}, half=False)
    with pytest.raises(InputError, match="0% of this pack's follow them.*--refit-proxy"):
        train_pack_rearranger(str(own_pack), tmp_path / "run", TINY, resume_from=start)
    with pytest.raises(InputError, match="0% of this pack's follow them"):
        train_pack_mapper(str(own_pack), tmp_path / "mapper", MapperConfig("sketch"), resume_from=start)


def test_a_run_goes_on_when_the_pack_it_started_from_is_gone(own_pack, tiny_pack_path, tmp_path):
    """With the clusters that it has: moved once more, they would be others."""
    start = shutil.copytree(tiny_pack_path, tmp_path / "start")
    update_info(own_pack, {"licences": []})
    fitting = {"tap": 16, "num_clusters": 5, "proxy_samples": 64, "refit_proxy": True, "resume_from": str(start)}
    train_pack_rearranger(str(own_pack), tmp_path / "run", TINY, **fitting)
    first = load_pack(own_pack)
    assert [each["credit"] for each in first.info["licences"]] == ["drawn by the tests"]
    shutil.rmtree(start)
    train_pack_rearranger(str(own_pack), tmp_path / "run", TINY, **fitting)
    told = [each.info["provenance"][REARRANGER]["before"] for each in (first, load_pack(own_pack))]
    assert told[0] == told[1] == load_pack(tiny_pack_path).info["provenance"][REARRANGER]
    again = load_pack(own_pack)
    assert again.info["files"][PROXY] == first.info["files"][PROXY]
    assert again.info["files"][REARRANGER] == first.info["files"][REARRANGER]
    with pytest.raises(InputError, match="start"):  # a new run needs it
        train_pack_rearranger(str(own_pack), tmp_path / "other", TINY, **fitting)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume-from", "toonhead"], "--resume-from toonhead: its rearranger has"),
        (
            ["--resume-from", "toonhead", "--refit-proxy", "--tap", "16"],
            "give its --tap 32 --clusters 24",
        ),
        (["--batch", "1"], "at least 2"),
        (["--kimg", "0"], "must be positive"),
        (["--kimg", "much"], "'much' is not a valid float"),
        (["--device", "nothing"], "device 'nothing' cannot be used"),
        (["--own", "9"], "--own 9"),
        (["--refit-proxy", "--tap", "7"], "--tap 7"),
        (["--refit-proxy", "--clusters", "1"], "--clusters 1"),
        (["--refit-proxy", "--proxy-samples", "0"], "--proxy-samples 0"),
    ],
)
def test_bad_options_end_with_one_line_and_code_2(own_pack, tmp_path, options, message):
    result = CliRunner().invoke(main, [str(own_pack), "--run", str(tmp_path / "run"), *options])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_an_unknown_pack_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["toonhed", "--run", str(tmp_path / "run")])
    assert result.exit_code == 2 and "unknown pack" in result.stderr


@pytest.mark.parametrize("more", [[], ["--refit-proxy", "--tap", "16", "--clusters", "3"]])
def test_a_dry_run_leaves_the_pack_alone(tiny_pack, tmp_path, more):
    arguments = [str(tiny_pack.path), "--run", str(tmp_path / "run"), "--batch", "4", "--guide-classes", "4", *more]
    result = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert '"batch": 4' in result.output and "critic: " in result.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    assert load_pack(tiny_pack.path).hash == tiny_pack.hash


def test_presets_are_defaults(tiny_pack, tmp_path):
    arguments = [str(tiny_pack.path), "--run", str(tmp_path / "run"), "--dry-run", "--preset", "lsun-church256"]
    result = CliRunner().invoke(main, [*arguments, "--kimg", "3", "--batch", "4", "--guide-classes", "0"])
    assert result.exit_code == 0 and '"kimg": 3.0' in result.output and '"batch": 4' in result.output, result.output


def test_one_for_few_shot_scores_takes_no_part_labels(own_pack, tmp_path):
    before = load_pack(own_pack).read(REARRANGER)
    with pytest.raises(InputError, match="--parts"):
        train_pack_rearranger(str(own_pack), tmp_path / "run", TINY, relpath=UNLABELLED)
    plain = replace(TINY, kimg=0.008, weights=LossWeights())
    train_pack_rearranger(str(own_pack), tmp_path / "run", plain, relpath=UNLABELLED)
    pack = load_pack(own_pack)
    assert pack.read(REARRANGER) == before != pack.read(UNLABELLED)
    assert pack.info["provenance"][UNLABELLED]["config"]["weights"]["parts"] == 0
