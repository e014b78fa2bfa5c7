"""The few-shot protocol as a report: table of all methods and N, goals, pictures side by side."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from PIL import Image

from sis_rearrange.evaluation.cells import Cells, pieces, strip_of
from sis_rearrange.evaluation.few_shot import IN_STRIP, SPLIT, FewShotRun, Place, mean_of, quick_or_full, run_cells
from sis_rearrange.evaluation.networks import NOISE_MODE
from sis_rearrange.evaluation.outcome import Outcome, Request, about, hash_of, plain, table
from sis_rearrange.images import contact_sheet
from sis_rearrange.metrics import mean_interval
from sis_rearrange.pack import Pack

OWN = {"ours": "", "refined": ", refined"}  # methods that are ours, and what is said of them in goals
RIVAL = "lineargan"
MARGIN = 15.0  # mIoU points above LinearGAN at N = 1
FURTHEST = 1.25  # feature distance of results over that of unconditional samples
ENOUGH = 3  # repeats that an interval can rest on
HELPED = (
    "NOT FEW-SHOT: this pack's rearranger was trained with a segmenter's part labels (--parts, --part-colour), so what "
    "uses it (ours, refined, vote) rests on more annotation than its N samples; claims need `train_rearranger.py "
    "PACK --unlabelled`"
)
MARK = "QUICK: few targets, few repeats, short trainings; a first impression, not the protocol's result"


def few_shot_outcome(pack: Pack, request: Request) -> Outcome:
    """Run the protocol on a pack, or finish it; see `few_shot`. InputError as `FewShotRun`, and for odd ``only``."""
    from tqdm import tqdm

    protocol, methods = quick_or_full(request.quick)
    run = FewShotRun(pack, protocol, methods, request.progress)
    cells = Cells(request.out)
    say = None if request.progress is False else partial(tqdm.write, file=sys.stderr)
    found = run_cells(run, cells, request.only, say)
    return Outcome(
        results := collected(run, found, request), as_text(results), sheets(run, cells, found), page(results)
    )


def collected(run: FewShotRun, found: Mapping[Place, Mapping[str, Any]], request: Request) -> dict[str, Any]:
    """The results, JSON-able: what they rest on, one row for each method and N, goals, cells."""
    pack, protocol = run.pack, run.protocol
    size = f"{protocol.targets}x{protocol.samples}"
    seeds = {
        "annotated samples": (
            protocol.annotated(1, 0).start,
            protocol.annotated(max(protocol.shots), protocol.repeats - 1).stop,
        ),
        "pictures": (protocol.seeds(0).start, protocol.seeds(protocol.repeats - 1).stop),
    }
    counts = {
        "repeats": protocol.repeats,
        "targets": protocol.targets,
        "pictures for each": protocol.samples,
        "renders compared with": protocol.held_out,
    }
    looked = {"judge (scores)": hash_of(pack.judge()), "segmenter (labels of the N)": hash_of(pack.segmenter())}
    preprocessing = {
        "all": f"pictures as generated, clipped to [-1, 1], never resized; noise {NOISE_MODE}, psi {protocol.psi:g}"
    }
    results = about(pack, "few-shot", request, counts, SPLIT, seeds, preprocessing, looked)
    rows = [_row(run, found, name, shots) for name, shots in _columns(run, found)]
    results["rows"] = rows
    results["methods"] = {name: {"title": m.title, "settings": m.settings()} for name, m in run.methods.items()}
    results["cells"] = {place.name: dict(cell) for place, cell in found.items()}
    results["goals"] = goals(found, protocol.shots)
    results["resolution"] = pack.resolution
    results["networks_hash"] = run.networks_hash
    every = sum(1 for _ in run.places())
    absent = [f"UNFINISHED: {len(found)} of {every} cells are there; see how many repeats a row rests on"]
    results["marks"] = [MARK] * request.quick + absent * (len(found) < every) + [HELPED] * saw_labels(pack)
    results["notes"] += results["marks"]
    for row in rows:
        name = f"{row['method']}_n{row['shots']}" if row["shots"] else row["method"]
        for metric in ("miou_judge", "accuracy_judge", "judge_frechet", "judge_frechet_ratio"):
            results["metrics"][f"few_shot_{metric}_{name}_{size}"] = row[metric]["mean"]
            if row[metric]["interval"] is not None:
                results["intervals"][f"few_shot_{metric}_{name}_{size}"] = row[metric]["interval"]
    return results


def saw_labels(pack: Pack) -> bool:
    """Whether a pack's rearranger was trained with the terms that need annotated pictures."""
    weights = pack.info["provenance"].get(pack.rearranger_file, {}).get("config", {}).get("weights", {})
    return any(weights.get(term, 0) > 0 for term in ("parts", "part_colour"))


