"""Training of the part segmenter at toy size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sis_rearrange.domains import SPLITS, get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.training import segmenter
from sis_rearrange.training.colour_changes import AUGMENTATIONS, Augmentation, augment, hue_rotation
from sis_rearrange.training.segmenter import Renders, SegmenterConfig, train_segmenter
from sis_rearrange.unet import UNet
from sis_rearrange.weights import read_weights

TINY = {
    "resolution": 16,
    "images": 32,
    "batch": 16,
    "steps": 6,
    "widths": (8, 16),
    "validation": 4,
    "evaluate_every": 3,
    "save_every": 0.0,
    "bfloat16": False,
}


def test_roles_share_no_picture_and_touch_no_held_out_one():
    (judge, judge_seed), (segment, segment_seed) = segmenter.ROLES["judge"], segmenter.ROLES["segmenter"]
    assert judge.stop <= segment.start and judge_seed != segment_seed
    for split in ("val", "test"):
        assert segment.stop <= SPLITS[split].start


def test_writes_scored_weights_that_rebuild(tmp_path):
    path = train_segmenter("toonhead", tmp_path, "judge", SegmenterConfig(**TINY), workers=1)
    config, state = read_weights(path)
    assert path.name == "judge.safetensors" and config["kind"] == "unet" and config["role"] == "judge"
    assert config["training"]["indices"] == [0, 32] and config["resolution"] == 16
    network = UNet(**config["args"])
    network.load_state_dict(state)
    with np.load(tmp_path / "val.npz") as held_out:
        again = segmenter.score(network, Renders(held_out["pictures"], held_out["masks"]), tuple(config["classes"]))
    assert again == {key: config["metrics"][key] for key in again}
    steps = [json.loads(line)["step"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert steps == [3, 6]


def test_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    whole = train_segmenter("toonhead", tmp_path / "whole", "segmenter", SegmenterConfig(**TINY), workers=1)

    honest = segmenter.soft_dice_loss
    calls = []

    def power_cut(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(segmenter, "soft_dice_loss", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter("toonhead", tmp_path / "cut", "segmenter", SegmenterConfig(**TINY), workers=1)
    cut = train_segmenter("toonhead", tmp_path / "cut", "segmenter", SegmenterConfig(**TINY), workers=1)
    assert len(calls) == 7  # steps 1-4, the cut, steps 5 and 6: nothing was repeated
    one, two = read_weights(whole)[1], read_weights(cut)[1]
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


def test_other_settings_do_not_overwrite_a_training(tmp_path):
    train_segmenter("toonhead", tmp_path, "judge", SegmenterConfig(**TINY), workers=1)
    with pytest.raises(InputError, match="other settings"):
        train_segmenter("toonhead", tmp_path, "judge", SegmenterConfig(**(TINY | {"lr": 1e-3})), workers=1)
    with pytest.raises(InputError, match=r"other settings \(role\)"):
        train_segmenter("toonhead", tmp_path, "segmenter", SegmenterConfig(**TINY), workers=1)


def test_goes_on_from_a_packs_network_of_the_same_role(tmp_path):
    """At another resolution; far better than from nothing, which is what it is for."""
    scores, config = {}, SegmenterConfig(**(TINY | {"resolution": 32, "widths": SegmenterConfig.widths, "lr": 1e-5}))
    for source in ("", "pretrained/toonhead"):
        path = train_segmenter("toonhead", tmp_path / str(len(source)), "judge", config, workers=1, resume_from=source)
        described, _ = read_weights(path)
        scores[described["training"]["from"]] = described["metrics"]["miou"]
    assert scores["toonhead"] > scores[""] + 0.3
    with pytest.raises(InputError, match="other settings"):
        train_segmenter("toonhead", tmp_path / "0", "judge", config, workers=1, resume_from=source)
    with pytest.raises(InputError, match="--resume-from toonhead: its segmenter has widths"):
        train_segmenter("toonhead", tmp_path / "2", "segmenter", SegmenterConfig(**TINY), 1, "toonhead")
    assert not (tmp_path / "2" / "train.npz").exists()  # known before minutes of rendering
    with pytest.raises(InputError, match="its parts are not those of landscape"):
        train_segmenter("landscape", tmp_path / "3", "segmenter", config, 1, "toonhead")


def test_loss_prefers_the_truth():
    labels = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2) * 20.0
    assert segmenter.soft_dice_loss(right, labels) < 1e-3
    assert segmenter.soft_dice_loss(right.roll(1, 1), labels) > 0.5


def test_class_weights_favour_rare_classes_within_bounds():
    masks = np.zeros((1, 100, 100), np.uint8)
    masks[0, :10] = 1
    masks[0, -1, -1] = 2
    weights = segmenter.class_weights(masks, 3)
    frequency = torch.tensor([0.8999, 0.1, 0.0001])
    assert weights[0] < weights[1] < weights[2] < 6
    assert float((weights * frequency).sum()) == pytest.approx(1, abs=1e-4)


def test_augmentation_is_seeded_and_off_at_zero():
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    plain = augment(images, Augmentation(), torch.Generator().manual_seed(0))
    assert torch.allclose(plain, images, atol=1e-5)
    strong = AUGMENTATIONS["segmenter"]
    one, two, other = (augment(images, strong, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.abs().max() <= 1 and (one - images).abs().mean() > 0.02


def test_hue_rotation_keeps_grey_and_turns_red_to_green():
    turn = hue_rotation(torch.tensor([1 / 3]))[0]
    assert torch.allclose(turn @ torch.ones(3), torch.ones(3), atol=1e-5)
    assert torch.allclose(turn @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-5)


@pytest.mark.parametrize("change", [{"resolution": 15}, {"batch": 64}, {"steps": 0}, {"validation": 1001}])
def test_settings_that_contradict_each_other(change):
    with pytest.raises(InputError):
        SegmenterConfig(**(TINY | change))


def test_unknown_role(tmp_path):
    with pytest.raises(InputError, match="did you mean 'judge'"):
        train_segmenter("toonhead", tmp_path, "juge")


def test_damaged_renders_are_made_again_and_a_bad_place_is_named(tmp_path):
    domain = get_domain("toonhead")
    first = segmenter.cached_renders(domain, range(2), 16, tmp_path / "a.npz", workers=0)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    again = segmenter.cached_renders(domain, range(2), 16, tmp_path / "a.npz", workers=0)
    assert np.array_equal(first.pictures, again.pictures) and (tmp_path / "a.npz").read_bytes() == whole
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        segmenter.cached_renders(domain, range(2), 16, tmp_path / "file" / "a.npz", workers=0)
