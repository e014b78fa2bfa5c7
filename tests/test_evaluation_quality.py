"""Protocol "quality": the direction of every metric, which network looked, and that nothing is ever downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_head

from sis_rearrange.domains import get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.extractors import INCEPTION_FILE, inception_extractor, judge_extractor, set_scores
from sis_rearrange.evaluation.outcome import Outcome, Request, about, as_markdown, write_report
from sis_rearrange.evaluation.perceptual import BACKBONE_FILE, hed_distance, lpips_distance, perceptual
from sis_rearrange.evaluation.quality import Amounts, Quality, quality_outcome
from sis_rearrange.evaluation.rearrangement import MIN_PIXELS
from sis_rearrange.evaluation.style import part_textures, score_style, texture_distance
from sis_rearrange.metrics import frechet_distance
from sis_rearrange.pack import Pack, load_pack, mapper_file, write_component
from sis_rearrange.tensors import from_uint8


def pictures(count: int, noise: float = 0.0, seed: int = 0, side: int = 32) -> torch.Tensor:
    """Tiny heads in places that differ, uint8 [count, 3, side, side], with noise of so many levels."""
    rng = np.random.default_rng(seed)
    heads = np.stack([tiny_head(side, float(shift))[0] for shift in rng.uniform(-0.1, 0.1, count)])
    tinted = heads * rng.uniform(0.6, 1, (count, 1, 1, 3)) + noise * rng.standard_normal(heads.shape)
    return torch.from_numpy(tinted.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def judge(tiny_pack: Pack):
    return judge_extractor(tiny_pack.judge())


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache, with nothing in it; returns the folder of its checkpoints."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


# ---- sets ------------------------------------------------------------------------------------------------------------


def test_direction_of_set_scores(judge):
    pytest.importorskip("torch_fidelity")
    reals = judge.all([pictures(60, seed=1)])
    found = []
    for noise in (0, 20, 90):
        scores, intervals = set_scores(judge, judge.all([pictures(60, noise, seed=2)]), reals, "x")
        assert set(scores) == set(intervals) == {f"judge_{name}_x" for name in ("kid", "precision", "recall")}
        found.append(scores)
    kid, precision, recall = ([x[f"judge_{name}_x"] for x in found] for name in ("kid", "precision", "recall"))
    assert kid[0] < kid[1] < kid[2] and abs(kid[0]) < 0.2 * kid[2]
    assert precision[0] > precision[1] >= precision[2] and recall[0] > recall[2]


def test_equal_sets_are_best(judge):
    pytest.importorskip("torch_fidelity")
    features = judge.all([pictures(60)])
    scores, intervals = set_scores(judge, features, features, "x")
    assert scores["judge_precision_x"] == scores["judge_recall_x"] == 1 and scores["judge_kid_x"] <= 0
    assert intervals["judge_kid_x"].over == "10 disjoint blocks of 6"
    assert intervals["judge_recall_x"].low > 0.9 and intervals["judge_recall_x"].high == pytest.approx(1)
    assert set_scores(judge, features, features, "x") == (scores, intervals)


def test_pictures_made_after_the_real_ones_do_not_narrow_the_interval(judge):
    pytest.importorskip("torch_fidelity")
    reals = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    interval = set_scores(judge, reals + 0.01, reals, "x")[1]["judge_kid_x"]
    assert interval.low < 0 < interval.high


def test_too_few_pictures_are_refused(judge):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(ValueError, match="too few"):
        set_scores(judge, torch.rand(19, 4), torch.rand(60, 4), "x")


def test_pictures_of_another_type_are_refused(judge):
    with pytest.raises(TypeError, match="uint8"):
        judge.all([torch.rand(2, 3, 32, 32)])


def test_our_frechet_distance_is_the_librarys():
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (200, 6)), rng.normal(0.5, 2, (150, 6))
    statistics = [fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_inception_comes_from_a_file_or_not_at_all(empty_cache: Path, tmp_path: Path):
    """With random weights of the real architecture, which torchvision shares but for the size of its head."""
    pytest.importorskip("torch_fidelity")
    why = inception_extractor()
    assert isinstance(why, str) and "nothing is downloaded" in why and not empty_cache.exists()
    with pytest.raises(InputError, match="nowhere.pth"):
        inception_extractor(tmp_path / "nowhere.pth")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"other.pth: is not torch-fidelity's {INCEPTION_FILE}"):
        inception_extractor(tmp_path / "other.pth")

    from torchvision.models import inception_v3

    with torch.device("meta"):
        wanted = inception_v3(aux_logits=False, num_classes=1008, init_weights=False).state_dict()
    state = {
        name: torch.randn(value.shape, dtype=torch.float16) * 0.05
        if value.ndim > 1
        else torch.ones(value.shape, dtype=torch.float16 if value.is_floating_point() else torch.int64)
        for name, value in wanted.items()
    }
    empty_cache.mkdir(parents=True)
    torch.save(state, empty_cache / INCEPTION_FILE)
    found = inception_extractor()
    assert not isinstance(found, str) and found.prefix == "inception"
    assert "299" in found.preprocessing and len(found.sha256) == 64
    features = found.all([pictures(1)])
    assert features.shape == (1, 2048) and features.isfinite().all()


# ---- pairs -----------------------------------------------------------------------------------------------------------


def alexnet(folder: Path) -> None:
    """A file as torchvision's, with random weights."""
    from torchvision.models import alexnet as make

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    state = {name: value for name, value in make(weights=None).state_dict().items() if name.startswith("features")}
    torch.save(state, folder / BACKBONE_FILE)


