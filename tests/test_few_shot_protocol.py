"""The few-shot protocol: finished cells are kept, all methods get the same, quick runs say so, pages show it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import results as results_page
import torch
from conftest import tiny_head

from sis_rearrange.conditions import get_condition
from sis_rearrange.domains import get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation import condition_agreement, few_shot
from sis_rearrange.evaluation.baselines import Baseline, ClassVote, Ignoring, methods_for
from sis_rearrange.evaluation.cells import Cells, digest, pieces, strip_of
from sis_rearrange.evaluation.condition_agreement import mapper_agreement
from sis_rearrange.evaluation.few_shot import FULL, MOST_SHOTS, QUICK, FewShot, FewShotRun, Place, run_cells
from sis_rearrange.evaluation.few_shot_report import (
    HELPED,
    MARGIN,
    MARK,
    as_text,
    collected,
    few_shot_outcome,
    goals,
    page,
    sheets,
)
from sis_rearrange.evaluation.networks import Networks, parts
from sis_rearrange.evaluation.outcome import Outcome, Request, write_report
from sis_rearrange.evaluation.protocol import evaluate_pack
from sis_rearrange.evaluation.protocols import PROTOCOLS
from sis_rearrange.evaluation.quality import QUICK_AMOUNTS, Quality
from sis_rearrange.pack import JUDGE, PROXY, REARRANGER, UNLABELLED, Pack, load_pack, mapper_file, write_component
from sis_rearrange.training.rearranger import TRAIN_SEEDS

TINY = FewShot("quick", shots=(1, 2), repeats=2, targets=3, samples=2, held_out=4)


class Recorder(Ignoring):
    """Notes what it is given, and paints the mask's own brightness."""

    name, title, learns = "ours", "recorder", True

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple] = []

    def fit(self, pack, shots, seed, progress=None):
        """As `Baseline.fit`."""
        super().fit(pack, shots, seed, progress)
        self.given.append(("fit", seed, len(shots), float(sum(shot.ws.sum() for shot in shots))))

    def synthesize(self, masks, seeds):
        """As `Baseline.synthesize`."""
        self.given.append(("synthesize", tuple(seeds), int(masks.sum())))
        return (masks[:, None].float() / 5 - 1).expand(-1, 3, -1, -1)


@pytest.fixture
def methods() -> dict[str, Baseline]:
    return {"ignoring": Ignoring(), "vote": ClassVote(), "ours": Recorder()}


