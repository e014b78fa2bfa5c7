"""Evaluation: the direction of every score, that it sees what users get, and what the report says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_head

from sis_rearrange.conditions import CONDITIONS, get_condition
from sis_rearrange.domains import SPLITS, get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation import (
    BOUNDS,
    COMPONENTS,
    FULL,
    QUICK,
    Protocol,
    evaluate_pack,
    failures,
    format_report,
)
from sis_rearrange.evaluation.distance import score_distance
from sis_rearrange.evaluation.drawings import HeldOut, drawn, score_condition, score_sources, synthesize_all
from sis_rearrange.evaluation.networks import BATCH, Networks, parts
from sis_rearrange.evaluation.rearrangement import (
    COLOUR_PARTS,
    MIN_PIXELS,
    colour_distance,
    coloured_parts,
    part_colours,
    score_colours,
    score_rearrangement,
)
from sis_rearrange.evaluation.report import bound_of
from sis_rearrange.pack import JUDGE, REARRANGER, Pack, load_pack, mapper_file
from sis_rearrange.rearranger import Rearranged
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import to_uint8
from sis_rearrange.training.rearranger import TRAIN_SEEDS, VALIDATION_SEEDS

TINY = Protocol("tiny", samples=6, drawings=4, pictures=8, timed=2, drawing_side=64)
SEEDS = range(600_000, 600_006)


class Identity(torch.nn.Module):
    """The rearranger that moves nothing: perfect where the asked mask is the sample's own."""

    def forward(self, feature_map, skip, source_mask, target_mask):
        """As `Rearranger.forward`."""
        nowhere = torch.zeros_like(feature_map[:, :2])
        return Rearranged(feature_map, skip, nowhere[:, 0], nowhere, nowhere[:, :0])


