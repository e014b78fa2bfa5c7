"""``docs/benchmarks.md`` and its plots, from the figures that the scripts left in ``benchmarks.json``."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairs import ROW_TITLES, Row, markdown_table, number, row_cells, text_table

from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA, PAGE, PICTURES = "benchmarks.json", "benchmarks.md", "images"
BARS, CURVES = "benchmarks.png", "scaling.png"
INTRO = """# Benchmarks

Written from [benchmarks.json](benchmarks.json), never by hand, by the command that measures all of it:

```
python benchmarks/run.py --out docs
```

Baseline and ours take turns in one process. A ratio is the baseline's time over ours in the same round, so above 1 is
faster than the baseline: the median over the rounds, with its quartiles as *spread*. Times are medians of their own.
*Difference* is the largest difference between the two results, as a share of the range of the baseline's.

*Official arithmetic* is `benchmarks/official.py`: plain torch that does what the official implementation does where
there is no GPU, on the same weights (random ones, sizes of configuration f). A test holds it to our pictures.
"""
NOT_MEASURED = """
## What is not measured

Anything on a GPU: the CUDA kernels have not been timed. Other processors than the one named above, other thread counts,
half precision. Quality: that is what `sis evaluate` is for.
"""


def update(folder: Path, section: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Put a section of figures in ``folder/benchmarks.json`` and write page and plots anew; the whole document."""
    document = {**read(folder), section: content}
    write_text(folder / DATA, json.dumps(document, indent=1) + "\n")
    if "run" in document:
        write_bytes(folder / PICTURES / BARS, _png(bars(document["run"])))
    if "scaling" in document:
        write_bytes(folder / PICTURES / CURVES, _png(curves(document["scaling"])))
    write_text(folder / PAGE, render(document))
    return document


def read(folder: Path) -> dict[str, Any]:
    """The figures in ``folder``; empty where there are none."""
    path = folder / DATA
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the figures of a benchmark ({error}); remove it or name another --out") from None
    return document


def rows_of(run: Mapping[str, Any]) -> list[Row]:
    """All rows of a run, in the order of its works."""
    return [Row(**row) for work in run["works"].values() for row in work]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for the JSON file, values rounded to what they are worth."""
    return [rounded(asdict(row)) for row in rows]


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Four significant digits of every float."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}


# ---------------------------------------------------------------- text


def render(document: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    parts = [INTRO]
    if "run" in document:
        parts += ["\n## Against a baseline\n\n", _machine(document["run"]), "\n", _run_table(document["run"])]
        parts += [f"\n![Ratios]({PICTURES}/{BARS})\n"]
    if "scaling" in document:
        parts += ["\n## How cost grows\n\n", _machine(document["scaling"])]
        parts += [_scaling_text(document["scaling"]["tables"]), f"\n![Cost against size]({PICTURES}/{CURVES})\n"]
    return "".join([*parts, NOT_MEASURED])


def _run_table(run: Mapping[str, Any]) -> str:
    table = markdown_table(ROW_TITLES, [row_cells(row) for row in rows_of(run)]) + "\n"
    left = "".join(f"- Left out: {name} ({why})\n" for name, why in run["left_out"].items())
    return table + ("\n" + left if left else "")


def _scaling_text(tables: Mapping[str, Any]) -> str:
    """A table for each axis, what is measured said once for each subject."""
    parts, said = [], ""
    for name, table in tables.items():
        fixed = ", ".join(f"{field} {value}" for field, value in table["fixed"].items())
        parts.append(f"\n### {name[0].upper()}{name[1:]}\n")
        parts.append(f"\n{table['about']}\n" if table["about"] != said else "")
        parts.append(f"\nAt {fixed}.\n\n{scaling_table(table, markdown=True)}\n")
        said = table["about"]
    return "".join(parts)


def scaling_table(table: Mapping[str, Any], markdown: bool) -> str:
    """One table of `scaling.measure`."""
    fields = [field for field in ("baseline_mb", "ours_mb") if all(row.get(field) is not None for row in table["rows"])]
    memory = ["memory, baseline", "memory, ours"] if len(fields) == 2 else []
    titles = [table["axis"], "baseline", "ours", "ratio", "spread", *memory]
    rows = [
        [
            str(row["size"]),
            f"{number(row['baseline_ms'])} ms",
            f"{number(row['ours_ms'])} ms",
            f"{row['ratio']:.2f}",
            f"{row['low']:.2f}-{row['high']:.2f}",
            *(f"{row[field]:.1f} MB" for field in fields if memory),
        ]
        for row in table["rows"]
    ]
    return markdown_table(titles, rows) if markdown else text_table(titles, rows)


def _machine(section: Mapping[str, Any]) -> str:
    machine = section["machine"]
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in machine["versions"].items())
    quick = " **A quick run: few rounds, a first impression only.**" if section["quick"] else ""
    lines = [
        f"{machine['cpu']} ({', '.join(machine['features'])}), {machine['cores']} cores, {machine['memory_gb']} GB;",
        f"threads: {machine['threads']}; {machine['system']}; {versions}; ops: {machine['ops']}.",
        f"Measured {machine['date']}, load average {machine['load']} at the start.{quick}",
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- plots


def check_plotting() -> None:
    """InputError where matplotlib is missing: better before the measurements than after."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'sis_rearrange[bench]'") from None


def bars(run: Mapping[str, Any]) -> Figure:
    """The ratio of every row with its quartiles, on a logarithmic axis with the baseline at 1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = rows_of(run)[::-1]
    figure = Figure(figsize=(9, 1.0 + 0.2 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="#222222", linewidth=1)
    for place, row in enumerate(rows):
        colour = "#2f6da8" if row.ratio >= 1 else "#c0504d"
        axes.plot([1, row.ratio], [place, place], color=colour, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1.5)
        axes.plot(row.ratio, place, "o", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [f"{row.work}: {row.ours}" for row in rows], fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("baseline / ours: right of 1 is better; lines: quartiles")
    axes.margins(y=0.03)
    return figure


def curves(scaling: Mapping[str, Any]) -> Figure:
    """Milliseconds against size, one panel per table, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    tables = scaling["tables"]
    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * lines), layout="constrained")
    for place, (name, table) in enumerate(tables.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        sizes = [row["size"] for row in table["rows"]]
        for label in ("baseline", "ours"):
            axes.loglog(sizes, [row[f"{label}_ms"] for row in table["rows"]], marker="o", markersize=3, label=label)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(table["axis"], fontsize=8)
        axes.set_ylabel("ms", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
