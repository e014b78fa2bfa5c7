"""Evaluate a pack: which samples and renders are looked at, and one report of everything.

Seeds from 600,000 and test-split renders belong to evaluation alone: training draws its samples from other seeds and
its renders from other splits. The same pack gives the same numbers; only the times differ.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sis_rearrange import __version__
from sis_rearrange.conditions import CONDITIONS, get_condition
from sis_rearrange.domains import render_many, split_indices
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.evaluation.distance import score_distance
from sis_rearrange.evaluation.drawings import (
    HeldOut,
    drawn,
    rendered_domain,
    score_condition,
    score_judge,
    score_sources,
)
from sis_rearrange.evaluation.latency import latency_backend, score_latency, training_minutes
from sis_rearrange.evaluation.networks import NOISE_MODE, Networks
from sis_rearrange.evaluation.outcome import Outcome, Request, about, plain
from sis_rearrange.evaluation.rearrangement import MIN_PIXELS, score_colours, score_rearrangement
from sis_rearrange.evaluation.report import bound_of, failures, format_report
from sis_rearrange.pack import GENERATOR, JUDGE, PROXY, REARRANGER, Pack, mapper_file

COMPONENTS = ("rearranger", "drawings", "distance", "latency")
LATENCY_DRAWINGS = 4  # different ones, so that no cache of results can help


@dataclass(frozen=True)
class Protocol:
    """How much is looked at. Counts go into the metrics' names."""

    name: str
    samples: int = 256  # rearranged after each other's masks
    drawings: int = 200  # renders of the test split drawn in every condition
    pictures: int = 1000  # renders, plain samples and results whose distributions are compared; at least `drawings`
    timed: int = 20  # warm runs of one drawing to picture
    drawing_side: int = 256  # pixels of the drawings
    sample_seeds: int = 600_000  # the first of them
    source_seeds: int = 610_000  # the first seed of the looks that drawings are given
    psi: float = 0.9  # truncation

    def __post_init__(self) -> None:
        if not 1 <= self.drawings <= self.pictures or min(self.samples, self.pictures) < 2 or self.timed < 1:
            raise InputError(f"protocol {self.name}: needs samples >= 2, timed >= 1 and pictures >= drawings >= 1")

    def text(self) -> list[str]:
        """The protocol in words, one line for each part."""
        return [
            f"psi {self.psi:g}, noise {NOISE_MODE}; parts are seen by the pack's judge at the generator's resolution",
            f"rearranger: {self.samples} samples, seeds from {self.sample_seeds}; sample i after the proxy mask of "
            f"i + 1; colours of parts with {MIN_PIXELS} pixels or more; shuffled: sample i + {self.samples // 2}",
            f"drawings: the first {self.drawings} renders of the test split at {self.drawing_side} px, written and "
            f"read as PNG, source seeds from {self.source_seeds}; true masks at the generator's resolution",
            f"distance: judge features of {self.pictures} test renders, of results from their masks, and of plain "
            f"samples, both of seeds from {self.source_seeds}",
        ]


QUICK = Protocol("quick")
FULL = Protocol("full", samples=2048, drawings=1000, timed=100)


