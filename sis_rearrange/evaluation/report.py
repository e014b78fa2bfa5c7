"""The wanted bounds, in one table, and a report for people: metric, value, bound, mark."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bound:
    """What a metric should be: at least or at most ``limit``."""

    limit: float
    at_least: bool

    def holds(self, value: float | None) -> bool:
        """Whether a value keeps it; a missing value does not."""
        if value is None or math.isnan(value):
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


def _least(limit: float) -> Bound:
    return Bound(limit, at_least=True)


def _most(limit: float) -> Bound:
    return Bound(limit, at_least=False)


# By the metric's name without its count.
BOUNDS: dict[str, Bound] = {
    # rearranger
    "proxy_agreement_other_reachable": _least(0.85),
    "proxy_reachable_cells_other": _least(0.97),
    "proxy_agreement_own": _least(0.93),
    "psnr_self_db": _least(26),
    "colour_to_source_hair": _most(0.08),
    "colour_to_source_skin": _most(0.08),
    "colour_to_source_clothes": _most(0.08),
    "colour_to_source_background": _most(0.08),
    "colour_to_source_all": _most(0.08),
    # drawings
    "accuracy_judge_segmentation": _least(0.85),
    "miou_judge_segmentation": _least(0.50),
    "miou_segmentation_over_source": _least(2.0),
    "accuracy_sketch_over_segmentation": _least(0.80),
    "miou_sketch_over_segmentation": _least(0.80),
    "accuracy_scribble_over_segmentation": _least(0.80),
    "miou_scribble_over_segmentation": _least(0.80),
    "miou_judge_renders": _least(0.90),
    # distance
    "judge_frechet_ratio": _most(1.3),
    # latency
    "latency_ms_segmentation": _most(100),
    "latency_ms_sketch": _most(100),
    "latency_ms_scribble": _most(100),
    "train_minutes_rearranger": _most(60),
    "train_minutes_mapper_segmentation": _most(15),
    "train_minutes_mapper_sketch": _most(15),
    "train_minutes_mapper_scribble": _most(15),
}


def bound_of(metric: str) -> Bound | None:
    """The bound of a metric, whose name may end in its count; None where it has none."""
    return BOUNDS.get(metric) or BOUNDS.get(re.sub(r"_\d+$", "", metric))


def failures(report: Mapping[str, Any]) -> list[str]:
    """The metrics of a report that miss their bound."""
    bounds = ((name, value, bound_of(name)) for name, value in report["metrics"].items())
    return [name for name, value, bound in bounds if bound is not None and not bound.holds(value)]


def format_report(report: Mapping[str, Any]) -> str:
    """The report of `evaluate_pack` as aligned text."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    head = f"pack {report['pack']} ({report['hash'][:12]}), {report['protocol']['name']} protocol"
    lines = [head, *(f"  {line}" for line in report["protocol"]["text"]), f"  {versions}", ""]
    lines += _aligned([("metric", "value", "wanted", ""), *_rows(report)])
    for name, table in report["tables"].items():
        cells = ", ".join(f"{key} {_number(value)}" for key, value in table.items())
        lines.append(f"{name}: {cells}")
    lines += ["", *(f"missing: {line}" for line in report["missing"])]
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    latency = f"; latency on {report['backend']}" if report.get("backend") else ""
    lines.append(f"time: {seconds} (threads: {report['threads']}{latency})")
    failed, bounded = failures(report), [name for name in report["metrics"] if bound_of(name)]
    lines.append(f"{len(bounded) - len(failed)} of {len(bounded)} bounds hold" if bounded else "no bounds to hold")
    if failed:
        lines.append(f"missed: {', '.join(failed)}")
    return "\n".join(lines)


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, value in report["metrics"].items():
        bound = bound_of(name)
        mark = "" if bound is None else "ok" if bound.holds(value) else "FAIL"
        yield name, _number(value), "" if bound is None else str(bound), mark


def _number(value: float | int | None) -> str:
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