def _columns(run: FewShotRun, found: Mapping[Place, Any]) -> list[tuple[str, int]]:
    """(method, N) of the cells that were found, in the methods' order."""
    there = {(place.method, place.shots) for place in found}
    return [(name, n) for name in run.methods for n in (0, *run.protocol.shots) if (name, n) in there]


def _row(run: FewShotRun, found: Mapping[Place, Mapping[str, Any]], method: str, shots: int) -> dict[str, Any]:
    """What the repeats of a method at an N say together."""
    places = sorted((p for p in found if (p.method, p.shots) == (method, shots)), key=lambda place: place.repeat)
    cells = [found[place] for place in places]
    plain = [found.get(Place("ignoring", 0, place.repeat), {}).get("judge_frechet") for place in places]
    ratios = [_over(cell["judge_frechet"], below) for cell, below in zip(cells, plain, strict=True)]
    row: dict[str, Any] = {"method": method, "shots": shots, "repeats": len(places), "only": f"{method}:{shots}"}
    for name, values in {
        "miou_judge": [cell["miou"] for cell in cells],
        "accuracy_judge": [cell["accuracy"] for cell in cells],
        "judge_frechet": [cell["judge_frechet"] for cell in cells],
        "judge_frechet_ratio": ratios,
    }.items():
        row[name] = {"mean": mean_of(values), "interval": mean_interval([v for v in values if v is not None]).as_json()}
    if 0 < len(cells) < ENOUGH:  # Student's interval of two repeats says nothing: the spread over targets instead
        ends = [mean_of([cell["miou_over_targets"][end] for cell in cells]) for end in (0, 1)]
        over = f"bootstrap over {run.protocol.targets} targets, mean of {len(cells)} repeats"
        row["miou_judge"]["interval"] = {"low": ends[0], "high": ends[1], "over": over}
        for name in ("accuracy_judge", "judge_frechet", "judge_frechet_ratio"):
            row[name]["interval"] = None
    row["seconds"] = {key: mean_of([cell["seconds"][key] for cell in cells]) for key in ("fit", "synthesize")}
    return row


def _over(value: float | None, below: float | None) -> float | None:
    return plain(value / below) if value is not None and below else None


# ---- goals -----------------------------------------------------------------------------------------------------------


def goals(found: Mapping[Place, Mapping[str, Any]], shots: Sequence[int]) -> list[dict[str, Any]]:
    """What the method is meant to reach: one entry each with its value in words and whether it ``holds``.

    Only those whose cells are there, for each method of ours. Like is compared with like: a lead is the mean over
    repeats of the difference within a repeat, and whether mIoU rises with N is seen in the repeats that all N have.
    """
    return [goal for own in OWN for goal in _goals_of(own, found, shots)]


