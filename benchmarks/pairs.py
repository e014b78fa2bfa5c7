"""Timing that holds up on a machine with other work: contenders take turns in one process, ratios are formed per round.

A slow spell hits all contenders of a round alike, so a ratio survives what a time does not. The spread says how far.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]
WARM_UP = 2  # rounds before the clock counts: allocator, thread pools, primitives chosen for the shape


class NotMeasured(Exception):
    """A work cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a piece of work done by the baseline and by us."""

    work: str
    baseline: str  # what the baseline is
    ours: str  # what ours is
    baseline_value: float  # median over the rounds
    ours_value: float
    ratio: float  # of times, baseline / ours, median over the rounds: above 1 is better than the baseline
    low: float  # quartiles of the ratio
    high: float
    rounds: int
    unit: str = "ms"  # of the two values: ms, MB, images/s, or % of the time
    difference: float | None = None  # largest difference of the two results, as a share of the baseline's range


def time_rounds(contenders: Mapping[str, Call], rounds: int, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """Seconds of each contender in each of ``rounds`` rounds; every other round runs backwards, so that none is first.

    The garbage collector is off meanwhile.
    """
    if rounds < 1 or not contenders:
        raise ValueError("nothing to time: at least one contender and one round")
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for at in range(-warm_up, rounds):
            for name in names if at % 2 == 0 else reversed(names):
                started = time.perf_counter()
                contenders[name]()
                elapsed = time.perf_counter() - started
                if at >= 0:
                    seconds[name].append(elapsed)
    finally:
        if collecting:
            gc.enable()
    return seconds


def fewer(rounds: int, quick: bool) -> int:
    """Rounds of a quick run: a quarter, but two at least."""
    return max(2, rounds // 4) if quick else rounds


def compare(
    work: str,
    contenders: Mapping[str, Call],  # the first is the baseline
    rounds: int,
    warm_up: int = WARM_UP,
    differences: Mapping[str, float] | None = None,  # of contenders, see `largest_difference`
) -> list[Row]:
    """One row for each contender but the first, against the first."""
    seconds = time_rounds(contenders, rounds, warm_up)
    baseline, *others = contenders
    return [
        row_of(work, baseline, seconds[baseline], name, seconds[name], difference=(differences or {}).get(name))
        for name in others
    ]


def row_of(
    work: str,
    baseline: str,
    baseline_seconds: Sequence[float],
    ours: str,
    our_seconds: Sequence[float],
    difference: float | None = None,
) -> Row:
    """The row of paired measurements, in milliseconds."""
    ratios = [a / b for a, b in zip(baseline_seconds, our_seconds, strict=True)]
    low, middle, high = quartiles(ratios)
    theirs, mine = (1000 * statistics.median(values) for values in (baseline_seconds, our_seconds))
    return Row(work, baseline, ours, theirs, mine, middle, low, high, len(ratios), "ms", difference)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; of a single value, that value thrice."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def largest_difference(result: torch.Tensor, baseline: torch.Tensor) -> float:
    """Largest absolute difference as a share of the baseline's range: largest minus smallest value, or the only one."""
    if result.shape != baseline.shape:
        raise ValueError(f"results of shapes {list(result.shape)} and {list(baseline.shape)} cannot be compared")
    worst = float((result - baseline).abs().max())
    spread = float(baseline.max() - baseline.min()) or float(baseline.abs().max())
    return worst / spread if spread > 0 else worst


# ---------------------------------------------------------------- tables


def number(value: float) -> str:
    """Three significant digits, without an exponent from 1000 on: 0.0123, 1.23, 12.3, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def row_cells(row: Row) -> list[str]:
    """Work, baseline, ours, ratio, spread, largest difference: the cells of a row as text."""
    return [
        row.work,
        f"{row.baseline}: {number(row.baseline_value)} {row.unit}",
        f"{row.ours}: {number(row.ours_value)} {row.unit}",
        f"{row.ratio:.2f}",
        f"{row.low:.2f}-{row.high:.2f}" if row.rounds > 1 else "",
        "" if row.difference is None else f"{row.difference:.0e}",
    ]


ROW_TITLES = ("work", "baseline", "ours", "ratio", "spread", "difference")


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces, for a terminal."""
    lines = [list(titles), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (titles, *rows)]
    return "\n".join([lines[0], "|---" * len(titles) + "|", *lines[1:]])
