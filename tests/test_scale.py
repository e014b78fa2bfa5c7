"""One training by several processes, in pieces, and in other precisions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.pack import load_pack
from sis_rearrange.training.generator import GeneratorConfig, GeneratorTraining
from sis_rearrange.training.processes import Launched
from sis_rearrange.training.rearranger import LossWeights, RearrangerConfig, RearrangerTraining
from sis_rearrange.training.run import resume, run_training, save
from sis_rearrange.training.scale import Scale, cut, make_scale
from sis_rearrange.training.sources import Pictures
from sis_rearrange.training.states import completed, stored_states
from sis_rearrange.training.stopping import Lost
from sis_rearrange.weights import read_weights
from train_rearranger import main as train_rearranger_script

ROOT = Path(__file__).resolve().parent.parent
REARRANGER = RearrangerConfig(
    kimg=0.04,
    batch=8,
    own=3,
    lr=1e-2,
    width=16,
    refine_width=8,
    adversarial_after=0.008,
    r1_interval=2,
    guide_classes=6,
    guide_samples=16,
    weights=LossWeights(parts=1.0, part_colour=1.0),
)
GENERATOR = GeneratorConfig(
    resolution=16,
    kimg=0.04,
    batch=8,
    lr=5e-4,
    d_lr=5e-4,  # a step of Adam blows up gradients that are rounding alone to the rate
    r1_interval=2,
    path_weight=1.0,
    patch_weight=0.5,
    path_interval=2,
    mixing=0.5,
    ada_target=0.3,
    ada_kimg=0.05,
    noise=True,
    z_dim=8,
    w_dim=8,
    num_layers=1,
    channel_base=256,
    channel_max=8,
)
# Instance normalisation takes the mean away that this bias adds: its gradient is nothing but rounding
WITHOUT_EFFECT = ("module/net/encoder.leave.bias", "module/ema/encoder.leave.bias")


class Stripes(Pictures):
    """Stripes of a colour that follows from the number, and grain.

    Where a picture is flat, all activations of the critic of patches are equal; next to a kink, rounding decides on
    which side of it all of them are.
    """

    name, resolution = "stripes", 16

    def __getitem__(self, number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        picture = np.full((16, 16, 3), 40)
        picture[:: 2 + number % 3] = rng.integers(0, 246, 3)
        return (picture + rng.integers(0, 10, picture.shape)).astype(np.uint8)


def rearranger(pack, config: RearrangerConfig = REARRANGER) -> RearrangerTraining:
    split = SplitGenerator(pack.generator(), pack.proxy().resolution)
    return RearrangerTraining(split, pack.proxy(), pack.discriminator(), pack.segmenter(), config)


def generator(config: GeneratorConfig = GENERATOR) -> GeneratorTraining:
    return GeneratorTraining(config, Stripes(), workers=0)


def tensors_of(training) -> dict[str, torch.Tensor]:
    modules, _ = training.parts()
    return {f"module/{name}/{key}": v.clone() for name, m in modules.items() for key, v in m.state_dict().items()}


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Over all weights that have an effect."""
    assert one.keys() == two.keys()
    names = [name for name in one if name.startswith("module/") and name not in WITHOUT_EFFECT and one[name].numel()]
    return max((one[name].double() - two[name].double()).abs().max().item() for name in names)


# ---------------------------------------------------------------- pieces