@pytest.fixture(autouse=True)
def drawn_by_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny drawings in place of renders: the renderer is an extra."""
    domain = replace(get_domain("toonhead"), render=lambda index, side: tiny_head(side, 0.03 * (index % 5 - 2)))
    monkeypatch.setattr(few_shot, "rendered_domain", lambda pack: domain)


def new_run(pack: Pack, methods: dict[str, Baseline], protocol: FewShot = TINY) -> FewShotRun:
    return FewShotRun(pack, protocol, methods, progress=False)


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_finished_cells_are_not_computed_again(tiny_pack, methods, tmp_path):
    said: list[str] = []
    first = run_cells(new_run(tiny_pack, methods), Cells(tmp_path), say=said.append)
    assert len(first) == 2 + 4 + 4 == len(said) == len(list((tmp_path / "cells").glob("*.json")))
    assert said[0].startswith("1/10 ignoring-n0-r0: mIoU ")
    lost = next((tmp_path / "cells").glob("ours-n2-r1-*.json"))
    kept = lost.read_text()
    lost.write_text(kept[:-20])  # as a kill would never leave it, but a disk might
    recorder, said[:] = Recorder(), []
    second = run_cells(new_run(tiny_pack, methods | {"ours": recorder}), Cells(tmp_path), say=said.append)
    assert len(said) == 1 and "ours-n2-r1" in said[0]
    assert {call[:2] for call in recorder.given if call[0] == "fit"} == {("fit", 1)}
    for place, cell in first.items():
        assert {**second[place], "seconds": 0} == {**cell, "seconds": 0}


def with_files(pack: Pack, files: dict) -> Pack:
    """The pack as if it listed these files as well, or with these hashes."""
    return replace(pack, info={**pack.info, "files": {**pack.info["files"], **files}}, hash="0" * 64)


def test_other_settings_are_other_cells(tiny_pack, methods, tmp_path):
    place = Place("vote", 1, 0)
    settings = new_run(tiny_pack, methods).settings(place)
    run_cells(new_run(tiny_pack, methods), Cells(tmp_path), only=["vote:1"])
    assert Cells(tmp_path).find(place.name, settings) is not None
    changed = [
        new_run(tiny_pack, methods, replace(TINY, samples=3)).settings(place),
        new_run(tiny_pack, methods | {"vote": ClassVote(psi=0.8)}).settings(place),
        new_run(with_files(tiny_pack, {PROXY: {"sha256": "0" * 64, "bytes": 1}}), methods).settings(place),
    ]
    assert len({digest(s) for s in (settings, *changed)}) == 4
    assert all(Cells(tmp_path).find(place.name, s) is None for s in changed)
    unused = with_files(tiny_pack, {"mappers/hed.safetensors": {"sha256": "0" * 64, "bytes": 1}})
    assert new_run(unused, methods).settings(place) == settings
    more = replace(TINY, name="full", shots=(1, 2, 3), repeats=3)  # adds cells and keeps those that are there
    assert new_run(tiny_pack, methods, more).settings(place) == settings


def test_another_rearranger_changes_the_cells_of_methods_that_ask_it(tiny_pack):
    """Hours of a baseline's cells are not computed again because ours has a better network."""
    other, methods = with_files(tiny_pack, {REARRANGER: {"sha256": "0" * 64, "bytes": 1}}), methods_for(False, 0.9)
    before, after = new_run(tiny_pack, methods), new_run(other, methods)
    changed = {p.method for p in before.places() if before.settings(p) != after.settings(p)}
    assert changed == {"vote", "ours", "refined"} < set(methods)


def test_parts_can_be_asked_for_and_the_rest_is_shown_if_it_is_there(tiny_pack, methods, tmp_path):
    run = new_run(tiny_pack, methods)
    assert [place.name for place in run.places(["vote:2"])] == ["vote-n2-r0", "vote-n2-r1"]
    assert [place.name for place in run.places(["vote:2:1", "ignoring:0:0"])] == ["ignoring-n0-r0", "vote-n2-r1"]
    assert [place.name for place in run.places(["vote::1"])] == ["vote-n1-r1", "vote-n2-r1"]
    assert len(list(run.places(["vote", "ignoring"]))) == 6
    run_cells(run, Cells(tmp_path), only=["vote:2"])
    found = run_cells(run, Cells(tmp_path), only=["ignoring"])
    assert {place.method for place in found} == {"vote", "ignoring"}
    assert set(sheets(run, Cells(tmp_path), found)) == {"few-shot-n2.png"}
    with pytest.raises(InputError, match="did you mean 'vote'"):
        list(run.places(["votes"]))
    with pytest.raises(InputError, match="has vote with 1, 2 annotated samples"):
        list(run.places(["vote:16"]))
    for text in ("vote:1:2", "vote:1:first", "vote:1:0:0"):
        with pytest.raises(InputError, match=f"--only {text}: .* repeat, 0 to 1"):
            list(run.places([text]))


