"""The encoder: shapes, training at tiny size, and as a start of an inversion."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import SIDE

from sis_rearrange.encoder import Encoder
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.inversion import InversionConfig, invert
from sis_rearrange.inversion.prior import LatentPrior
from sis_rearrange.pack import ENCODER, load_pack
from sis_rearrange.tensors import to_uint8
from sis_rearrange.training.encoder import EncoderConfig, EncoderTraining

SCRIPT = Path(__file__).resolve().parent.parent / "train_encoder.py"
TINY = EncoderConfig(kimg=0.48, batch=16, lr=1e-2, pixels=0, widths=(8, 8), hidden=16, save_every=50)


def test_one_w_for_all_rows_in_the_priors_coordinates(tiny_pack):
    generator = tiny_pack.generator()
    prior = LatentPrior(generator, 256)
    net = Encoder(SIDE, generator.num_ws, generator.w_dim, [8], 16)
    net.mean.copy_(prior.mean)
    net.axes.copy_(prior.axes)
    ws = net(torch.zeros(3, 3, SIDE, SIDE))
    assert ws.shape == (3, generator.num_ws, generator.w_dim) and ws.unique(dim=1).shape[1] == 1
    own = sample_ws(generator, [1, 2], 1.0)
    assert torch.allclose(net.colour(prior.whiten(own)[:, 0]), own, atol=1e-3)
    with pytest.raises(ValueError, match="power of two"):
        Encoder(24, 4, 8)


def test_training_learns_and_a_step_depends_on_its_number_alone(tiny_pack):
    training = EncoderTraining(tiny_pack.generator(), TINY)
    before = training.score()
    first = training.train_step()
    while training.step < training.steps:
        training.train_step()
    assert training.score()["score/explained"] > before["score/explained"] + 0.01
    again = EncoderTraining(tiny_pack.generator(), TINY)
    assert again.train_step() == first
    assert training.grid(4).shape == (3, 2 * SIDE, 4 * SIDE)


@pytest.mark.parametrize(
    ("wrong", "name"), [(dict(kimg=0), "kimg"), (dict(pixels=-1), "pixels"), (dict(widths=()), "w")]
)
def test_settings_that_make_no_sense(wrong, name):
    with pytest.raises(InputError, match=f"--{name}"):
        EncoderConfig(**wrong)


def test_the_script_writes_the_encoder_and_inversion_uses_it(tmp_path, tiny_pack_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    path = shutil.copytree(tiny_pack_path, tmp_path / "pack")
    options = ["--kimg", "0.032", "--batch", "8", "--widths", "8,8", "--hidden", "16", "--run", str(tmp_path / "run")]
    dry = CliRunner().invoke(main, [str(path), *options, "--dry-run"])
    assert dry.exit_code == 0 and ENCODER not in load_pack(path).info["files"], dry.output
    done = CliRunner().invoke(main, [str(path), *options])
    assert done.exit_code == 0, done.output
    pack = load_pack(path)
    assert pack.info["provenance"][ENCODER]["config"]["hidden"] == 16
    picture = to_uint8(pack.generator().synthesis(sample_ws(pack.generator(), [5], 1.0)))[0]
    quick = InversionConfig(steps=1, starts=1, samples=4, tune=False, lr=1e-9, space="w")
    found = invert(pack, picture, config=quick)
    guess = pack.encoder()(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert torch.allclose(found.ws, guess[0], atol=1e-2)
    wrong = CliRunner().invoke(main, [str(path), *options, "--widths", "a"])
    assert wrong.exit_code == 2 and "whole numbers" in wrong.output
