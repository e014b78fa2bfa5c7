"""The few-shot protocol: what a handful of annotated samples teach each method, judged alike (paper, section 4).

N annotated samples of the generator, their labels from the pack's segmenter, as the paper has it from a pretrained one;
target masks from renders of the test split; several pictures for each target. Repeats have other annotated samples and
other seeds. All methods get the same annotated samples, targets and seeds; the judge has seen none of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from sis_rearrange import __version__
from sis_rearrange.domains import render_many, split_indices
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.evaluation.baselines import Baseline, methods_for
from sis_rearrange.evaluation.cells import Cells, strip_of
from sis_rearrange.evaluation.drawings import WORKERS, by_class, rendered_domain
from sis_rearrange.evaluation.networks import bars_shown, batches, parts
from sis_rearrange.evaluation.outcome import plain
from sis_rearrange.features import sample_ws
from sis_rearrange.metrics import bootstrap, confusions, frechet_distance, miou, pixel_accuracy
from sis_rearrange.pack import DISCRIMINATOR, GENERATOR, JUDGE, PROXY, REARRANGER, SEGMENTER, Pack
from sis_rearrange.pack_files import files_hash
from sis_rearrange.tensors import from_uint8, to_uint8
from sis_rearrange.training.few_shot import Shot

SPLIT = "test"
COMMON = (GENERATOR, SEGMENTER, JUDGE)  # what every method's cells depend on
NEEDED = (*COMMON, PROXY, REARRANGER)
MOST_SHOTS = 100  # of one repeat: its seeds end where those of the next begin
IN_STRIP = 8  # pictures of a cell that people are shown
REVISION = 3  # goes up when a change of the code makes finished cells worthless


@dataclass(frozen=True)
class FewShot:
    """How much is looked at."""

    name: str = "full"
    shots: tuple[int, ...] = (1, 4, 8, 16)  # N
    repeats: int = 5
    targets: int = 100  # masks
    samples: int = 10  # pictures for each of them
    held_out: int = 1000  # renders that the results are compared with
    psi: float = 0.9  # truncation of all samples
    shot_seeds: int = 670_000  # the first; N annotated samples are the first N of 16
    sample_seeds: int = 680_000

    def __post_init__(self) -> None:
        if not self.shots or not 1 <= min(self.shots) <= max(self.shots) <= MOST_SHOTS:
            raise InputError(f"few-shot protocol: 1 to {MOST_SHOTS} annotated samples, not {self.shots}")
        if min(self.repeats, self.targets, self.samples) < 1 or min(self.pictures, self.held_out) < 2:
            raise InputError("few-shot protocol: needs a repeat, a target, two pictures and two renders or more")

    @property
    def pictures(self) -> int:
        """Pictures of a cell."""
        return self.targets * self.samples

    def seeds(self, repeat: int) -> range:
        """Of the pictures of a repeat; target after target."""
        first = self.sample_seeds + repeat * self.pictures
        return range(first, first + self.pictures)

    def annotated(self, shots: int, repeat: int) -> range:
        """Seeds of the annotated samples of a repeat. More shots hold the fewer ones."""
        first = self.shot_seeds + repeat * MOST_SHOTS
        return range(first, first + shots)


FULL = FewShot()
QUICK = FewShot("quick", shots=(1, 4), repeats=1, targets=20, samples=3, held_out=300)


class Place(NamedTuple):
    """A cell of the table."""

    method: str
    shots: int  # 0: they make no difference to the method
    repeat: int

    @property
    def name(self) -> str:
        """As files are named."""
        return f"{self.method}-n{self.shots}-r{self.repeat}"


def _fits(place: Place, choice: tuple[str, int | None, int | None]) -> bool:
    """Whether a cell is one of those chosen; None stands for any."""
    return all(wanted in (None, value) for value, wanted in zip(place, choice, strict=True))


class FewShotRun:
    """One run of the protocol on a pack: what its cells share, each made when the first cell asks for it."""

    def __init__(self, pack: Pack, protocol: FewShot, methods: dict[str, Baseline], progress: bool | None) -> None:
        absent = [file for file in NEEDED if file not in pack.info["files"]]
        if absent:
            raise InputError(f"pack {pack.name!r} has no {', '.join(absent)}, which the few-shot protocol needs")
        self.pack, self.protocol, self.methods, self.progress = pack.unlabelled(), protocol, methods, progress
        self.domain = rendered_domain(pack)
        self.networks_hash = self._hash({*NEEDED, DISCRIMINATOR})

    def _hash(self, networks: Iterable[str]) -> str:
        """Of these networks alone: what a cell's method never looks at, when it changes, makes no cell worthless."""
        listed = self.pack.info["files"]
        used = {self.pack.rearranger_file if file == REARRANGER else file for file in networks}
        return files_hash({"files": {file: listed[file] for file in used if file in listed}})

    # ---- what is looked at -------------------------------------------------------------------------------------------

    @cached_property
    def renders(self) -> tuple[np.ndarray, np.ndarray]:
        """Held-out pictures uint8 ``[N, R, R, 3]`` and true masks uint8 ``[N, R, R]``; the first are the targets."""
        count = max(self.protocol.held_out, self.protocol.targets)
        title = f"rendering {self.domain.name}" if bars_shown(self.progress) else None
        return render_many(self.domain, split_indices(SPLIT, count), self.pack.resolution, WORKERS, title)

    @property
    def targets(self) -> torch.Tensor:
        """Masks int64 ``[targets, R, R]``."""
        return torch.from_numpy(self.renders[1][: self.protocol.targets]).long()

    @cached_property
    def held_out(self) -> np.ndarray:
        """Judge features ``[held_out, F]`` of the renders."""
        pictures, judge = self.renders[0][: self.protocol.held_out], self.pack.judge()
        with torch.inference_mode():
            found = [judge.features(from_uint8(pictures[at])) for at in batches(len(pictures), "renders", False)]
        return torch.cat(found).numpy()

    def shots(self, count: int, repeat: int) -> list[Shot]:
        """Annotated samples: the generator's pictures, parts as the pack's segmenter sees them."""
        generator, segmenter, found = self.pack.generator(), self.pack.segmenter(), []
        for seed in self.protocol.annotated(max(count, 1), repeat):  # one by one: their number changes no bit of them
            with torch.no_grad():
                ws = sample_ws(generator, [seed], self.protocol.psi)
                labels = parts(segmenter, generator.synthesis(ws).clamp(-1, 1))
            found.append(Shot(ws[0], labels[0]))
        return found

    # ---- cells -------------------------------------------------------------------------------------------------------

    def places(self, only: Sequence[str] = ()) -> Iterator[Place]:
        """All cells, or those of ``only``: methods, each alone, or with its shots and repeat as in "lineargan:1:0"."""
        wanted = [self._parse(text) for text in only]
        for repeat in range(self.protocol.repeats):
            for at, shots in enumerate(self.protocol.shots):
                for name, method in self.methods.items():
                    if not method.learns and at:
                        continue
                    place = Place(name, shots if method.learns else 0, repeat)
                    if not wanted or any(_fits(place, choice) for choice in wanted):
                        yield place

    def _parse(self, text: str) -> tuple[str, int | None, int | None]:
        """Method, shots and repeat; None for all of them."""
        method, *numbers = text.split(":")
        if method not in self.methods:
            raise InputError(
                f"--only {text}: unknown method{nearest(method, self.methods)} (there are {', '.join(self.methods)})"
            )
        shots, repeat = (*numbers, "", "")[:2]
        known = [str(n) for n in (self.protocol.shots if self.methods[method].learns else (0,))]
        if shots and shots not in known:
            raise InputError(f"--only {text}: this protocol has {method} with {', '.join(known)} annotated samples")
        last = self.protocol.repeats - 1
        if len(numbers) > 2 or (repeat and repeat not in map(str, range(last + 1))):
            raise InputError(f"--only {text}: after method and annotated samples comes a repeat, 0 to {last}")
        return method, int(shots) if shots else None, int(repeat) if repeat else None

    def settings(self, place: Place) -> dict[str, Any]:
        """Everything that makes a difference to a cell."""
        method = self.methods[place.method]
        fixed = {key: value for key, value in asdict(self.protocol).items() if key not in ("name", "shots", "repeats")}
        return {
            **place._asdict(),
            "protocol": fixed,
            "settings": method.settings(),
            "networks": self._hash({*COMMON, *method.networks}),
            "version": __version__,
            "revision": REVISION,
        }

    def compute(self, place: Place) -> tuple[dict[str, Any], np.ndarray]:
        """Results of a cell, JSON-able, and its strip of pictures."""
        method, protocol = self.methods[place.method], self.protocol
        started = time.monotonic()
        method.fit(self.pack, self.shots(place.shots, place.repeat), place.repeat, self.progress)
        fitted = time.monotonic()
        seeds, masks = protocol.seeds(place.repeat), self.targets.repeat_interleave(protocol.samples, 0)
        judge, classes = self.pack.judge(), self.domain.classes
        matrices, features, kept = [], [], []
        for at in batches(len(seeds), place.name, self.progress):
            pictures = method.synthesize(masks[at], seeds[at])
            with torch.inference_mode():
                matrices.append(confusions(parts(judge, pictures), masks[at], len(classes)))
                features.append(judge.features(pictures))
            kept += [to_uint8(pictures)[i] for i, n in enumerate(range(at.start, at.stop)) if n % protocol.samples == 0]
        finished = time.monotonic()
        of_targets = torch.cat(matrices).reshape(protocol.targets, protocol.samples, len(classes), -1).sum(dim=1)
        seconds = {"fit": max(fitted - started, method.fit_seconds), "synthesize": finished - fitted}
        whole = of_targets.sum(dim=0)
        interval = bootstrap(of_targets, miou, what="targets")
        results = {
            "miou": plain(miou(whole)),
            "accuracy": plain(pixel_accuracy(whole)),
            "miou_over_targets": [plain(interval.low), plain(interval.high)],
            "judge_frechet": plain(frechet_distance(torch.cat(features).numpy(), self.held_out)),
            "iou": by_class(whole, classes),
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "threads": torch.get_num_threads(),
        }
        return results, strip_of(np.stack(kept[:IN_STRIP]))


def run_cells(
    run: FewShotRun, cells: Cells, only: Sequence[str] = (), say: Callable[[str], None] | None = None
) -> dict[Place, dict[str, Any]]:
    """Results of all cells that are there in the end: those of ``only`` are computed where ``cells`` lacks them.

    ``say`` gets one line about each cell that was computed.
    """
    places, wanted = list(run.places()), set(run.places(only))
    found = {}
    for number, place in enumerate(places, start=1):
        settings = run.settings(place)
        results = cells.find(place.name, settings)
        if results is None and place not in wanted:
            continue
        if results is None:
            results, strip = run.compute(place)
            cells.keep(place.name, settings, results, strip)
            if say is not None:
                took = sum(results["seconds"].values())
                say(f"{number}/{len(places)} {place.name}: mIoU {100 * (results['miou'] or 0):.1f} in {took:.0f} s")
        found[place] = results
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None for nothing."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def quick_or_full(quick: bool) -> tuple[FewShot, dict[str, Baseline]]:
    """The protocol and the methods at the settings that belong to it."""
    protocol = QUICK if quick else FULL
    return protocol, methods_for(quick, protocol.psi)
