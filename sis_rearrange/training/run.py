"""The loop that all trainings share: resume, step, watch, save, and leave in order when told to.

Where several processes make one training, the first one alone locks the folder, reads and writes states, scores, logs
and speaks; whether to save or to leave is agreed on after every step.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.ops import backend
from sis_rearrange.pack_files import make_folder
from sis_rearrange.training.memory import out_of_memory, saved_bytes
from sis_rearrange.training.scale import ALONE, Scale, launched
from sis_rearrange.training.states import encode_state, newest_state, put_state, stored_states, write_state
from sis_rearrange.training.stopping import Diverged, Elsewhere, Signals, Stopped, sole_user
from sis_rearrange.training.watching import Silent, Watcher, say

TICK = 60.0  # seconds between console lines
CURVE_STEPS = 20  # steps between points of the curves


class Training(ABC):
    """Networks, optimisers and counters of one run, and what one step does. A step depends on its number alone."""

    name: str  # on the console
    steps: int  # optimiser steps of the whole run
    batch: int  # images per step
    save_every: int  # steps between states, scores and image grids
    save_seconds: float = math.inf  # at most between states, where steps are too coarse a measure
    device: torch.device
    shown: tuple[str, ...] = ()  # statistics that stand in the console line
    less_memory = "--batch"  # the options that help where memory runs out
    scale: Scale = ALONE  # precision, micro-batches, other processes
    step: int = 0  # steps made so far
    seconds: float = 0.0  # spent on them, over all resumes

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-able settings that a resumed run must share."""

    def former(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a state that an earlier version may have written, in today's words: see `completed`."""
        return dict(settings)

    @abstractmethod
    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """Networks and optimisers to save, by name."""

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """Make one step, count it in ``step``, and return statistics. Raises Diverged."""

    def score(self) -> dict[str, float]:
        """Scores of the present networks, where there are any. Changes nothing."""
        return {}

    def grid(self) -> torch.Tensor | None:
        """A picture ``[3, H, W]`` in [0, 1] of how far the training is, or None. Changes nothing."""
        return None

    def first_batch(self) -> torch.Tensor | None:
        """A picture ``[3, H, W]`` in [0, 1] of what the first step sees."""
        return None

    def activation_bytes(self) -> int:
        """Bytes that one step keeps for its gradients, counted in a step that is made."""
        return saved_bytes(self.train_step, self.parts()[0].values())

    def counters(self) -> dict[str, Any]:
        """Further JSON-able state."""
        return {}

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """Take back what `counters` gave."""
        if counters:
            raise ValueError(f"{self.name} has no counters {sorted(counters)}")

    def close(self) -> None:  # noqa: B027 (most have nothing to end)
        """End worker processes."""


def save(training: Training, run: Path) -> Path:
    """Write the state of a training into a run folder; returns its path."""
    return write_state(run, training.step, encoded(training))


def encoded(training: Training) -> bytes:
    """The state of a training."""
    progress = {"step": training.step, "seconds": training.seconds, "counters": training.counters()}
    progress |= {"machine": machine(training.scale), "scaler": training.scale.state()}
    return encode_state(*training.parts(), training.settings(), progress)


def resume(training: Training, run: Path) -> bool:
    """Go on from the newest sound state of a run folder. False where there is none; errors as `put_state`.

    All processes start alike, from what the first one has; it alone knows whether that was a state.
    """
    scale, found = training.scale, False

    def state() -> bytes | None:
        nonlocal found
        data = newest_state(run, say)
        found = data is not None
        return encoded(training) if data is None and scale.processes > 1 else data

    data = scale.on_main(state)
    if not data:
        return False
    progress = put_state(data, run, *training.parts(), training.settings(), training.former)
    training.step, training.seconds = progress["step"], progress["seconds"]
    training.set_counters(progress["counters"])
    scale.set_state(progress.get("scaler", {}))
    before, now = {"processes": 1, "accumulate": 1} | progress["machine"], machine(scale)
    changed = [f"{name} {before.get(name)} before, {now[name]} now" for name in now if before.get(name) != now[name]]
    if changed and scale.main:
        say(f"{training.name}: {'; '.join(changed)}: goes on, but no longer to the bit as it would have")
    return found


def machine(scale: Scale = ALONE) -> dict[str, Any]:
    """What decides about the last bit of a sum, as far as it may change between two starts."""
    spread = {"processes": scale.processes, "accumulate": scale.accumulate}
    return {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "ops": backend()[0]} | spread


def run_training(training: Training, run: Path, tick: float = TICK) -> dict[str, float]:
    """Train, or go on with, the run in the folder ``run``; returns the scores at the end and the ``minutes`` it took.

    The folder gets ``states/`` (to resume), ``stats.jsonl``, ``samples/``, and TensorBoard events. ``tick``: seconds
    between console lines. Raises Stopped after SIGTERM or Ctrl-C, when the state is saved; Diverged with the last good
    state named; InputError for a folder that is in use or holds another run, where memory runs out, and where another
    process of the training failed. Of several processes only the first gets scores.
    """
    scale = training.scale
    if launched() and scale.processes == 1:
        raise InputError(f"the training of a {training.name} is for one process: start it without accelerate launch")
    with ExitStack() as opened:
        opened.callback(training.close)
        try:
            scale.on_main(lambda: _open(run, opened))
            signals = opened.enter_context(Signals())
            if resume(training, run) and scale.main:
                say(f"{training.name}: going on from step {training.step:,} of {training.steps:,} in {run}")
            _train(training, run, tick, signals)
        except Stopped:
            raise
        except Exception as error:  # not a second Ctrl-C, which is obeyed at once: the others notice
            scale.tell(error)
            raise
    return (training.score() if scale.main else {}) | {"minutes": training.seconds / 60}


def _open(run: Path, opened: ExitStack) -> None:
    make_folder(run)
    opened.enter_context(sole_user(run))


def _train(training: Training, run: Path, tick: float, signals: Signals) -> None:
    scale = training.scale
    watcher = Watcher(training, run, tick) if scale.main else Silent()
    saved = time.monotonic()
    try:
        while training.step < training.steps:
            # Step
            started = time.monotonic()
            stats = _checked_step(training, run)
            training.seconds += time.monotonic() - started
            step = training.step
            watcher.step(stats)

            # Save
            overdue = scale.main and time.monotonic() - saved > training.save_seconds
            leave, late = scale.agree([signals.caught or 0, int(overdue)])
            due = step % training.save_every == 0 or step == training.steps
            scores: dict[str, float] = {}
            if due or leave or late:
                scale.on_main(partial(_keep, training, run, watcher, stats, scores if due else None))
                saved = time.monotonic()

            # Show
            if due or step % CURVE_STEPS == 0:
                watcher.scalars(step, stats)
            if due or watcher.tick_due():
                watcher.tick(step, training.seconds, training.shown, scores)
            if leave and step < training.steps:
                path = stored_states(run)[0].path if scale.main else run
                where = f"stopped at step {step:,} of {training.steps:,}, saved in {path}"
                raise Stopped(f"{where}; the same command goes on from there", leave)
    finally:
        watcher.close()


def _keep(
    training: Training,
    run: Path,
    watcher: Watcher | Silent,
    stats: dict[str, float],
    scores: dict[str, float] | None,  # to be filled in, for ``stats`` too; None: nothing is scored and shown now
) -> None:
    """Save, and before that score and show the networks."""
    if scores is not None:
        scores |= training.score()
        stats |= scores | {"minutes": training.seconds / 60}
        watcher.report(training.step, stats, training.grid())
    save(training, run)


def _checked_step(training: Training, run: Path) -> dict[str, float]:
    """One step; what goes wrong in it is told in one line."""
    try:
        stats = training.train_step()
        wrong = sorted(name for name, value in stats.items() if not math.isfinite(value))
        if wrong:
            raise Diverged(f"training diverged at step {training.step}: {', '.join(wrong)} not finite; lower --lr")
        return stats
    except Elsewhere:
        raise
    except Diverged as error:
        states = stored_states(run)
        last = f"the last good state is {states[0].path}" if states else "no state was saved yet"
        raise Diverged(f"{error} and use another run folder; {last}") from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"out of memory at step {training.step}, batch {training.batch}: lower {training.less_memory}; "
            "--dry-run tells what a setting needs"
        ) from error