def test_nothing_is_written_without_a_folder_and_files_are_refused(tiny_pack, methods, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, cells = new_run(tiny_pack, methods), Cells(None)
    found = run_cells(run, cells, only=["vote:1"])
    assert len(found) == 2 and not list(tmp_path.iterdir())
    assert set(sheets(run, cells, found)) == {"few-shot-n1.png"}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Cells(tmp_path / "file")


def test_strips_come_apart_as_they_were_put_together():
    pictures = np.random.default_rng(0).integers(0, 255, [3, 8, 8, 3], dtype=np.uint8)
    apart = pieces(strip_of(pictures))
    assert all(np.array_equal(np.asarray(piece), picture) for piece, picture in zip(apart, pictures, strict=True))


# ---- what is given ---------------------------------------------------------------------------------------------------


def test_all_methods_get_the_same_shots_masks_and_seeds(tiny_pack, methods):
    other = Recorder()
    run = new_run(tiny_pack, methods | {"vote": other})
    for place in run.places(["ours", "vote"]):
        run.compute(place)
    ours = methods["ours"]
    assert isinstance(ours, Recorder) and ours.given == other.given
    fits = [call for call in ours.given if call[0] == "fit"]
    assert len({call[3] for call in fits}) == 4  # other repeats and more shots are others
    seeds = [call[1] for call in ours.given if call[0] == "synthesize"]
    assert seeds[0] == seeds[1] == tuple(TINY.seeds(0)) and seeds[2] == tuple(TINY.seeds(1)) != seeds[0]


def test_more_shots_hold_the_fewer_ones(tiny_pack, methods):
    run = new_run(tiny_pack, methods)
    one, two = run.shots(1, 1), run.shots(2, 1)
    assert torch.equal(one[0].ws, two[0].ws) and torch.equal(one[0].labels, two[0].labels)
    assert not torch.equal(run.shots(1, 0)[0].ws, one[0].ws)
    assert not one[0].ws.is_inference() and one[0].labels.shape == (32, 32)


@pytest.mark.parametrize("protocol", [FULL, QUICK, TINY])
def test_repeats_share_no_seed_and_training_sees_none_of_them(protocol: FewShot):
    spans = [protocol.seeds(r) for r in range(protocol.repeats)]
    spans += [protocol.annotated(MOST_SHOTS, r) for r in range(protocol.repeats)]
    every = [seed for span in spans for seed in span]
    assert len(set(every)) == len(every) and max(every) < 700_000 < TRAIN_SEEDS and min(every) >= 670_000


def test_a_judge_that_sees_the_drawing_gives_full_marks(tiny_pack, methods, monkeypatch):
    class Reading(torch.nn.Module):
        """Reads the label off the grey that `Recorder` paints."""

        def forward(self, images):
            labels = ((images[:, 0] + 1) * 5).round().long().clamp(0, 9)
            return torch.nn.functional.one_hot(labels, 10).permute(0, 3, 1, 2).float()

        def features(self, images):
            return images.mean(dim=(2, 3))

    run = new_run(tiny_pack, methods)
    monkeypatch.setattr(type(tiny_pack), "judge", lambda self: Reading())
    results, strip = run.compute(Place("ours", 1, 0))
    assert results["miou"] == results["accuracy"] == 1 and results["miou_over_targets"] == [1, 1]
    assert strip.shape == (32, 3 * 32, 3)
    ignoring, _ = run.compute(Place("ignoring", 0, 0))
    assert ignoring["miou"] < 0.5


def test_a_pack_that_lacks_a_part_is_refused(tiny_pack, methods):
    files = {name: entry for name, entry in tiny_pack.info["files"].items() if name != JUDGE}
    pack = Pack(tiny_pack.path, {**tiny_pack.info, "files": files}, tiny_pack.hash)
    with pytest.raises(InputError, match="judge.safetensors"):
        new_run(pack, methods)
    with pytest.raises(InputError, match="annotated samples"):
        FewShot(shots=(0, 1))


# ---- the report ------------------------------------------------------------------------------------------------------


def cell(miou: float, distance: float) -> dict:
    seconds = {"fit": 1.0, "synthesize": 2.0}
    spread = [miou - 0.1, miou + 0.1]
    return {
        "miou": miou,
        "accuracy": 0.9,
        "judge_frechet": distance,
        "miou_over_targets": spread,
        "seconds": seconds,
        "iou": {},
        "threads": 1,
    }


def some_cells(ours_1: float = 0.5, rival: float = 0.3, distance: float = 0.5) -> dict[Place, dict]:
    found = {Place("ignoring", 0, r): cell(0.2, 1.0) for r in range(2)}
    for r in range(2):
        for n in (1, 2):
            found[Place("lineargan", n, r)] = cell(rival, 0.9)
            found[Place("ours", n, r)] = cell(ours_1 + 0.05 * (n - 1) + 0.02 * r, distance)
    return found


def test_goals_hold_and_fail_where_they_should():
    def held(found: dict[Place, dict]) -> list[bool]:
        return [goal["holds"] for goal in goals(found, (1, 2))]

    assert held(some_cells()) == [True] * 5
    assert goals(some_cells(), (1, 2))[0]["value"] == "+21.0"
    assert held(some_cells(rival=0.51 - MARGIN / 100 + 0.001))[0] is False
    assert held(some_cells(rival=0.53))[1:3] == [False, True]
    assert held(some_cells(distance=1.3))[-1] is False
    falling = some_cells()
    falling[Place("ours", 2, 0)]["miou"] = falling[Place("ours", 2, 1)]["miou"] = 0.4
    assert [goal["holds"] for goal in goals(falling, (1, 2)) if goal["goal"].startswith("rising")] == [False]
    assert goals({}, (1, 2)) == []


def test_rising_is_seen_in_the_repeats_that_all_counts_have():
    found = some_cells()
    del found[Place("ours", 2, 1)]  # the better repeat, of N = 2 alone: whoever averages all that is there sees a fall
    found[Place("ours", 1, 1)]["miou"] = 0.9
    [rising] = [goal for goal in goals(found, (1, 2)) if goal["goal"].startswith("rising")]
    assert (rising["value"], rising["holds"]) == ("50.0, 55.0", True)
    del found[Place("ours", 2, 0)]
    assert not [goal for goal in goals(found, (1, 2)) if goal["goal"].startswith("rising")]


def test_the_refined_method_has_goals_of_its_own_and_is_no_rival():
    found = some_cells()
    found |= {Place("refined", n, r): cell(0.6, 0.5) for n in (1, 2) for r in range(2)}
    assert goals(found, (1, 2))[:5] == goals(some_cells(), (1, 2))
    refined = goals(found, (1, 2))[5:]
    assert [goal["goal"].endswith(", refined") for goal in refined] == [True] * 5
    assert refined[0]["value"] == "+30.0"


@pytest.fixture
def report(tiny_pack, methods, tmp_path) -> dict:
    run = new_run(tiny_pack, methods | {"lineargan": ClassVote()})
    return collected(run, some_cells(), Request(quick=True, out=tmp_path))


def test_rows_are_means_with_intervals(report):
    rows = {(row["method"], row["shots"]): row for row in report["rows"]}
    assert list(rows) == [("ignoring", 0), ("ours", 1), ("ours", 2), ("lineargan", 1), ("lineargan", 2)]
    ours = rows["ours", 1]
    assert ours["miou_judge"]["mean"] == pytest.approx(0.51) and ours["repeats"] == 2
    interval = ours["miou_judge"]["interval"]  # of two repeats: that over targets
    assert interval["low"] == pytest.approx(0.41) and interval["high"] == pytest.approx(0.61)
    assert "3 targets, mean of 2" in interval["over"] and ours["accuracy_judge"]["interval"] is None
    assert ours["judge_frechet_ratio"]["mean"] == 0.5
    assert report["metrics"]["few_shot_miou_judge_ours_n1_3x2"] == pytest.approx(0.51)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_intervals_of_enough_repeats_are_over_repeats(tiny_pack, methods):
    found = {Place("ignoring", 0, r): cell(0.2 + 0.01 * r, 1.0) for r in range(3)}
    (row,) = collected(new_run(tiny_pack, methods, replace(TINY, repeats=3)), found, Request())["rows"]
    interval = row["miou_judge"]["interval"]
    assert interval["over"] == "3 repeats" and interval["low"] < 0.2 < 0.22 < interval["high"] < 0.25


def test_a_rearranger_that_saw_labels_is_marked(tiny_pack_path, tmp_path, methods):
    own = shutil.copytree(tiny_pack_path, tmp_path / "own")
    rearranger = load_pack(own).rearranger()
    for weight in (0.0, 1.0):
        facts = {"command": "x", "config": {"weights": {"parts": 0.0, "part_colour": weight}}}
        write_component(
            own, REARRANGER, rearranger.state_dict(), {"kind": "rearranger", "args": rearranger.config}, facts
        )
        found = collected(new_run(load_pack(own), methods), some_cells(), Request())
        assert [HELPED in text for text in (as_text(found), page(found))] == [weight > 0] * 2


def test_the_second_rearranger_is_used_where_there_is_one(tiny_pack_path, tmp_path, methods):
    own = shutil.copytree(tiny_pack_path, tmp_path / "own")
    rearranger = load_pack(own).rearranger()
    helped = {"command": "x", "config": {"weights": {"parts": 1.0}}}
    config = {"kind": "rearranger", "args": rearranger.config}
    write_component(own, REARRANGER, rearranger.state_dict(), config, helped)
    other = {name: tensor + 1 for name, tensor in rearranger.state_dict().items()}
    write_component(own, UNLABELLED, other, config, {"command": "y", "config": {"weights": {"parts": 0.0}}})
    run = new_run(load_pack(own), methods)
    weights = [next(pack.rearranger().parameters()) for pack in (load_pack(own), run.pack)]
    assert torch.allclose(weights[0] + 1, weights[1], atol=1e-2)
    assert HELPED not in as_text(collected(run, some_cells(), Request()))


def test_a_table_with_holes_says_so(tiny_pack, methods, tmp_path):
    run = new_run(tiny_pack, methods)
    found = {place: cell(0.3, 0.5) for place in run.places()}
    assert "UNFINISHED" not in page(collected(run, found, Request()))
    del found[Place("ours", 2, 1)]
    report = collected(run, found, Request())
    assert f"UNFINISHED: {len(found)} of {len(found) + 1} cells" in page(report) and "UNFINISHED" in as_text(report)
    write_report(Outcome(report, "", page=page(report)), tmp_path)
    assert "**UNFINISHED" in results_page.write_page([tmp_path], tmp_path / "docs").read_text()


def test_quick_is_marked_everywhere(report, tmp_path, tiny_pack, methods):
    assert report["quick"] and MARK in report["notes"] and "--quick" in report["command"]
    assert MARK in as_text(report) and MARK in page(report)
    write_report(Outcome(report, "", page=page(report)), tmp_path)
    text = results_page.write_page([tmp_path], tmp_path / "docs").read_text()
    assert f"**{MARK}.**" in text and "--quick --only ours:1 --out report" in text
    slow = collected(new_run(tiny_pack, methods), some_cells(), Request())
    assert not slow["quick"] and MARK not in as_text(slow) + page(slow) + "".join(slow["notes"])
    assert "QUICK" not in results_page.few_shot_section(slow)


def test_the_page_says_where_a_baseline_wins(tiny_pack, methods):
    run = new_run(tiny_pack, methods | {"lineargan": ClassVote()})
    assert results_page.lost(collected(run, some_cells(), Request())) == []
    section = results_page.few_shot_section(collected(run, some_cells(rival=0.53), Request()))
    assert "A baseline wins: lineargan at N = 1: 53.0 against 51.0" in section
    assert "lineargan at N = 2" not in section


def test_the_papers_numbers_stand_apart(report, tmp_path):
    text = results_page.write_page([_written(report, tmp_path)], tmp_path / "docs").read_text()
    ours, theirs = text.split("## The paper's own numbers")
    assert "49.8" not in ours and "| 1 | 16.0 -> 23.8 | 17.5 -> 35.6 | 37.2 -> 49.8 |" in theirs
    assert (tmp_path / "docs/images/results-tiny.png").read_bytes().startswith(b"\x89PNG")


def _written(report: dict, folder: Path) -> Path:
    write_report(Outcome(report, "", page=page(report)), folder)
    return folder


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="not the results"):
        results_page.read_report(tmp_path)
    (tmp_path / "results.json").write_text('{"protocol": "main"}')
    with pytest.raises(InputError, match="not a report of the protocols"):
        results_page.read_report(tmp_path)


