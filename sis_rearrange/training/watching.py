"""What a training shows: one console line per tick, ``stats.jsonl``, TensorBoard scalars and image grids."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from sis_rearrange.images import write_png, write_text
from sis_rearrange.tensors import to_uint8
from sis_rearrange.training.memory import peak_memory
from sis_rearrange.training.scale import is_main

STATS = "stats.jsonl"


def say(line: str) -> None:
    """One line on stderr, above the progress bar."""
    tqdm.write(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """`1:02:03` or `02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def write_grid(path: Path, grid: torch.Tensor) -> None:
    """Write a picture ``[3, H, W]`` in [0, 1] as PNG."""
    write_png(path, to_uint8(grid[None] * 2 - 1)[0])


class Progress(Protocol):
    """What a watcher asks of a training."""

    name: str
    steps: int
    batch: int
    step: int
    seconds: float
    device: torch.device


class Watcher:
    """Log, console and TensorBoard of one run, from its present step on; what an earlier try logged beyond it goes."""

    def __init__(self, training: Progress, run: Path, every: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.every, self.device = run, every, training.device.type
        self.steps, self.batch, step = training.steps, training.batch, training.step
        self._lines = _kept_lines(run / STATS, step)
        write_text(run / STATS, "".join(self._lines))
        self._writer = SummaryWriter(str(run), purge_step=step)
        self._bar = tqdm(
            total=self.steps, initial=step, desc=training.name, unit="step", dynamic_ncols=True, disable=None
        )
        self._since, self._from, self._spent = time.monotonic(), training.step, training.seconds
        self._sums: dict[str, list[float]] = {}  # of statistics since the last tick: sum and count

    def close(self) -> None:
        """End the bar and the log."""
        self._bar.close()
        self._writer.close()

    def step(self, stats: Mapping[str, float]) -> None:
        """One step was made, with these statistics."""
        self._bar.update()
        for name, value in stats.items():
            total = self._sums.setdefault(name, [0.0, 0])
            total[0], total[1] = total[0] + value, total[1] + 1

    def tick_due(self) -> bool:
        """Whether a console line is due."""
        return time.monotonic() - self._since >= self.every

    def tick(self, step: int, seconds: float, shown: Sequence[str], scores: Mapping[str, float]) -> None:
        """Write the console line: how far, how fast, how long, how large, and ``shown`` scores and means since then."""
        spent = max(seconds - self._spent, 1e-9)  # on steps: scores and saves say nothing about speed
        speed = (step - self._from) * self.batch / spent
        left = (self.steps - step) * self.batch
        line = f"step {step:,} of {self.steps:,}  kimg {step * self.batch / 1000:.2f} of {self.kimg:.2f}  "
        if speed > 0:
            line += f"{speed:.1f} images/s  {duration(left / speed)} to go  "
        line += f"{peak_memory(self.device) / 2**30:.2f} GiB"
        values = {name: total / count for name, (total, count) in self._sums.items()} | dict(scores)
        say("  ".join([line, *(f"{name.split('/')[-1]} {values[name]:.3g}" for name in shown if name in values)]))
        self._since, self._from, self._spent = time.monotonic(), step, seconds
        self._sums.clear()

    @property
    def kimg(self) -> float:
        """Thousands of images of the whole run."""
        return self.steps * self.batch / 1000

    def scalars(self, step: int, stats: Mapping[str, float]) -> None:
        """Curves."""
        for name, value in stats.items():
            self._writer.add_scalar(name, value, step)

    def report(self, step: int, stats: Mapping[str, float], grid: torch.Tensor | None) -> None:
        """A line in the log, and the picture ``[3, H, W]`` in [0, 1] where there is one."""
        if grid is not None:
            self._writer.add_image("samples", grid, step)
            write_grid(self.run / "samples" / f"step-{step:09d}.png", grid)
        self._lines.append(json.dumps({name: round(value, 5) for name, value in stats.items()} | {"step": step}) + "\n")
        write_text(self.run / STATS, "".join(self._lines))


class Silent:
    """The watcher of a process that has another one to speak for it."""

    def close(self) -> None:
        """Nothing."""

    def step(self, stats: Mapping[str, float]) -> None:
        """Nothing."""

    def tick_due(self) -> bool:
        """Never."""
        return False

    def tick(self, step: int, seconds: float, shown: Sequence[str], scores: Mapping[str, float]) -> None:
        """Nothing."""

    def scalars(self, step: int, stats: Mapping[str, float]) -> None:
        """Nothing."""

    def report(self, step: int, stats: Mapping[str, float], grid: torch.Tensor | None) -> None:
        """Nothing."""


def progress_bar(total: int, desc: str, unit: str = "sample") -> tqdm:
    """A bar on stderr where that is a terminal, in the process that speaks."""
    return tqdm(total=total, desc=desc, unit=unit, dynamic_ncols=True, disable=None if is_main() else True)


def _kept_lines(path: Path, step: int) -> list[str]:
    """The log's lines up to ``step``: later ones are about steps that are made again."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    return kept
