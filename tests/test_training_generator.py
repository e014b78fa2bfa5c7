"""Training of generators at tiny sizes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.domains import get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.pack import DISCRIMINATOR, GENERATOR, load_pack
from sis_rearrange.tensors import from_uint8
from sis_rearrange.training.distance import judge_of
from sis_rearrange.training.generator import GeneratorConfig, GeneratorTraining
from sis_rearrange.training.growth import Networks, read_start
from sis_rearrange.training.presets import PRESETS, generator_options, mapper_options, rearranger_options
from sis_rearrange.training.run import resume, save
from sis_rearrange.training.sources import Pictures
from sis_rearrange.training.states import stored_states
from train_generator import main

ROOT = Path(__file__).resolve().parent.parent
TINY = GeneratorConfig(
    resolution=8,
    kimg=0.024,
    batch=4,
    r1_interval=2,
    path_weight=1.0,
    patch_weight=0.5,
    path_interval=3,
    ada_target=0.3,
    ada_kimg=0.05,
    noise=True,
    z_dim=8,
    w_dim=8,
    num_layers=1,
    channel_base=128,
    channel_max=8,
    save_every=3,
)
SMALL = ["--resolution", 16, "--z-dim", 8, "--w-dim", 8, "--num-layers", 1, "--channel-base", 256, "--channel-max", 8]


class Squares(Pictures):
    """Bright squares on a dark ground."""

    name, resolution = "squares", 8

    def __getitem__(self, number: int) -> np.ndarray:
        picture = np.full((8, 8, 3), 30 + number % 7, np.uint8)
        picture[2:6, 2:6] = 220 - number % 5
        return picture


def training_of(config=TINY, **more):
    return GeneratorTraining(config, Squares(), workers=0, **more)


def run_script(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def state_of(training):
    modules, optimizers = training.parts()
    tensors = [value for module in modules.values() for value in module.state_dict().values()]
    for optimizer in optimizers.values():
        slots = sorted(optimizer.state_dict()["state"].items())
        tensors += [value for _, each in slots for _, value in sorted(each.items())]
    return tensors


def test_samples_come_to_look_like_the_pictures():
    plain = replace(TINY, noise=False, ada_target=0.0, path_weight=0.0, patch_weight=0.0, mixing=0.0, r1_interval=8)
    training = training_of(replace(plain, batch=8, lr=1e-2, d_lr=1e-2, ema_kimg=0.05))
    real = from_uint8(np.stack([Squares()[number] for number in range(8)])).mean(0)

    def error():
        return (training.samples(range(16), psi=1.0).mean(0) - real).square().mean().item()

    before = error()
    for _ in range(40):
        training.train_step()
    assert error() < 0.3 * before


@pytest.mark.parametrize("change", [{}, {"precision": "bfloat16", "noise": False}, {"precision": "float16"}])
def test_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, change):
    config = replace(TINY, **change)
    whole, cut = training_of(config), training_of(config)
    for _ in range(5):
        whole.train_step()
        cut.train_step()
    save(cut, tmp_path)
    rest = training_of(config)
    assert resume(rest, tmp_path) and rest.step == 5
    for _ in range(5):
        one, two = whole.train_step(), rest.train_step()
        assert all(one[name] == two[name] for name in one if name != "waiting")
    assert all(torch.equal(a, b) for a, b in zip(state_of(whole), state_of(rest), strict=True))
    assert whole.counters() == rest.counters() and whole.adaptive.p > 0 and whole.paths.mean > 0


def test_lazy_terms_come_at_their_steps():
    training = training_of()
    steps = [training.train_step() for _ in range(6)]
    assert [step for step, stats in enumerate(steps) if "loss/r1" in stats] == [0, 2, 4]
    assert [step for step, stats in enumerate(steps) if "loss/path" in stats] == [0, 3]
    training = training_of(replace(TINY, gamma=0.0, path_weight=0.0, patch_weight=0.0))
    assert not {"loss/r1", "loss/path", "loss/patches", "loss/patch_critic"} & set(training.train_step())


def test_the_average_has_its_half_life():
    training = training_of(replace(TINY, ema_kimg=0.004, ema_rampup=0.0))  # four pictures, one step
    before = {name: value.clone() for name, value in training.ema.named_parameters()}
    training.train_step()
    now = dict(training.g.named_parameters())
    for name, mean in training.ema.named_parameters():
        assert torch.allclose(mean, (before[name] + now[name]) / 2, atol=1e-6), name
    assert torch.equal(training.ema.mapping.w_avg, training.g.mapping.w_avg)
    assert training.g.mapping.w_avg.abs().sum() > 0


def test_styles_are_mixed_and_paths_weighed():
    plain, mixed = training_of(replace(TINY, mixing=0.0)), training_of(replace(TINY, mixing=1.0))
    with torch.no_grad():
        every, rng = np.arange(TINY.batch), np.random.default_rng(0)
        one, two = (each._fakes(every, each._mixing(rng))[0] for each in (plain, mixed))
    assert not torch.allclose(one, two)
    lengths = plain._path_lengths(np.arange(2), True)
    length = plain.paths.move_mean([lengths])
    assert plain.paths.penalty(lengths).requires_grad and length == pytest.approx(lengths.mean().item())
    assert length > 0 and plain.paths.mean == pytest.approx(0.01 * length)


def test_flat_art_gets_no_noise():
    training = training_of(replace(TINY, noise=False))
    for _ in range(2):
        training.train_step()
    strengths = [value for name, value in training.g.named_parameters() if "noise_strength" in name]
    assert strengths and all(value == 0 for value in strengths)


def test_starting_from_other_networks(tiny_pack):
    start = read_start(str(tiny_pack.path))
    with pytest.raises(InputError, match="--resolution 8: the networks given are for 32 pixels"):
        training_of(start=start)
    fresh = training_of()
    again = training_of(start=Networks(fresh.g, fresh.ema, None), origin="elsewhere")
    assert again.settings()["from"] == "elsewhere"
    assert again.d.img_resolution == 8
    before = again.ema.mapping.fc0.weight.clone()
    for _ in range(2):  # the average must not hold on to what the start looked like
        again.train_step()
    now, mean = again.g.mapping.fc0.weight, again.ema.mapping.fc0.weight
    assert 0 <= (mean - now).norm() < 0.1 * (mean - before).norm()


def test_a_longer_run_goes_on_but_other_data_do_not(tmp_path):
    save(training_of(), tmp_path)
    assert resume(training_of(replace(TINY, kimg=9.0, save_every=1)), tmp_path)

    class Others(Squares):
        name = "others"

    with pytest.raises(InputError, match=r"other settings \(data\)"):
        resume(GeneratorTraining(TINY, Others(), workers=0), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 12},
        {"kimg": 0.0},
        {"mixing": 1.5},
        {"ada_target": 1.0},
        {"lr": -1.0},
        {"channel_base": 4},
        {"patch_weight": -1.0},
    ],
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError, match="^--"):
        replace(TINY, **change)


def test_judge_distance_knows_renders_from_noise(tiny_pack, tmp_path):
    domain = get_domain("toonhead")
    distance = judge_of(str(tiny_pack.path), domain, 24, 16, tmp_path / "val.npz", workers=2)
    assert distance is not None and distance.name == "score/judge_frechet_24"

    def renders(seeds):
        return from_uint8(np.stack([domain.render(seed, 32)[0] for seed in seeds]))  # larger: averaged down

    def noise(seeds):
        return torch.rand(len(seeds), 3, 16, 16, generator=torch.Generator().manual_seed(seeds.start)) * 2 - 1

    assert distance.score(renders) < 0.5 * distance.score(noise)


def test_the_script_makes_a_pack_goes_on_and_grows_it(tmp_path, tiny_pack_path):
    common = [tmp_path / "own", "--data", "toonhead", "--run", tmp_path / "run", *SMALL, "--batch", 4, "--workers", 1]
    done = run_script(*common, "--kimg", 0.008, "--save-every", 1)
    assert done.exit_code == 0, done.output
    pack = load_pack(tmp_path / "own")
    assert pack.resolution == 16 and pack.generator().img_resolution == 16 and pack.discriminator().c_dim == 0
    noted = pack.info["provenance"][GENERATOR]
    assert noted["images_seen"] == 8 and noted["data"] == {"name": "toonhead", "resolution": 16}
    assert noted["config"]["batch"] == 4 and noted["config"] == pack.info["provenance"][DISCRIMINATOR]["config"]
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())[-1] == "step-000000002.png"
    before = pack.info["files"][GENERATOR]
    done = run_script(*common, "--kimg", 0.012, "--save-every", 1)
    assert done.exit_code == 0 and "going on from step 2 of 3" in done.stderr
    assert load_pack(tmp_path / "own").info["files"][GENERATOR] != before
    # The same networks grow into a pack of twice the resolution, scored by a judge that saw larger pictures
    arguments = [tmp_path / "big", "--data", "toonhead", "--run", tmp_path / "grow", "--grow-from", tmp_path / "own"]
    arguments += ["--resolution", 32, "--kimg", 0.004, "--batch", 4, "--workers", 0, "--judge", tiny_pack_path]
    done = run_script(*arguments, "--score-samples", 4)
    assert done.exit_code == 0, done.output
    assert "score/judge_frechet_4 " in done.output
    grown = load_pack(tmp_path / "big")
    assert grown.generator().img_resolution == grown.discriminator().img_resolution == 32
    assert grown.info["provenance"][GENERATOR]["from"] == str(tmp_path / "own")
    # A run goes on when what it grew from is gone
    shutil.rmtree(tmp_path / "own")
    done = run_script(*arguments, "--score-samples", 0, "--kimg", 0.008)
    assert done.exit_code == 0 and "going on from step 1 of 2" in done.stderr, done.output


def test_a_folder_makes_a_pack_without_part_names(tmp_path, tiny_pack_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "red.png")
    common = ["--data", tmp_path / "pictures", "--run", tmp_path / "run", "--kimg", 0.004, "--batch", 4]
    done = run_script(tmp_path / "new", *common, "--resolution", 32, *SMALL[2:], "--workers", 0, "--licence", "CC0")
    assert done.exit_code == 0, done.output
    made = load_pack(tmp_path / "new")
    assert made.classes == () and made.info["domain"] == "new" and made.info["licences"][0]["licence"] == "CC0"
    shutil.rmtree(tmp_path / "run")
    own = shutil.copytree(tiny_pack_path, tmp_path / "own")
    done = run_script(own, *common, "--resolution", 32)
    assert done.exit_code == 2 and "--replace" in done.stderr
    done = run_script(own, *common, "--resolution", 32, "--replace", *SMALL[2:], "--workers", 0)
    assert done.exit_code == 0, done.output
    assert load_pack(own).info["provenance"][GENERATOR]["data"]["images"] == 1


def test_attribution_and_provenance_go_with_the_weights_that_training_starts_from(tmp_path, tiny_pack_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "pictures" / "red.png")
    common = ["--data", tmp_path / "pictures", "--run", tmp_path / "run", "--kimg", 0.004, "--batch", 4]
    common += ["--resolution", 32, "--workers", 0, "--licence", "CC0", "--credit", "me"]
    done = run_script(tmp_path / "new", *common, "--resume-from", tiny_pack_path)
    assert done.exit_code == 0, done.output
    made = load_pack(tmp_path / "new")
    own, *others = made.info["licences"]
    assert (own["licence"], own["credit"]) == ("CC0", "me")
    source = load_pack(tiny_pack_path)
    assert [each["credit"] for each in others] == [each["credit"] for each in source.info["licences"]] != []
    assert all(source.name in each["what"] for each in others)
    assert made.info["provenance"][GENERATOR]["before"] == source.info["provenance"][GENERATOR]
    # in place: repeated, the command tells of the same training before it, not of itself
    own = shutil.copytree(tmp_path / "new", tmp_path / "own")
    common[common.index("--run") + 1] = tmp_path / "again"
    for _ in range(2):
        done = run_script(own, *common, "--resume-from", own)
        assert done.exit_code == 0, done.output
        before = load_pack(own).info["provenance"][GENERATOR]["before"]
        assert before == made.info["provenance"][GENERATOR]


def test_a_terminated_script_leaves_with_the_shells_code(tmp_path):
    run = tmp_path / "run"

    def terminate():
        deadline = time.monotonic() + 60
        while not stored_states(run) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    done = run_script(tmp_path / "own", "--data", "toonhead", "--run", run, *SMALL, "--kimg", 50, "--save-every", 1)
    thread.join()
    assert done.exit_code == 143, done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stopped at step") and str(stored_states(run)[0].path) in last
    assert load_pack(tmp_path / "own").info["files"] == {}


def test_a_dry_run_shows_everything_and_writes_a_picture(tmp_path):
    done = run_script(
        tmp_path / "own", "--data", "toonhead", "--run", tmp_path / "run", *SMALL, "--dry-run", "--batch", 4
    )
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output[: done.output.index("\n}") + 2])
    assert shown["batch"] == 4 and shown["data"]["name"] == "toonhead"
    assert "G_ema: " in done.output and "memory: " in done.output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    assert not (tmp_path / "own").exists()


def test_a_dry_run_that_meets_a_bad_picture_ends(tmp_path):
    """Its workers ignore signals, so the process would wait for them for ever."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    script = [sys.executable, str(ROOT / "train_generator.py"), str(tmp_path / "own"), "--data", str(tmp_path / "data")]
    options = ["--run", str(tmp_path / "run"), *map(str, SMALL), "--workers", "1", "--dry-run"]
    done = subprocess.run([*script, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "bad.png" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "toonhed"], "did you mean 'toonhead'"),
        (["--data", "toonhead", "--fit", "crop"], "--fit crop"),
        (["--data", "toonhead", "--resume-from", "a", "--grow-from", "b"], "give one of them"),
        (["--data", "toonhead", "--resume-from", "no-such-file"], "no-such-file"),
        (["--data", "toonhead", "--preset", "ffhq255"], "did you mean 'ffhq256'"),
        (["--data", "toonhead", "--resolution", "100"], "power of two"),
        (["--data", "toonhead", "--score-samples", "1"], "--score-samples"),
    ],
)
def test_bad_options_end_with_one_line_and_code_2(tmp_path, options, message):
    done = run_script(tmp_path / "own", "--run", tmp_path / "run", *options)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.output
    assert not (tmp_path / "run").exists() and not (tmp_path / "own").exists()


def test_presets_are_defaults_that_options_beat(tmp_path):
    arguments = [tmp_path / "own", "--data", "toonhead", "--run", tmp_path / "run", "--preset", "toonhead128"]
    done = run_script(*arguments, "--batch", 2, "--dry-run", "--workers", 0)
    shown = json.loads(done.output[: done.output.index("\n}") + 2])
    assert (shown["resolution"], shown["gamma"], shown["batch"]) == (128, 1.0, 2)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name):
    preset = PRESETS[name]
    assert str(preset.resolution) in name and preset.tap < preset.resolution
    own = {field.name for field in fields(GeneratorConfig)} | {"mirror"}
    assert set(generator_options(preset)) <= own
    GeneratorConfig(**{key: value for key, value in generator_options(preset).items() if key != "mirror"})
    assert set(rearranger_options(preset)) == {"tap", "clusters", "batch", "kimg"} and mapper_options(preset)
