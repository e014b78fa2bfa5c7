"""Refinement: the parts in the picture come nearer to those drawn, what shows already stays, one look at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.conditions import get_condition
from sis_rearrange.cycle import Cycle, Looks
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import Networks, parts
from sis_rearrange.metrics import confusions, miou
from sis_rearrange.pack import SEGMENTER, Pack, load_pack
from sis_rearrange.refinement import refinement
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.targets import Result

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


@pytest.fixture(scope="module")
def toonhead() -> Pack:
    return load_pack(PRETRAINED / "toonhead")


@pytest.fixture(scope="module")
def synth(toonhead: Pack) -> Synthesizer:
    made = Synthesizer(toonhead, device="cpu", backend="torch")
    made.set_source(seed=7)
    return made


def miou_of(pack: Pack, shown: list[tuple[Result, torch.Tensor]]) -> float:
    """Between the drawn parts and those that the judge sees, a network that refinement does not know."""
    images = torch.stack([torch.from_numpy(np.array(result.image)).permute(2, 0, 1) for result, _ in shown])
    with torch.inference_mode():
        seen = parts(pack.judge(), images.float() / 127.5 - 1)
    drawn = torch.cat([parts for _, parts in shown])
    painted = drawn >= 0
    return miou(confusions(seen[painted][None, None], drawn[painted][None, None], len(pack.classes)).sum(dim=0))


@pytest.mark.parametrize("condition", ["segmentation", "scribble"])
def test_the_judge_sees_more_of_what_was_drawn(toonhead, synth, condition):
    plain, refined = [], []
    for number in (1, 2, 3, 4):
        target = synth.read(toonhead.file(f"drawings/{condition}-{number}.png"), condition)
        assert target.parts is not None
        plain.append((synth.paint(target), target.parts))
        refined.append((synth.paint(synth.refine(target, 6)), target.parts))
        before, after = plain[-1][0], refined[-1][0]
        assert after.metadata == {**before.metadata, "refine": "6"}
        assert 0 < (after.proxy_mask != before.proxy_mask).mean() < 0.4
    assert miou_of(toonhead, refined) > miou_of(toonhead, plain) + 0.03


def scene(pack: Pack) -> tuple[Cycle, torch.Tensor, Looks, torch.Tensor]:
    """Cycle, logits of two drawings, two looks, and the drawn parts."""
    networks = Networks.of(pack, 0.9)
    with torch.no_grad():
        looks = networks.sources([3, 4])
        parts_drawn = parts(pack.segmenter(), networks.picture(networks.sources([8, 9])))
        x = torch.nn.functional.one_hot(parts_drawn, len(pack.classes)).movedim(-1, 1).float()
        logits = pack.mapper("segmentation")(x)
    return Cycle(networks.split, pack.rearranger(), pack.segmenter()), logits, looks, parts_drawn


def test_samples_do_not_touch_each_other(toonhead):
    cycle, logits, looks, drawn = scene(toonhead)
    both = logits + refinement(cycle, logits, looks, drawn, steps=2)
    second = logits[1:] + refinement(cycle, logits[1:], Looks(*(x[1:] for x in looks)), drawn[1:], steps=2)
    assert torch.allclose(both[1:], second, atol=1e-2)
    assert (second.argmax(dim=1) != logits[1:].argmax(dim=1)).float().mean() > 0.05


def test_codes_that_are_there_already_change_nothing(toonhead):
    cycle, logits, looks, _ = scene(toonhead)
    with torch.no_grad():
        assert torch.equal(cycle.picture(logits, looks, cycle.codes(looks)), cycle.picture(logits, looks))


def test_what_shows_already_stays(toonhead):
    cycle, logits, looks, drawn = scene(toonhead)
    with torch.no_grad():
        shown = cycle.segmenter(cycle.picture(logits, looks).clamp(-1, 1)).argmax(dim=1)
    assert not refinement(cycle, logits, looks, shown, steps=2).any()
    shown[:, :16, :16] = (shown[:, :16, :16] + 1) % 10
    changed = refinement(cycle, logits, looks, shown, steps=1).abs().amax(dim=1) > 0
    assert changed[:, :8, :8].any() and not changed[:, 9:, :].any() and not changed[:, :, 9:].any()


def test_pixels_that_nobody_painted_ask_for_nothing(toonhead):
    cycle, logits, looks, drawn = scene(toonhead)
    drawn[:, :, 32:] = -1
    assert not refinement(cycle, logits, looks, drawn, steps=1)[..., 18:].any()
    drawn[1] = -1
    with pytest.raises(ValueError, match="painted pixels"):
        refinement(cycle, logits, looks, drawn)


def test_the_parts_of_a_condition(tiny_pack):
    palette = tiny_pack.palette()
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, 8:24, 8:24] = 3
    mask = get_condition("segmentation", palette)
    x, _ = mask.read(mask.draw(np.zeros((32, 32, 3), np.uint8), labels[0].numpy().astype(np.uint8), 0), 32)
    assert torch.equal(mask.parts(x), labels)
    strokes = np.full((32, 32, 3), 255, np.uint8)
    strokes[10:20, 10:20] = palette.colours[3]
    x, _ = get_condition("scribble", palette).read(Image.fromarray(strokes), 32)
    found = get_condition("scribble", palette).parts(x)
    assert (found[0, 10:20, 10:20] == 3).all() and (found == -1).sum() == 32 * 32 - 100
    assert get_condition("sketch", palette).parts(torch.zeros(1, 1, 32, 32)) is None


def test_each_layout_is_refined_and_looks_have_their_own(toonhead, synth):
    drawing = toonhead.file("drawings/scribble-1.png")
    target = synth.read(drawing, "scribble")
    other = Synthesizer(toonhead, "cpu", "torch").set_source(seed=12)
    here, there = synth.refine(target, 2), synth.refine(target, 2, other)
    assert here.variation is not None and there.variation is not None
    assert not torch.equal(here.variation, there.variation) and target.variation is None
    result = synth.synthesize(drawing, "scribble", samples=2, refine=2)
    assert [sample.metadata["refine"] for sample in result.samples] == ["2", "2"]
    assert result.alternatives[0].metadata["layout"].startswith("sample 2")
    once = synth.synthesize(drawing, "scribble", refine=2)
    assert np.array_equal(once.proxy_mask, result.proxy_mask)
    assert synth.refine(target, 0) is target
    with torch.inference_mode():
        inside = synth.refine(target, 2)
    assert inside.variation is not None and torch.allclose(inside.variation, here.variation, atol=1e-2)


def test_what_cannot_be_refined_is_refused(toonhead, synth, tiny_pack):
    for steps in (-1, 101, 2.5, True):
        with pytest.raises(InputError, match="whole number of steps from 0 to 100"):
            synth.synthesize(toonhead.file("drawings/segmentation-1.png"), "segmentation", refine=steps)
    for condition in ("sketch", "exemplar", "proxy"):
        with pytest.raises(InputError, match=f"'{condition}' does not say which part"):
            synth.synthesize(12, condition, refine=6)
    files = {name: entry for name, entry in tiny_pack.info["files"].items() if name != SEGMENTER}
    lacking = Synthesizer(Pack(tiny_pack.path, {**tiny_pack.info, "files": files}, tiny_pack.hash), "cpu", "torch")
    lacking.set_source(seed=1)
    target = lacking.read(tiny_pack.file("drawings/segmentation-1.png"), "segmentation")
    with pytest.raises(InputError, match="has no segmenter.safetensors"):
        lacking.refine(target, 1)
    assert target.parts is not None
    bare = replace(target, parts=torch.full_like(target.parts, -1))
    whole = Synthesizer(tiny_pack, "cpu", "torch")
    whole.set_source(seed=1)
    with pytest.raises(InputError, match="too thin"):
        whole.refine(bare, 1)


def test_the_command_refines(tiny_pack, tmp_path):
    drawing, out = str(tiny_pack.file("drawings/segmentation-1.png")), tmp_path / "out"
    command = ["synthesize", str(tiny_pack.path), "--seeds", "1-2", "--out", str(out), "--refine"]
    done = CliRunner().invoke(main, [*command, "1", "--condition", "segmentation", drawing])
    assert done.exit_code == 0 and "wrote 2 pictures" in done.output
    with Image.open(out / "segmentation-1_seed2.png") as image:
        assert image.info["refine"] == "1"
    refused = CliRunner().invoke(main, [*command, "1", "--condition", "sketch", drawing])
    assert refused.exit_code == 2 and "is for segmentation and scribble" in refused.output