def test_the_whole_way_with_the_methods_that_do_not_train(tiny_pack, tmp_path, monkeypatch):
    monkeypatch.setattr(few_shot, "QUICK", TINY)
    request = Request(quick=True, progress=False, out=tmp_path, only=("vote", "ignoring"))
    outcome = few_shot_outcome(tiny_pack, request)
    written = {path.name for path in write_report(outcome, tmp_path)}
    assert written == {"results.json", "results.md", "few-shot-n1.png", "few-shot-n2.png"}
    assert {row["method"] for row in outcome.results["rows"]} == {"vote", "ignoring"}
    assert PROTOCOLS.keys() >= {"few-shot", "conditions"}


# ---- conditions ------------------------------------------------------------------------------------------------------


def test_agreement_is_that_of_the_samples_own_masks(tiny_pack):
    seeds = range(660_000, 660_004)
    networks = Networks.of(tiny_pack, 0.9, rearranger=False)
    mapper, condition = tiny_pack.mapper("segmentation"), get_condition("segmentation", tiny_pack.palette())
    with torch.inference_mode():
        source = networks.sources(seeds)
        x = torch.nn.functional.one_hot(parts(tiny_pack.segmenter(), networks.picture(source)), condition.channels)
        expected = (mapper(x.permute(0, 3, 1, 2).float()).argmax(dim=1) == source.labels).float().mean(dim=(1, 2))
    found = mapper_agreement(tiny_pack, "segmentation", seeds, progress=False)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_conditions_report_names_what_is_missing(tiny_pack, monkeypatch):
    monkeypatch.setattr(condition_agreement, "QUICK_SAMPLES", 4)
    lacking = {name: entry for name, entry in tiny_pack.info["files"].items() if "scribble" not in name}
    pack = Pack(tiny_pack.path, {**tiny_pack.info, "files": lacking}, tiny_pack.hash)
    outcome = condition_agreement.conditions_outcome(pack, Request(quick=True, progress=False))
    rows = {row["condition"]: row for row in outcome.results["rows"]}
    assert next(iter(rows)) == "segmentation" and rows["segmentation"]["share"]["mean"] == 1
    assert "sketch" in rows and "scribble" not in rows
    assert any("scribble: the pack has no mappers/scribble" in note for note in outcome.results["notes"])
    assert "QUICK: 4 samples" in outcome.text
    assert "| segmentation |" in outcome.page and "| segmentation |" in results_page.conditions_section(outcome.results)


