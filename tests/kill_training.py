"""Kill a training at random moments and in the middle of saves, go on, and hold the end against an undisturbed one.

    python tests/kill_training.py --kills 200

A tiny generator training with all its state (average, optimisers, augmentation, path length) is forked, ended with
SIGKILL, and started again until it is through; then weights, optimisers, counters and the log must be those of a run
that nobody disturbed, bit for bit. Every second kill waits for a save to be under way.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch

from sis_rearrange.training.generator import GeneratorConfig, GeneratorTraining
from sis_rearrange.training.run import run_training
from sis_rearrange.training.sources import Pictures
from sis_rearrange.training.states import stored_states
from sis_rearrange.weights import read_weights

CONFIG = GeneratorConfig(
    resolution=8,
    kimg=0.048,
    batch=4,
    r1_interval=3,
    path_weight=1.0,
    patch_weight=0.5,
    path_interval=2,
    ada_target=0.3,
    ada_kimg=0.05,
    z_dim=8,
    w_dim=8,
    num_layers=1,
    channel_base=64,
    channel_max=8,
    save_every=1,
)
TIMED = {"minutes", "waiting"}  # statistics that are about time


class Checks(Pictures):
    """Coloured squares that follow from the number."""

    name, resolution, endless = "checks", 8, True

    def __getitem__(self, number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        picture = np.full((8, 8, 3), rng.integers(0, 256, 3), np.uint8)
        picture[2:6, 2:6] = rng.integers(0, 256, 3)
        return picture


def train(run: Path) -> None:
    """The training that is killed."""
    run_training(GeneratorTraining(CONFIG, Checks(), workers=0), run, tick=1e9)


def forked(run: Path) -> int:
    """The training in a process of its own, quiet; returns its id. Its exit code is 0 when it got to the end."""
    child = os.fork()
    if child:
        return child
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if "KILL_TRAINING_LOUD" not in os.environ:
            os.dup2(quiet, 2)
        train(run)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def ended(child: int) -> int | None:
    """The exit code (or minus the signal) of a process, None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], dict, list[dict]]:
    """Weights and optimisers of the last state, its counters, and the log without times."""
    config, tensors = read_weights(stored_states(run)[0].path)
    log = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    progress = {key: value for key, value in config["progress"].items() if key != "seconds"}
    return tensors, progress, [{k: v for k, v in line.items() if k not in TIMED} for line in log]


def differences(run: Path, reference: Path) -> list[str]:
    """What is not the same in two runs."""
    (one, progress, log), (two, other_progress, other_log) = outcome(run), outcome(reference)
    wrong = sorted(name for name in {*one, *two} if name not in one or not torch.equal(one[name], two[name]))
    wrong += ["counters"] if progress != other_progress else []
    return wrong + (["stats.jsonl"] if log != other_log else [])


def being_saved(run: Path) -> bool:
    """Whether a state is being written right now."""
    try:
        return any(name.endswith(".tmp") for name in os.listdir(run / "states"))
    except FileNotFoundError:
        return False


def kill_somewhere(child: int, run: Path, rng: random.Random, longest: float, in_save: bool) -> tuple[int | None, bool]:
    """Kill the process after a random while, or in the next save; returns its exit code and whether a save was cut."""
    until = time.monotonic() + rng.uniform(0, longest)
    while (code := ended(child)) is None and time.monotonic() < until:
        time.sleep(0.001)
    until += longest if in_save else 0  # a save that takes less than a look may slip through
    while code is None and time.monotonic() < until and not being_saved(run):
        code = ended(child)
    if code is None:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
    return code, being_saved(run)


@click.command()
@click.option("--kills", default=200, show_default=True, help="How often to kill.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(kills: int, seed: int) -> None:
    """Kill, go on, compare; exit code 1 where anything differs."""
    import torch.utils.tensorboard  # once here instead of in every process

    torch.set_num_threads(1)
    rng, folder = random.Random(seed), Path(tempfile.mkdtemp(prefix="kill-training-"))
    started = time.monotonic()
    reference = forked(folder / "whole")
    if os.waitstatus_to_exitcode(os.waitpid(reference, 0)[1]) != 0:
        raise click.ClickException("the undisturbed training failed; KILL_TRAINING_LOUD=1 shows why")
    longest = time.monotonic() - started

    killed = cut = runs = 0
    while killed < kills:
        run = folder / f"run{runs}"
        code: int | None = -signal.SIGKILL
        while code != 0:
            child = forked(run)
            if killed < kills:
                code, saving = kill_somewhere(child, run, rng, longest, in_save=killed % 2 == 1)
            else:
                code, saving = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), False
            killed, cut = killed + (code == -signal.SIGKILL), cut + saving
            longest *= 0.8 if code == 0 else 1.1  # about as many are to end by themselves as not
            if code not in (0, -signal.SIGKILL):
                raise click.ClickException(f"the training failed after {killed} kills, see {run}")
        if wrong := differences(run, folder / "whole"):
            raise click.ClickException(f"after {killed} kills {run} differs in {', '.join(wrong)}")
        runs += 1
        shutil.rmtree(run)
    shutil.rmtree(folder)
    click.echo(f"{killed} kills, {cut} of them in the middle of a save, {runs} runs, all equal to the bit")


if __name__ == "__main__":
    main()