def check_direction(distance) -> None:
    clean = pictures(3, side=64)
    values = [distance(pictures(3, noise, side=64), clean) for noise in (0, 10, 60)]
    assert values[0].shape == (3,) and (values[0] == 0).all()
    assert (values[0] < values[1]).all() and (values[1] < values[2]).all()
    assert distance(clean[:0], clean[:0]).shape == (0,)
    with pytest.raises(TypeError, match="range"):
        distance(clean.float() / 255, clean.float() / 255)
    with pytest.raises(ValueError, match="expected twice"):
        distance(clean, clean[:2])


def test_direction_of_the_hed_vgg_distance(empty_cache: Path):
    found, why = perceptual()
    assert found.name == "hed_vgg_distance" and why is not None and "nothing is downloaded" in why
    assert len(why.splitlines()) == 1 and not empty_cache.exists()
    check_direction(found)


@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:Arguments other than.*:UserWarning")
def test_direction_of_lpips(empty_cache: Path):
    pytest.importorskip("lpips")
    alexnet(empty_cache)
    found, why = perceptual()
    assert found.name == "lpips_alex" and why is None
    check_direction(found)
    import lpips

    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = torch.load(empty_cache / BACKBONE_FILE, weights_only=True)
    network.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()})
    a, b = pictures(2, side=64), pictures(2, 40, side=64)
    signed = [x.float() / 127.5 - 1 for x in (a, b)]
    expected = network(*signed).flatten()
    assert torch.allclose(found(a, b), expected, atol=1e-5)
    wrong = network(*(x.float() / 255 for x in (a, b))).flatten()  # the trap
    assert (wrong < 0.9 * expected).all()


def test_a_foreign_backbone_is_refused(empty_cache: Path):
    pytest.importorskip("lpips")
    empty_cache.mkdir(parents=True)
    torch.save({"features.0.weight": torch.zeros(2, 2)}, empty_cache / BACKBONE_FILE)
    with pytest.raises(InputError, match="AlexNet"):
        lpips_distance()
    assert hed_distance().name != "lpips_alex"


# ---- style -----------------------------------------------------------------------------------------------------------