def evaluate_pack(
    pack: Pack,
    quick: bool = True,
    progress: bool | None = None,
    components: Collection[str] | None = None,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """Measure a pack on the CPU; returns a report that is JSON-able and that `format_report` prints.

    Args:
        quick: the protocol the bounds are stated for (minutes); otherwise the same with more of everything.
        progress: draw progress bars on stderr; None: where it is a terminal.
        components: which of ``COMPONENTS``; None for all.
        protocol: one of your own, instead of ``quick``.

    Keys: ``metrics`` (name with count -> value, None where it is undefined), ``tables``, ``passed`` by bounded metric
    and ``bounds`` as text, ``missing`` (one line for each score the pack has no network for), ``protocol``, ``pack``,
    ``hash``, ``versions``, ``seconds`` by component, ``threads``, ``backend`` (what ran the networks where the latency
    was taken; None: it was not; everything else runs on torch).

    Raises InputError for an unknown component, and where the packages that render the domain are not installed.
    """
    chosen = COMPONENTS if components is None else tuple(components)
    for name in chosen:
        if name not in COMPONENTS:
            raise InputError(f"unknown component {name!r}{nearest(name, COMPONENTS)} (known: {', '.join(COMPONENTS)})")
    evaluation = _Evaluation(pack, protocol or (QUICK if quick else FULL), progress)
    stages: dict[str, Callable[[], None]] = {
        "rearranger": evaluation.rearranger,
        "drawings": evaluation.drawings,
        "distance": evaluation.distance,
        "latency": evaluation.latency,
    }
    seconds = {}
    for name in COMPONENTS:
        if name in chosen:
            started = time.monotonic()
            stages[name]()
            seconds[name] = round(time.monotonic() - started, 1)
    report: dict[str, Any] = {
        "pack": pack.name,
        "hash": pack.hash,
        "protocol": {**asdict(evaluation.protocol), "noise_mode": NOISE_MODE, "text": evaluation.protocol.text()},
        "metrics": evaluation.metrics,
        "tables": evaluation.tables,
        "missing": evaluation.missing,
        "versions": {"sis_rearrange": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "backend": evaluation.backend,
    }
    failed = set(failures(report))
    report["bounds"] = {name: str(bound_of(name)) for name in evaluation.metrics if bound_of(name)}
    report["passed"] = {name: name not in failed for name in report["bounds"]}
    return report


def main_outcome(pack: Pack, request: Request) -> Outcome:
    """`evaluate_pack` as every protocol is run: the quick or the full amounts."""
    report = evaluate_pack(pack, request.quick, request.progress)
    amounts = report["protocol"]
    judge = pack.info["files"].get(JUDGE)
    results = about(
        pack,
        "main",
        request,
        {name: amounts[name] for name in ("samples", "drawings", "pictures", "timed")},
        f"test, the first {amounts['pictures']} renders",
        {
            "samples": (amounts["sample_seeds"], amounts["sample_seeds"] + amounts["samples"]),
            "looks": (amounts["source_seeds"], amounts["source_seeds"] + amounts["pictures"]),
        },
        {
            "judge": "float32 in [-1, 1] at the generator's resolution, no resizing",
            "drawings": f"{amounts['drawing_side']} px, written and read as PNG, area-averaged to the mapper's side",
        },
        {} if judge is None else {"judge": judge["sha256"]},
    )
    kept = ("metrics", "tables", "bounds", "passed", "missing", "seconds", "threads", "backend")
    results |= {key: report[key] for key in kept}
    results["amounts"] = {key: value for key, value in amounts.items() if key != "text"}
    results["notes"] = amounts["text"]
    return Outcome(results, format_report(report))


class _Evaluation:
    """One evaluation: what is shared between its components, and what they have found so far."""

    def __init__(self, pack: Pack, protocol: Protocol, progress: bool | None) -> None:
        self.pack, self.protocol, self.progress = pack, protocol, progress
        self.metrics: dict[str, float | None] = {}
        self.tables: dict[str, dict[str, float]] = {}
        self.missing: list[str] = []
        self.backend: str | None = None
        self.held_out = HeldOut(
            rendered_domain(pack),
            split_indices("test", protocol.pictures),
            pack.resolution,
            protocol.drawings,
            protocol.drawing_side,
            progress,
        )

    # ---- components --------------------------------------------------------------------------------------------------

    def rearranger(self) -> None:
        seeds = range(self.protocol.sample_seeds, self.protocol.sample_seeds + self.protocol.samples)
        if self._lacks("scores of the rearranger", GENERATOR, PROXY, REARRANGER):
            return
        networks = self._networks()
        self._add(len(seeds), score_rearrangement(networks, seeds, self.progress))
        if not self._lacks("colours of parts", JUDGE):
            judge, classes = self.pack.judge(), self.pack.classes
            self._add(len(seeds), *score_colours(networks, judge, classes, seeds, self.progress))

    def drawings(self) -> None:
        count, seeds = self.protocol.drawings, self._source_seeds(self.protocol.drawings)
        if self._lacks("scores of drawings", JUDGE):
            return
        judge = self.pack.judge()
        self._add(self.protocol.pictures, *score_judge(judge, self.held_out, self.progress))
        if self._lacks("the baseline of plain samples", GENERATOR, PROXY):
            return
        networks = self._networks(rearranger=False)
        self._add(count, score_sources(networks, judge, self.held_out, seeds, self.progress))
        for name in CONDITIONS:
            if self._lacks(f"{name} drawings", REARRANGER, mapper_file(name)):
                continue
            condition, mapper = get_condition(name, self.pack.palette()), self.pack.mapper(name)
            found = score_condition(self._networks(), judge, mapper, condition, self.held_out, seeds, self.progress)
            self._add(count, *found)
        self._add(count, _ratios({key.removesuffix(f"_{count}"): value for key, value in self.metrics.items()}))

    def distance(self) -> None:
        files = GENERATOR, PROXY, REARRANGER, JUDGE, mapper_file("segmentation")
        if self._lacks("judge-feature distance", *files):
            return
        mapper, condition = self.pack.mapper("segmentation"), get_condition("segmentation", self.pack.palette())
        seeds = self._source_seeds(self.protocol.pictures)
        judge, networks = self.pack.judge(), self._networks()
        found = score_distance(networks, judge, mapper, condition, self.held_out, seeds, self.progress)
        self._add(len(seeds), found)

    def latency(self) -> None:
        timed, progress = self.protocol.timed, self.progress
        indices = self.held_out.indices[:LATENCY_DRAWINGS]
        renders = render_many(self.held_out.domain, indices, self.protocol.drawing_side, workers=1)
        for name in CONDITIONS:
            if not self._lacks(f"time from {name}", GENERATOR, PROXY, REARRANGER, mapper_file(name)):
                condition = get_condition(name, self.pack.palette())
                files = [drawn(condition, *each) for each in zip(*renders, indices, strict=True)]
                self._add(timed, score_latency(self.pack, name, files, self.protocol.source_seeds, timed, progress))
                self.backend = latency_backend(self.pack)
        self._add(None, training_minutes(self.pack))

    # ---- bookkeeping -------------------------------------------------------------------------------------------------

    def _networks(self, rearranger: bool = True) -> Networks:
        return Networks.of(self.pack, self.protocol.psi, rearranger)

    def _source_seeds(self, count: int) -> range:
        return range(self.protocol.source_seeds, self.protocol.source_seeds + count)

    def _lacks(self, what: str, *files: str) -> bool:
        """Whether the pack lacks any of the files; notes what cannot be measured for it."""
        absent = [file for file in files if file not in self.pack.info["files"]]
        if absent:
            self.missing.append(f"{what}: the pack has no {', '.join(absent)}")
        return bool(absent)

    def _add(self, count: int | None, scores: Mapping[str, float], tables: Mapping[str, Any] | None = None) -> None:
        tail = "" if count is None else f"_{count}"
        self.metrics |= {f"{name}{tail}": plain(value) for name, value in scores.items()}
        self.tables |= {f"{name}{tail}": dict(table) for name, table in (tables or {}).items()}


def _ratios(scores: Mapping[str, float | None]) -> dict[str, float]:
    """The scores that are stated relative to another: drawings to samples that ignore them, lines to masks."""
    pairs = {"miou_segmentation_over_source": ("miou_judge_segmentation", "miou_judge_source")}
    for name in CONDITIONS[1:]:
        for kind in ("accuracy", "miou"):
            pairs[f"{kind}_{name}_over_segmentation"] = (f"{kind}_judge_{name}", f"{kind}_judge_segmentation")
    ratios = {}
    for title, (above, below) in pairs.items():
        value, reference = scores.get(above), scores.get(below)
        if value is not None and reference:
            ratios[title] = value / reference
    return ratios