class Noisy(Identity):
    """The one that also spoils features and skip image."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, feature_map, skip, source_mask, target_mask):
        """As `Rearranger.forward`."""
        moved = super().forward(feature_map, skip, source_mask, target_mask)
        noise = torch.randn(feature_map.shape[1:], generator=torch.Generator().manual_seed(0))
        return moved._replace(
            feature_map=feature_map + self.strength * noise, skip=skip + self.strength * noise[:3] * skip.std()
        )


@pytest.fixture(scope="module")
def networks(tiny_pack: Pack) -> Networks:
    return replace(Networks.of(tiny_pack, psi=0.9), rearranger=Identity())


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """The tiny drawings in place of renders."""
    domain = replace(get_domain("toonhead"), render=lambda index, side: tiny_head(side, 0.04 * (index % 5 - 2)))
    return HeldOut(domain, SPLITS["test"][:8], 32, drawings=4, drawing_side=64, progress=False)


@pytest.fixture(scope="module")
def report(tiny_pack: Pack) -> dict:
    return evaluate_pack(tiny_pack, progress=False, protocol=TINY)


# ---- rearranger ------------------------------------------------------------------------------------------------------


def test_a_perfect_rearranger_gets_the_best_scores(networks: Networks):
    same = score_rearrangement(networks, [600_000] * 4, progress=False)
    assert same == {
        "proxy_agreement_other_reachable": 1.0,
        "proxy_reachable_cells_other": 1.0,
        "proxy_agreement_other_all": 1.0,
        "proxy_agreement_own": 1.0,
        "psnr_self_db": 100.0,
    }


def test_ignoring_the_asked_mask_lowers_agreement_with_it_only(networks: Networks):
    scores = score_rearrangement(networks, SEEDS, progress=False)
    assert scores["proxy_agreement_own"] == 1.0
    assert scores["proxy_agreement_other_all"] <= scores["proxy_agreement_other_reachable"] < 0.9


def test_spoiled_features_lower_every_score(networks: Networks):
    found = [
        score_rearrangement(replace(networks, rearranger=Noisy(strength)), [600_000] * 3, progress=False)
        for strength in (0.0, 0.5, 5.0)
    ]
    for name in ("proxy_agreement_own", "proxy_agreement_other_reachable", "psnr_self_db"):
        values = [scores[name] for scores in found]
        assert values[0] > values[1] > values[2], name


def test_scores_do_not_depend_on_the_batches(networks: Networks, monkeypatch: pytest.MonkeyPatch):
    whole = score_rearrangement(networks, SEEDS, progress=False)
    monkeypatch.setattr("sis_rearrange.evaluation.networks.BATCH", 4)
    assert len(SEEDS) <= BATCH
    assert score_rearrangement(networks, SEEDS, progress=False) == pytest.approx(whole, abs=2e-3)


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_colours_of_parts():
    images = torch.full((2, 3, 10, 10), -1.0)
    images[:, 0, :5] = 1.0  # upper half red, lower half black
    labels = torch.zeros(2, 10, 10, dtype=torch.int64)
    labels[:, 5:] = 1
    labels[1, 9, : MIN_PIXELS - 11] = 2  # too small to count
    colours = part_colours(images, labels, 3)
    assert colours[0, :2].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert colours[:, 2].isnan().all()
    distance = colour_distance(colours, colours)
    assert (distance[:, :2] == 0).all() and distance[:, 2].isnan().all()
    assert colour_distance(colours[:, :1], colours[:, 1:2]).tolist() == [[pytest.approx(1 / 3)]] * 2


def whole_halves(images: torch.Tensor) -> torch.Tensor:
    """A judge that sees background above and skin below, whatever the picture."""
    logits = torch.zeros(images.shape[0], 10, *images.shape[2:])
    logits[:, 3, images.shape[2] // 2 :] = 1
    return logits


def test_kept_colours_are_at_distance_zero_and_others_are_not(networks: Networks):
    classes = get_domain("toonhead").classes
    scores, tables = score_colours(networks, whole_halves, classes, SEEDS, progress=False)
    assert scores["colour_to_source_skin"] == scores["colour_to_source_all"] == 0
    assert scores["colour_to_shuffled_skin"] > 0.005 and scores["colour_to_shuffled_all"] > 0.005
    assert math.isnan(scores["colour_to_source_hair"])
    assert tables["colour_pairs"] == {"hair": 0, "skin": 6, "clothes": 0, "background": 6}
    spoiled = replace(networks, rearranger=Noisy(5.0))
    assert score_colours(spoiled, whole_halves, classes, SEEDS, False)[0]["colour_to_source_all"] > 0.005


# ---- drawings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONDITIONS)
def test_evaluation_sees_what_users_get(tiny_pack: Pack, held_out: HeldOut, name: str):
    condition, mapper = get_condition(name, tiny_pack.palette()), tiny_pack.mapper(name)
    networks = Networks.of(tiny_pack, psi=0.9)
    seeds = range(610_000, 610_004)
    with torch.inference_mode():
        (batch,) = synthesize_all(networks, mapper, condition, held_out.large, held_out.indices, seeds, False)
    synthesizer = Synthesizer(tiny_pack, device="cpu")
    synthesizer.set_source(seed=seeds[2])
    picture, mask = held_out.large[0][2], held_out.large[1][2]
    result = synthesizer.synthesize(drawn(condition, picture, mask, held_out.indices[2]), name)
    assert np.array_equal(result.proxy_mask, batch.target[2].numpy())
    difference = np.asarray(result.image).astype(int) - to_uint8(batch.pictures)[2]
    assert abs(difference).max() <= 1


def test_a_judge_that_finds_the_drawn_parts_gives_full_marks(tiny_pack: Pack, held_out: HeldOut):
    class Oracle(torch.nn.Module):
        """Gives out the true masks, moved by some pixels, in the order of the pictures."""

        def __init__(self, shift: int) -> None:
            super().__init__()
            self.shift, self.seen = shift, 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            truth = torch.from_numpy(held_out.small[1][self.seen : self.seen + len(images)]).long().roll(self.shift, 2)
            self.seen += len(images)
            return torch.nn.functional.one_hot(truth, 10).permute(0, 3, 1, 2).float()

    networks, condition = Networks.of(tiny_pack, 0.9), get_condition("segmentation", tiny_pack.palette())
    mapper, seeds = tiny_pack.mapper("segmentation"), range(610_000, 610_004)
    found = []
    for shift in (0, 1, 4):
        scores, tables = score_condition(networks, Oracle(shift), mapper, condition, held_out, seeds, False)
        found.append((scores["miou_judge_segmentation"], scores["accuracy_judge_segmentation"]))
        assert set(tables["iou_judge_segmentation"]) == {"background", "rear_hair", "skin", "clothes", "mouth", "eyes"}
    assert found[0] == (1.0, 1.0)
    assert all(a > b > c for a, b, c in zip(*found, strict=True))
    assert score_sources(networks, Oracle(0), held_out, seeds, False)["miou_judge_source"] == 1.0


def test_distance_of_equal_results_is_that_of_plain_samples(tiny_pack: Pack, held_out: HeldOut, networks: Networks):
    arguments = tiny_pack.judge(), tiny_pack.mapper("segmentation"), get_condition("segmentation", tiny_pack.palette())
    seeds = range(610_000, 610_008)
    unmoved = score_distance(networks, *arguments, held_out, seeds, progress=False)
    assert unmoved["judge_frechet_ratio"] == 1.0 and unmoved["judge_frechet_plain"] > 0
    spoiled = score_distance(replace(networks, rearranger=Noisy(20.0)), *arguments, held_out, seeds, progress=False)
    assert spoiled["judge_frechet_ratio"] != 1.0
    assert spoiled["judge_frechet_plain"] == unmoved["judge_frechet_plain"]


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_report_covers_every_bound_and_survives_json(report: dict, tiny_pack: Pack):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert not report["missing"] and set(report["seconds"]) == set(COMPONENTS)
    bounded = {name for name in report["metrics"] if bound_of(name)}
    names = {name if name in BOUNDS else name.rpartition("_")[0] for name in bounded}
    assert names == set(BOUNDS)
    assert "proxy_agreement_other_reachable_6" in bounded and "miou_judge_sketch_4" in report["metrics"]
    assert report["hash"] == tiny_pack.hash and report["passed"].keys() == report["bounds"].keys() == bounded
    assert report["metrics"]["train_minutes_rearranger"] == 0.01 and report["passed"]["train_minutes_rearranger"]


def test_the_same_pack_gives_the_same_numbers(report: dict, tiny_pack: Pack):
    again = evaluate_pack(tiny_pack, progress=False, protocol=TINY, components=["drawings", "distance"])
    assert set(again["seconds"]) == {"drawings", "distance"} and len(again["metrics"]) > 10
    assert again["metrics"] == {name: report["metrics"][name] for name in again["metrics"]}


def test_a_partial_pack_is_scored_as_far_as_it_goes(tiny_pack_path, tmp_path):
    whole = load_pack(tiny_pack_path)
    pack = Pack(whole.path, {**whole.info, "files": dict(whole.info["files"])}, whole.hash)
    for file in (JUDGE, mapper_file("segmentation"), mapper_file("scribble")):
        del pack.info["files"][file]
    report = evaluate_pack(pack, progress=False, protocol=TINY)
    assert {name.partition("_")[0] for name in report["metrics"]} == {"proxy", "psnr", "latency", "train"}
    assert "latency_ms_sketch_2" in report["metrics"] and "latency_ms_scribble_2" not in report["metrics"]
    assert any("scribble" in line and "mappers/scribble.safetensors" in line for line in report["missing"])
    del pack.info["files"][REARRANGER]
    report = evaluate_pack(pack, progress=False, protocol=TINY, components=("rearranger",))
    assert report["metrics"] == {} and REARRANGER in report["missing"][0]
    assert "no bounds" in format_report(report) and f"missing: {report['missing'][0]}" in format_report(report)


def test_unknown_components_and_senseless_protocols_are_refused(tiny_pack: Pack):
    with pytest.raises(InputError, match="did you mean 'drawings'"):
        evaluate_pack(tiny_pack, components=["drawing"])
    with pytest.raises(InputError, match="pictures >= drawings"):
        Protocol("odd", drawings=20, pictures=10)


@pytest.mark.parametrize("protocol", [QUICK, FULL, TINY])
def test_evaluation_looks_at_nothing_that_was_trained_or_tuned_on(protocol: Protocol):
    samples = range(protocol.sample_seeds, protocol.sample_seeds + protocol.samples)
    sources = range(protocol.source_seeds, protocol.source_seeds + protocol.pictures)
    for seeds in (samples, sources):
        assert seeds.stop <= TRAIN_SEEDS and seeds.start > VALIDATION_SEEDS.stop
    assert samples.stop <= sources.start and protocol.pictures <= len(SPLITS["test"])


# ---- the report ------------------------------------------------------------------------------------------------------


def some_report(**metrics: float | None) -> dict:
    names: Sequence[str] = list(metrics)
    return {
        "pack": "some",
        "hash": "0123456789abcdef",
        "protocol": {"name": "quick", "text": ["psi 0.9"]},
        "metrics": metrics,
        "tables": {"iou_judge_sketch_4": {"hair": 0.25}} if names else {},
        "missing": [],
        "versions": {"torch": "2"},
        "seconds": {"rearranger": 3.0},
        "threads": 2,
    }


def test_the_report_marks_failing_bounds():
    report = some_report(
        psnr_self_db_256=25.9,
        proxy_agreement_own_256=0.95,
        latency_ms_sketch_20=140.0,
        proxy_agreement_other_all_256=0.2,
    )
    assert failures(report) == ["psnr_self_db_256", "latency_ms_sketch_20"]
    rows = {line.split()[0]: line.split() for line in format_report(report).splitlines() if line.strip()}
    assert rows["psnr_self_db_256"] == ["psnr_self_db_256", "25.90", ">=", "26", "FAIL"]
    assert rows["proxy_agreement_own_256"][1:] == ["0.9500", ">=", "0.93", "ok"]
    assert rows["latency_ms_sketch_20"][1:] == ["140.00", "<=", "100", "FAIL"]
    assert rows["proxy_agreement_other_all_256"][1:] == ["0.2000"]
    assert "1 of 3 bounds hold" in format_report(report)
    assert "iou_judge_sketch_4: hair 0.2500" in format_report(report)


def test_bounds_are_inclusive_and_missing_values_fail():
    assert failures(some_report(psnr_self_db_256=26.0, judge_frechet_ratio_1000=1.3)) == []
    report = some_report(colour_to_source_hair_256=None)
    assert failures(report) == ["colour_to_source_hair_256"] and "n/a" in format_report(report)


def test_columns_are_aligned():
    lines = format_report(some_report(psnr_self_db_256=5.0, proxy_agreement_own_256=0.1)).splitlines()
    assert len({line.index(mark) for line in lines for mark in (">=",) if mark in line}) == 1
    assert len({line.index("FAIL") for line in lines if "FAIL" in line}) == 1


def test_the_judge_labels_every_pixel(tiny_pack: Pack):
    labels = parts(tiny_pack.judge(), torch.zeros(2, 3, 32, 32))
    assert labels.shape == (2, 32, 32) and labels.dtype == torch.int64
    classes = get_domain("toonhead").classes
    assert set(COLOUR_PARTS) < set(classes)  # a renamed class would silently leave its colour out
    assert coloured_parts(classes) == [classes.index(part) for part in COLOUR_PARTS]
    scene = get_domain("landscape").classes
    assert coloured_parts(scene) == list(range(len(scene)))
    assert coloured_parts(("background", "wing")) == [0, 1]