def _goals_of(own: str, found: Mapping[Place, Mapping[str, Any]], shots: Sequence[int]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []

    def add(goal: str, value: str, holds: bool) -> None:
        entries.append({"goal": goal + OWN[own], "value": value, "holds": holds})

    leads = {n: _leads(own, found, n) for n in shots}
    if RIVAL in leads.get(1, {}):
        lead = leads[1][RIVAL]
        add(f"N = 1: at least {MARGIN:g} mIoU points above LinearGAN", f"{lead:+.1f}", lead >= MARGIN)
    for n, by_method in leads.items():
        if by_method:
            nearest_rival = min(by_method, key=lambda name: by_method[name])
            lead = by_method[nearest_rival]
            add(f"N = {n}: above every baseline", f"{lead:+.1f} to {nearest_rival}", lead > 0)
    means = _shared_means(own, found, shots)
    if len(means) > 1:
        rising = all(a <= b for a, b in pairwise(means))
        add("rising with N", ", ".join(f"{100 * value:.1f}" for value in means), rising)
    ratios = [
        _over(cell["judge_frechet"], found.get(Place("ignoring", 0, place.repeat), {}).get("judge_frechet"))
        for place, cell in found.items()
        if place.method == own
    ]
    there = [ratio for ratio in ratios if ratio is not None]
    if there:
        worst = max(there)
        add(
            f"distance to held-out pictures at most {FURTHEST:g} x that of unconditional samples",
            f"{worst:.2f} x at most",
            worst <= FURTHEST,
        )
    return entries


def _shared_means(own: str, found: Mapping[Place, Mapping[str, Any]], shots: Sequence[int]) -> list[float]:
    """Mean mIoU at each N that has cells, over the repeats that all of those have: in others the samples differ."""
    mine = [(place, cell["miou"]) for place, cell in found.items() if place.method == own and cell["miou"] is not None]
    by_shots = [{place.repeat: miou for place, miou in mine if place.shots == n} for n in shots]
    known = [by_repeat for by_repeat in by_shots if by_repeat]
    shared = set[int].intersection(*map(set, known)) if known else set()
    return [sum(by_repeat[repeat] for repeat in shared) / len(shared) for by_repeat in known] if shared else []


def _leads(own: str, found: Mapping[Place, Mapping[str, Any]], shots: int) -> dict[str, float]:
    """mIoU points of a method of ours above each baseline at an N, those without shots included."""
    differences: dict[str, list[float]] = {}
    for place, cell in found.items():
        ours = found.get(Place(own, shots, place.repeat), {}).get("miou")
        if place.method not in OWN and place.shots in (0, shots) and None not in (ours, cell["miou"]):
            differences.setdefault(place.method, []).append(100 * (ours - cell["miou"]))
    return {name: sum(values) / len(values) for name, values in differences.items()}


# ---- for people ------------------------------------------------------------------------------------------------------

HEAD = ("method", "N", "mIoU", "95 % interval", "pixel accuracy", "distance / unconditional", "repeats", "training")


def cells_of(row: Mapping[str, Any], title: str) -> tuple[str, ...]:
    """A row as the columns of ``HEAD``."""
    interval = row["miou_judge"]["interval"]
    between = "n/a" if interval["low"] is None else f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"
    ratio = row["judge_frechet_ratio"]["mean"]
    return (
        title,
        str(row["shots"] or "any"),
        _points(row["miou_judge"]["mean"]),
        between,
        _points(row["accuracy_judge"]["mean"]),
        "n/a" if ratio is None else f"{ratio:.2f}",
        str(row["repeats"]),
        f"{row['seconds']['fit']:.0f} s",
    )


def _points(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f}"


def as_text(results: Mapping[str, Any]) -> str:
    """For the terminal."""
    marks = "".join(f"\n{mark}" for mark in results["marks"])
    rows = [HEAD, *(cells_of(row, row["method"]) for row in results["rows"])]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    aims = [f"{'ok  ' if aim['holds'] else 'FAIL'}  {aim['goal']}: {aim['value']}" for aim in results["goals"]]
    return "\n".join(
        [f"pack {results['pack']} ({results['hash'][:12]}), few-shot protocol{marks}", "", *lines, "", *aims]
    )


def page(results: Mapping[str, Any]) -> str:
    """``results.md``."""
    titles = {name: method["title"] for name, method in results["methods"].items()}
    lines = [
        f"# {results['pack']}: protocol few-shot{' (quick)' * results['quick']}",
        "",
        f"    {results['command']}",
        "",
    ]
    for mark in results["marks"]:
        lines += [f"**{mark}.**", ""]
    lines += table(HEAD, [cells_of(row, titles[row["method"]]) for row in results["rows"]])
    lines += ["", "## Goals", ""]
    lines += table(
        ("goal", "found", "holds"), [(g["goal"], g["value"], "yes" if g["holds"] else "no") for g in results["goals"]]
    )
    lines += ["", "## What this rests on", "", f"- pack `{results['pack']}`, hash `{results['hash']}`"]
    lines.append(f"- hash of the networks that took part: `{results['networks_hash']}`")
    for key in ("counts", "seeds", "preprocessing", "extractors", "versions"):
        lines.append(f"- {key}: " + "; ".join(f"{name}: {value}" for name, value in results[key].items()))
    lines += [f"- {name}: {method['title']}; {method['settings']}" for name, method in results["methods"].items()]
    return "\n".join(lines) + "\n"


def sheets(run: FewShotRun, cells: Cells, found: Mapping[Place, Any]) -> dict[str, bytes]:
    """A PNG for each N that a method learnt from, of the first repeat: targets on top, below them its pictures."""
    plots = {}
    for shots in run.protocol.shots:
        if not any(place.shots == shots for place in found):
            continue
        rows: list[list[Image.Image]] = []
        names: list[str] = []
        for method in run.methods:
            place = next((p for p in found if p.method == method and p.shots in (0, shots) and p.repeat == 0), None)
            strip = None if place is None else cells.strip(place.name, run.settings(place))
            if strip is not None:
                rows.append(pieces(strip))
                names.append(method)
        if not rows:
            continue
        palette = run.pack.palette()
        assert palette is not None
        drawn = pieces(strip_of(palette.to_rgb(run.targets[:IN_STRIP].numpy())))
        quick = ", quick" if run.protocol.name == "quick" else ""
        title = f"{run.pack.name}: {shots} annotated sample{'s' * (shots > 1)}{quick}"
        sheet = contact_sheet([drawn, *rows], ["target", *names], cell=96, label_columns=(), title=title)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        plots[f"few-shot-n{shots}.png"] = buffer.getvalue()
    return plots
