#!/usr/bin/env python
"""Write docs/results.md and its plots from the report folders of `sis evaluate PACK --protocol few-shot --out FOLDER`.

Reports of the protocol "conditions" may stand among them.

python benchmarks/results.py report/toonhead report/conditions --out docs
"""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import page
from pairs import markdown_table

from sis_rearrange.cli.options import OneLine
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.few_shot_report import OWN
from sis_rearrange.evaluation.outcome import RESULTS
from sis_rearrange.images import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PICTURES = "results.md", "images"
INTRO = """# Results

Written by `benchmarks/results.py` from the reports of `sis evaluate`, never by hand. A command beside a figure makes
that figure again; the ones that are done lie in the report folder and are not computed twice.
"""
LEGEND = """
*mIoU* and *accuracy* (in percent): parts that the pack's judge sees in the pictures against the drawn masks, masks from
renders that nothing was trained on. *Distance*: Fréchet distance of judge features to held-out renders, divided by that
of unconditional samples of the same seeds; smaller is better. Intervals: 95 %. All methods get the same annotated
samples, masks, seeds and generator; the annotated samples' labels come from the pack's segmenter.

**Ours was developed on these very masks** and on the annotated samples of these repeats: several of its
settings were compared there, the better ones kept. Its lead is to that extent flattered, and margins within a point
of a goal decide nothing.
"""
# "Semantic image synthesis with an unconditional generator", NeurIPS 2023: mIoU, LinearGAN and theirs, by N.
PAPER: dict[str, dict[int, tuple[float, float]]] = {
    "LSUN church": {1: (16.0, 23.8), 4: (18.0, 27.6), 8: (19.6, 28.7), 16: (20.4, 28.8)},
    "LSUN bedroom": {1: (17.5, 35.6), 4: (21.6, 44.3), 8: (21.7, 44.7), 16: (22.3, 45.7)},
    "FFHQ": {1: (37.2, 49.8), 4: (39.1, 54.3), 8: (39.4, 54.4), 16: (40.0, 56.7)},
}
PAPER_INTRO = """
## The paper's own numbers

**Not measured here, and not to be set against the figures above**: other generators, other pictures, other classes,
another judge. They are what the authors report (NeurIPS 2023, arXiv 2402.14395), mIoU of LinearGAN -> theirs:
"""


def read_report(folder: Path) -> dict[str, Any]:
    """The results in a report folder; InputError where there are none that this page can show."""
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the results of an evaluation ({error})") from None
    if not isinstance(results, dict) or results.get("protocol") not in ("few-shot", "conditions"):
        raise InputError(f"{path}: not a report of the protocols few-shot or conditions")
    return results