def test_a_condition_whose_plugin_is_missing_is_named_and_the_others_are_measured(tiny_pack, tmp_path, monkeypatch):
    path, mapper = shutil.copytree(tiny_pack.path, tmp_path / "pack"), tiny_pack.mapper("sketch")
    write_component(path, mapper_file("edges"), mapper.state_dict(), {"kind": "mapper", "args": mapper.config}, {})
    monkeypatch.setattr(condition_agreement, "QUICK_SAMPLES", 2)
    results = condition_agreement.conditions_outcome(load_pack(path), Request(quick=True, progress=False)).results
    assert {row["condition"] for row in results["rows"]} == {"segmentation", "sketch", "scribble"}
    (note,) = (note for note in results["notes"] if note.startswith("edges"))
    assert "not measured" in note and "--plugin" in note


@pytest.mark.parametrize(
    "change, words",
    [
        ({"domain": "photos"}, "domain 'photos' is not rendered here"),
        ({"classes": ["left", "right"], "palette": [[0, 0, 0], [9, 9, 9]]}, r"parts \(left, right\) are not those of"),
    ],
)
def test_packs_without_true_masks(tiny_pack, change, words):
    pack = Pack(tiny_pack.path, {**tiny_pack.info, **change}, tiny_pack.hash)
    for measure in (evaluate_pack, partial(Quality, amounts=QUICK_AMOUNTS, progress=False)):
        with pytest.raises(InputError, match=f"{words}.*no held-out pictures"):
            measure(pack)


def test_a_mapper_that_agrees_less_has_a_smaller_share():
    agreement = {"segmentation": torch.tensor([0.8, 0.6, 0.7]), "sketch": torch.tensor([0.7, math.nan, 0.5])}
    reference, row = (condition_agreement._row(name, agreement) for name in agreement)
    assert reference["share"]["mean"] == 1 and reference["holds"] is None
    assert row["read"] == 2 and row["share"]["mean"] == pytest.approx(1.2 / 1.5) and row["holds"] is False