@pytest.mark.parametrize(("count", "pieces", "group"), [(8, 2, 4), (12, 3, 4), (8, 4, 1), (16, 2, 3), (6, 3, 2)])
def test_pieces_share_a_batch_and_keep_groups_whole(count, pieces, group):
    every = cut(count, pieces, group)
    assert sorted(np.concatenate(every)) == list(range(count)) and len({len(at) for at in every}) == 1
    size = max(size for size in range(1, group + 1) if count % size == 0)
    whole = {frozenset(range(first, count, count // size)) for first in range(count // size)}
    assert {frozenset(at[first :: len(at) // size]) for at in every for first in range(len(at) // size)} == whole
    assert all((np.diff(at) > 0).all() for at in every)
    if group == 1:
        assert all((np.diff(at) == 1).all() for at in every)


def test_what_cannot_be_cut_is_refused_with_the_number_that_can(tiny_pack):
    with pytest.raises(InputError, match="--batch 8: cannot be cut into 4 equal pieces .*multiple of 16"):
        rearranger(tiny_pack, replace(REARRANGER, accumulate=4))
    with pytest.raises(InputError, match="--precision half"):
        replace(REARRANGER, precision="half")
    with pytest.raises(InputError, match="--accumulate 0"):
        replace(GENERATOR, accumulate=0)


@pytest.mark.parametrize("kind", ["rearranger", "generator"])
def test_two_pieces_are_one_batch(tiny_pack, kind):
    config = REARRANGER if kind == "rearranger" else GENERATOR
    make = (lambda c: rearranger(tiny_pack, c)) if kind == "rearranger" else generator
    whole, pieces = make(config), make(replace(config, accumulate=2))
    before = tensors_of(whole)
    for _ in range(4):
        one, two = whole.train_step(), pieces.train_step()
        for name in one.keys() - {"waiting"}:
            assert one[name] == pytest.approx(two[name], abs=1e-4), name
    found = largest_difference(tensors_of(whole), tensors_of(pieces))
    assert found < 1e-5 and largest_difference(tensors_of(whole), before) > 1e-4, found


def test_pieces_keep_less_for_the_way_back():
    whole, pieces = generator(), generator(replace(GENERATOR, accumulate=2))
    assert pieces.activation_bytes() < 0.6 * whole.activation_bytes()


def test_groups_of_the_discriminator_are_in_its_settings():
    training = generator(replace(GENERATOR, mbstd_group=2, accumulate=4))
    assert training.d.config["mbstd_group_size"] == training.d.b4.group_size == 2


# ---------------------------------------------------------------- precision and old states


def test_the_scale_of_losses_is_part_of_the_state(tmp_path):
    config = replace(GENERATOR, precision="float16", path_weight=0.0)
    training, again = generator(config), generator(config)
    assert training.scale.scaler is not None and again.scale.scaler is not None
    training.scale.scaler.load_state_dict(training.scale.state() | {"scale": 2.0**40})
    for _ in range(3):  # gradients overflow: no step, and half the scale
        training.train_step()
    assert training.scale.state()["scale"] < 2.0**40
    save(training, tmp_path)
    assert resume(again, tmp_path) and again.scale.state() == training.scale.state()


def test_overflow_leaves_a_step_out_and_no_end_of_it_is_divergence():
    scale = Scale(precision="float16")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for number in range(40):
        scale.backward(weight * float("inf"))
        if scale.state()["scale"] <= 2.0**-10:
            break
        assert scale.step(optimizer, number, clip=1.0) is None and weight.item() == 1
        optimizer.zero_grad()
    with pytest.raises(InputError, match=f"diverged at step {number}"):
        scale.step(optimizer, number, clip=1.0)


def test_states_from_before_an_option_existed_go_on(tiny_pack, tmp_path, monkeypatch):
    """As run folders of the last version are: other words for the precision, no term for parts."""
    config = replace(REARRANGER, precision="bfloat16", weights=LossWeights())
    old = asdict(config)
    for name in ("precision", "accumulate"):
        del old[name]
    del old["weights"]["parts"]
    training = rearranger(tiny_pack, config)
    monkeypatch.setattr(training, "settings", lambda: old | {"bfloat16": True})
    save(training, tmp_path)
    assert resume(rearranger(tiny_pack, config), tmp_path)
    with pytest.raises(InputError, match=r"other settings \(weights\)"):
        resume(rearranger(tiny_pack, replace(config, weights=LossWeights(parts=2.0))), tmp_path)
    with pytest.raises(InputError, match=r"other settings \(precision\)"):
        resume(rearranger(tiny_pack, replace(config, precision="float32")), tmp_path)
    assert completed({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


def test_commands_recorded_in_packs_still_parse(tiny_pack, tmp_path):
    for option, precision in (("--bfloat16", "bfloat16"), ("--float32", "float32"), ("--precision=float16", "float16")):
        arguments = [str(tiny_pack.path), "--run", str(tmp_path), "--batch", "4", "--guide-classes", "0", "--dry-run"]
        done = CliRunner().invoke(train_rearranger_script, [*arguments, option])
        assert done.exit_code == 0 and f'"precision": "{precision}"' in done.output, done.output


# ---------------------------------------------------------------- processes


def test_what_accelerate_was_told_is_not_passed_over(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert make_scale("cpu", "float32", 2).main
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match="starts one process"):
        make_scale("cpu", "float32", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--mixed_precision bf16: give the precision to the script"):
        make_scale("cpu", "float32", 1)
    with pytest.raises(InputError, match="--device meta:1"):
        Launched("meta:1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(InputError, match="is for one process"):
        run_training(generator(), Path("nowhere"))


def commands(folder: Path, pack: Path) -> list[list[str]]:
    """The three trainings with all their terms, a few steps each."""
    own = ["--channel-max", "8", "--channel-base", "256", "--z-dim", "8", "--w-dim", "8", "--num-layers", "1"]
    lazy = [
        "--path-weight",
        "1",
        "--path-interval",
        "2",
        "--r1-interval",
        "2",
        "--ada-target",
        "0.3",
        "--ada-kimg",
        "0.05",
    ]
    generated = [
        "--data",
        "toonhead",
        "--resolution",
        "16",
        *own,
        *lazy,
        "--noise",
        "--mixing",
        "0.5",
        "--workers",
        "0",
    ]
    classes = ["--guide-classes", "6", "--guide-samples", "16"]
    terms = ["--own", "3", "--adversarial-after", "0.008", *classes, "--parts", "1", "--part-colour", "1"]
    drawn = ["--condition", "scribble", "--batch", "12", "--cycle-batch", "8", "--natural", "0.5", "--cycle-after", "0"]
    return [
        ["train_rearranger.py", f"{pack}", "--run", f"{folder}/r", "--batch", "8", "--kimg", "0.032", *terms],
        ["train_generator.py", f"{folder}/g", "--run", f"{folder}/gr", "--batch", "8", "--kimg", "0.032", *generated],
        ["train_mapper.py", f"{pack}", "--run", f"{folder}/m", *drawn, "--kimg", "0.036", "--widths", "8,16"]
        + ["--save-every", "1"],
    ]


@pytest.fixture(scope="module")
def runs(tiny_pack_path, tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """Folders of the same trainings by one process, and by two that ``accelerate launch`` started."""
    base = tmp_path_factory.mktemp("scale")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    many = "accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --main_process_port 0"
    launch = ["-m", *many.split(), "--mixed_precision", "no", "--dynamo_backend", "no"]
    started = []
    for name, how in (("one", []), ("two", launch)):
        (base / name).mkdir()
        pack = shutil.copytree(tiny_pack_path, base / name / "pack")
        script = [str(ROOT / "tests" / "train_in_turn.py"), json.dumps(commands(base / name, pack))]
        line = [sys.executable, *how, *script]
        started.append(
            subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    for process in started:
        said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    yield base / "one", base / "two"


@pytest.mark.parametrize("run", ["r", "gr"])
def test_two_processes_are_one(runs, run):
    states = [read_weights(stored_states(folder / run)[0].path) for folder in runs]
    (one, of_one), (two, of_two) = states
    assert one["progress"]["step"] == two["progress"]["step"] == 4
    assert (one["progress"]["machine"]["processes"], two["progress"]["machine"]["processes"]) == (1, 2)
    assert largest_difference(of_one, of_two) < 1e-5
    logs = [json.loads((folder / run / "stats.jsonl").read_text().splitlines()[-1]) for folder in runs]
    for name in logs[0].keys() - {"waiting", "minutes"}:
        assert logs[0][name] == pytest.approx(logs[1][name], abs=1e-4), name


def test_two_processes_share_batch_normalisation(runs):
    """A mapper's maximum pooling decides ties on level ground by the last bit: later steps differ in more than that."""
    first, *_, last = ([s.path for s in stored_states(folder / "m")] for folder in runs)
    (_, one), (_, two) = (read_weights(paths[-1]) for paths in (first, last))
    seen = [name for name in one if "running" in name or name.endswith("exp_avg")]  # statistics, and gradients
    assert len(seen) > 20 and all((one[name] - two[name]).abs().max() < 1e-6 for name in seen)
    logs = [[json.loads(x) for x in (folder / "m" / "stats.jsonl").read_text().splitlines()] for folder in runs]
    for a, b in zip(*logs, strict=True):
        for name in ("loss/cross_entropy", "loss/cycle", "loss/natural", "batch/accuracy", "score/cross_entropy"):
            assert a[name] == pytest.approx(b[name], abs=2e-3), name


def test_the_first_process_writes_packs(runs):
    one, two = (load_pack(folder / "pack") for folder in runs)
    facts = two.info["provenance"]["rearranger.safetensors"]
    assert facts["processes"] == 2 and "processes" not in one.info["provenance"]["rearranger.safetensors"]
    a, b = (pack.rearranger().state_dict() for pack in (one, two))
    assert all((a[name] - b[name]).abs().max() < 1e-3 for name in a)  # half precision in packs
    assert len(list((runs[1] / "r").glob("events.out.tfevents.*"))) == 1


def test_a_run_of_two_processes_goes_on_in_one_and_says_so(runs, tiny_pack_path, tmp_path):
    run = shutil.copytree(runs[1] / "gr", tmp_path / "run")
    (_, script, _) = commands(tmp_path, tiny_pack_path)
    script = [str(run) if word == f"{tmp_path}/gr" else word for word in script]
    script[script.index("--kimg") + 1] = "0.040"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "train_in_turn.py"), json.dumps([script])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "going on from step 4 of 5" in done.stderr, done.stderr
    assert "processes 2 before, 1 now" in done.stderr and stored_states(run)[0].step == 5


def test_what_happens_to_one_process_ends_both_in_order(tmp_path):
    script = [sys.executable, str(ROOT / "tests" / "two_processes.py"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ended = {case["case"]: case for case in map(json.loads, done.stdout.splitlines())}
    assert ended["nothing"]["codes"] == [0, 0] and ended["nothing"]["steps"] == [6, 4, 2]
    assert ended["an error"]["codes"] == [2, 2] and ended["an error"]["steps"] == [2]
    assert ended["an error"]["said"][0][-1] == "process 2 of 2 failed: picture 7 cannot be read"
    assert ended["SIGKILL"]["codes"] == [2, -9] and "process 2 is gone" in ended["SIGKILL"]["said"][0][-1]
    assert ended["SIGTERM"]["codes"] == [143, 143] and ended["SIGTERM"]["steps"][0] == 4
    assert "stopped at step 4 of 6, saved in" in ended["SIGTERM"]["said"][0][-1]
    assert ended["NaN"]["codes"] == [2, 2] and "the last good state is" in ended["NaN"]["said"][0][-1]


def test_a_connection_that_breaks_without_a_word():
    first = SimpleNamespace(rank=0, processes=2, _timeout="a minute")
    words = r"process 2 is gone or did not answer in a minute \(RuntimeError\)"
    with pytest.raises(Lost, match=words), Launched._connected(first):
        raise RuntimeError