def command_of(results: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What computes one row of the few-shot table and nothing else."""
    quick = ["--quick"] if results["quick"] else []
    only = row["only"].removesuffix(":0")
    words = ["sis", "evaluate", results["pack"], "--protocol", "few-shot", *quick, "--only", only, "--out", "report"]
    return shlex.join(words)


def few_shot_section(results: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """Table, goals and settings of one few-shot report."""
    titles = {name: method["title"] for name, method in results["methods"].items()}
    rows = [
        [
            titles[row["method"]],
            str(row["shots"] or "any"),
            _with_interval(row["miou_judge"], 100, 1),
            _with_interval(row["accuracy_judge"], 100, 1),
            _with_interval(row["judge_frechet_ratio"], 1, 2),
            str(row["repeats"]),
            f"`{command_of(results, row)}`",
        ]
        for row in results["rows"]
    ]
    titles_of_columns = ["method", "N", "mIoU", "accuracy", "distance", "repeats", "command"]
    parts = [f"\n## {results['pack']}, {results['resolution']} px\n\n", _head(results)]
    parts += [f"![{Path(name).stem}]({name})\n\n" for name in pictures]
    parts += [markdown_table(titles_of_columns, rows), "\n\n"]
    aims = [[goal["goal"], goal["value"], "yes" if goal["holds"] else "**no**"] for goal in results["goals"]]
    if aims:
        parts += [markdown_table(["goal", "found", "holds"], aims), "\n\n"]
    parts += [f"- A baseline wins: {line}\n" for line in lost(results)]
    parts += [f"- `{name}`: {_settings(method['settings'])}\n" for name, method in results["methods"].items()]
    return "".join(parts)


def lost(results: Mapping[str, Any]) -> list[str]:
    """Where a baseline's mean mIoU reaches ours at the same N."""
    ours = {row["shots"]: row["miou_judge"]["mean"] for row in results["rows"] if row["method"] == "ours"}
    lines = []
    for row in results["rows"]:
        value = row["miou_judge"]["mean"]
        for shots, own in ours.items():
            if row["method"] not in OWN and row["shots"] in (0, shots) and None not in (value, own) and value >= own:
                lines.append(f"{row['method']} at N = {shots}: {100 * value:.1f} against {100 * own:.1f}")
    return lines


def conditions_section(results: Mapping[str, Any]) -> str:
    """Table of one report of the protocol "conditions"."""
    rows = [
        [row["condition"], _with_interval(row["agreement"], 100, 1), _with_interval(row["share"], 100, 1)]
        for row in results["rows"]
    ]
    titles = ["condition", "proxy agreement (%)", "share of segmentation's (%)"]
    notes = "".join(f"- {note}\n" for note in results["notes"])
    head = f"\n## {results['pack']}: conditions\n\n{_head(results)}"
    return f"{head}{markdown_table(titles, rows)}\n\n{notes}"


def paper_section() -> str:
    """The authors' numbers, clearly apart."""
    rows = [
        [str(shots), *(f"{table[shots][0]:.1f} -> {table[shots][1]:.1f}" for table in PAPER.values())]
        for shots in PAPER["FFHQ"]
    ]
    return f"{PAPER_INTRO}\n{markdown_table(['N', *PAPER], rows)}\n"


def _head(results: Mapping[str, Any]) -> str:
    quick = "QUICK: few targets, few repeats; a first impression"
    marks = "".join(f"**{mark}.**\n\n" for mark in results.get("marks", [quick] * bool(results["quick"])))
    counts = ", ".join(f"{name} {value}" for name, value in results["counts"].items())
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    networks = results.get("networks_hash", "")[:12]
    took_part = f", of the networks that took part `{networks}`" if networks else ""
    rests = f"Pack hash `{results['hash'][:12]}`{took_part}; {counts}; {versions}; threads {results['threads']}.\n\n"
    return f"```\n{results['command']}\n```\n\n{marks}{rests}"


def _with_interval(found: Mapping[str, Any], scale: float, digits: int) -> str:
    """A mean and its interval in brackets, where there are any."""
    mean, interval = found["mean"], found["interval"]
    if mean is None:
        return "n/a"
    text = f"{scale * mean:.{digits}f}"
    if interval is None or interval["low"] is None:
        return text
    return f"{text} ({scale * interval['low']:.{digits}f} to {scale * interval['high']:.{digits}f})"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


# ---------------------------------------------------------------- plots


def plot(results: Mapping[str, Any]) -> Figure:
    """mIoU against N, one line for each method with its intervals; dashed where N makes no difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, method) in enumerate(results["methods"].items()):
        rows = [row for row in results["rows"] if row["method"] == name and row["miou_judge"]["mean"] is not None]
        colour = f"C{number}"
        means = [100 * row["miou_judge"]["mean"] for row in rows]
        if rows and rows[0]["shots"] == 0:
            axes.axhline(means[0], color=colour, linestyle="--", linewidth=1, label=method["title"])
        elif rows:
            shots = [row["shots"] for row in rows]
            axes.plot(shots, means, "o-", color=colour, markersize=4, label=method["title"])
            spans = [(n, row["miou_judge"]["interval"]) for n, row in zip(shots, rows, strict=True)]
            for n, span in spans:
                if span is not None and span["low"] is not None:
                    axes.plot([n, n], [100 * span["low"], 100 * span["high"]], color=colour, linewidth=1.2, alpha=0.6)
    known = sorted({row["shots"] for row in results["rows"] if row["shots"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(known, [str(n) for n in known])
    axes.set_xlabel("annotated samples (N)")
    axes.set_ylabel("mIoU seen by the judge (%)")
    axes.set_ylim(bottom=0)
    quick = ", quick run" if results["quick"] else ""
    axes.set_title(f"{results['pack']}, {results['resolution']} px{quick}", fontsize=10)
    axes.legend(fontsize=7)
    return figure


def write_page(folders: Sequence[Path], out: Path) -> Path:
    """Write ``out/results.md`` and ``out/images/results-*.png``; returns the page."""
    reports = [(folder, read_report(folder)) for folder in folders]
    body = []
    for folder, results in reports:
        if results["protocol"] == "conditions":
            body.append(conditions_section(results))
            continue
        stem = "results-" + re.sub(r"[^a-z0-9]+", "-", results["pack"].lower())
        stream = io.BytesIO()
        plot(results).savefig(stream, format="png", dpi=110, metadata={"Software": None})
        files = {f"{stem}.png": stream.getvalue()}
        files |= {f"{stem}-{sheet.stem}.png": sheet.read_bytes() for sheet in sorted(folder.glob("few-shot-n1.png"))}
        for name, content in files.items():
            write_bytes(out / PICTURES / name, content)
        body.append(few_shot_section(results, [f"{PICTURES}/{name}" for name in files]))
    shown = LEGEND if any(results["protocol"] == "few-shot" for _, results in reports) else ""
    write_text(out / PAGE, "".join([INTRO, shown, *body, paper_section()]))
    return out / PAGE


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, metavar="REPORT...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/results"), help="Folder to write to.")
def main(folders: tuple[Path, ...], out: Path) -> None:
    """Write results.md and its plots from the REPORT folders of `sis evaluate --protocol few-shot` and `conditions`."""
    page.check_plotting()
    click.echo(f"wrote {write_page(folders, out)}")


if __name__ == "__main__":
    main()