def halves(images: torch.Tensor) -> torch.Tensor:
    """A judge that sees background above and skin below, whatever the picture."""
    logits = torch.zeros(images.shape[0], 10, *images.shape[2:])
    logits[:, 3, images.shape[2] // 2 :] = 1
    return logits


def test_textures_by_hand():
    images = torch.full((1, 3, 8, 8), -1.0)
    images[:, :, :4, ::2] = 1.0  # stripes above, black below
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 1
    found = part_textures(images, labels, 3)
    assert found[0, 0].tolist() == [1, 0, 0, 0]  # right and below at 1 pixel, right and below at 2
    assert found[0, 1].tolist() == [0, 0, 0, 0] and found[0, 2].isnan().all() and MIN_PIXELS <= 32
    assert texture_distance(found, found)[0, :2].tolist() == [0, 0]
    assert texture_distance(found[:, :1], found[:, 1:2]).item() == pytest.approx(0.25)


def test_direction_of_style():
    classes = get_domain("toonhead").classes
    sources = from_uint8(pictures(6).permute(0, 2, 3, 1).numpy())
    same, intervals = score_style(halves, classes, sources, sources)
    assert same["style_colour_to_source_all"] == same["style_texture_to_source_skin"] == 0
    assert same["style_colour_to_shuffled_all"] > 0.01 < same["style_texture_to_shuffled_all"] * 10
    assert intervals["style_colour_to_source_all"].over == "bootstrap over 6 pictures"
    rough = (sources + 0.4 * torch.randn(sources.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    roughened, tinted = (score_style(halves, classes, x, sources)[0] for x in (rough, sources * 0.5))
    assert roughened["style_texture_to_source_all"] > 3 * tinted["style_texture_to_source_all"] > 0
    assert tinted["style_colour_to_source_all"] > 2 * roughened["style_colour_to_source_all"] > 0


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_protocol_and_its_report(tiny_pack: Pack, tmp_path: Path, empty_cache: Path):
    pytest.importorskip("dicebear")
    pytest.importorskip("torch_fidelity")
    amounts = Amounts(pictures=24, drawings=3, pairs=4, drawing_side=64)
    outcome = quality_outcome(tiny_pack, Request(quick=True, progress=False), amounts)
    results = outcome.results
    metrics = results["metrics"]
    wanted = {"judge_kid_plain_24", "judge_recall_conditioned_24", "miou_judge_sketch_3", "accuracy_judge_scribble_3"}
    wanted |= {"style_colour_to_source_all_4", "style_texture_to_shuffled_all_4", "hed_vgg_distance_self_4"}
    assert wanted <= set(metrics) and not any(name.startswith(("inception", "lpips")) for name in metrics)
    assert set(results["intervals"]) <= set(metrics)
    assert results["counts"]["pictures"] == 24 and results["seeds"]["looks"] == [610_000, 610_024]
    assert results["hash"] == tiny_pack.hash and "test" in results["split"]
    assert "no resizing" in results["preprocessing"]["judge"] and len(results["extractors"]["hed_vgg_distance"]) == 64
    assert any("inception" in note for note in results["notes"]) and any("lpips" in note for note in results["notes"])
    again = quality_outcome(tiny_pack, Request(quick=True, progress=False), amounts)
    assert again.results == results

    written = write_report(outcome, tmp_path / "report")
    assert {path.name for path in written} == {"results.json", "results.md"}
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == json.loads(json.dumps(results))
    page = (tmp_path / "report" / "results.md").read_text()
    assert "--protocol quality --quick" in page and tiny_pack.hash in page and "`miou_judge_sketch_3`" in page


def test_a_condition_whose_plugin_is_missing_is_noted(tiny_pack: Pack, tmp_path: Path):
    pytest.importorskip("dicebear")
    path, mapper = shutil.copytree(tiny_pack.path, tmp_path / "pack"), tiny_pack.mapper("sketch")
    write_component(path, mapper_file("edges"), mapper.state_dict(), {"kind": "mapper", "args": mapper.config}, {})
    quality = Quality(load_pack(path), Amounts(pictures=2, drawings=2, pairs=2, drawing_side=64), progress=False)
    quality.layout()
    assert len(quality.notes) == 1 and quality.notes[0].startswith("edges: not judged (unknown condition 'edges'")
    assert {"miou_judge_sketch_2", "miou_judge_segmentation_2"} <= set(quality.metrics)


def test_reports_say_what_they_rest_on(tiny_pack: Pack, tmp_path: Path):
    results = about(tiny_pack, "main", Request(), {"n": 2}, "test", {"looks": range(3, 9)}, {"judge": "none"}, {})
    assert results["seeds"] == {"looks": [3, 9]}  # first, one past the last
    assert results["quick"] is False and results["command"].endswith("--protocol main --out report")
    assert "n: 2" in as_markdown(results)
    some = about(tiny_pack, "few-shot", Request(only=("ours:1", "vote")), {}, "test", {}, {}, {})
    assert some["command"].endswith("--protocol few-shot --only ours:1,vote --out report")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_report(Outcome(results, ""), tmp_path / "file")
    del results["seeds"]
    with pytest.raises(ValueError, match="lack seeds"):
        write_report(Outcome(results, ""), tmp_path / "report")
    assert not (tmp_path / "report").exists()
