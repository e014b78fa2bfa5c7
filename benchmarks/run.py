#!/usr/bin/env python
"""Measure ours against the baselines and print one table: work, baseline, ours, ratio, spread, difference.

Then how cost grows, as `scaling.py` alone does.

python benchmarks/run.py --out docs
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import machine
import page
import scaling
import torch
from pairs import ROW_TITLES, row_cells, text_table
from works import WORKS, NotMeasured

from sis_rearrange.cli.options import OneLine
from sis_rearrange.errors import InputError, nearest

SCALING = "scaling"
VOLATILE = ("date", "load")  # of the machine's description: may differ between runs whose figures stand side by side


def keep_others(folder: Path, described: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Works measured before under the same conditions, to stand beside those of --only; InputError if they differ."""
    before = page.read(folder).get("run")
    if before is None:
        return {"works": {}, "left_out": {}}
    same = [{k: v for k, v in m.items() if k not in VOLATILE} for m in (before["machine"], described)]
    if same[0] != same[1] or before["quick"] != quick:
        raise InputError(f"{folder / page.DATA}: measured on another machine or setting; name another --out")
    return before


def chosen(only: Sequence[str]) -> list[str]:
    """The works to measure, in their order; InputError for an unknown name."""
    known = [*WORKS, SCALING]
    for name in only:
        if name not in known:
            raise InputError(f"no work is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    return [name for name in known if not only or name in only]


def measure(names: Sequence[str], quick: bool) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Rows of each work, and why others could not be measured."""
    measured, left_out = {}, {}
    for name in names:
        started = time.monotonic()
        try:
            rows = WORKS[name].measure(quick)
        except NotMeasured as error:
            left_out[name] = str(error)
            click.echo(f"{name}: left out ({error})", err=True)
            continue
        measured[name] = page.as_json(rows)
        click.echo(f"{name}: {len(rows)} rows in {time.monotonic() - started:.0f} s", err=True)
    return measured, left_out


def merged(kept: Mapping[str, Any], measured: Mapping[str, Any], left_out: Mapping[str, str]) -> dict[str, Any]:
    """What was measured now before what was kept, in the order of `WORKS`."""
    rows = {**{name: of for name, of in kept["works"].items() if name not in left_out}, **measured}
    why = {**dict.fromkeys(WORKS, "not run"), **kept["left_out"], **left_out}
    return {
        "works": {name: rows[name] for name in WORKS if name in rows},
        "left_out": {name: why[name] for name in WORKS if name not in rows},
    }


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, metavar="WORK", help=f"Of {', '.join([*WORKS, SCALING])}; may be repeated.")
@click.option("--quick", is_flag=True, help="Few rounds and nothing large: whether it works, not how fast.")
@click.option("--threads", type=click.IntRange(1), help="Threads to compute with; as torch chooses where not given.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/benchmarks"), help="Folder to write to.")
def main(only: Sequence[str], quick: bool, threads: int | None, out: Path) -> None:
    """Measure everything, about ten minutes on two cores with nothing else running, and write JSON, plots and page."""
    names = chosen(only)
    page.check_plotting()
    if threads is not None:
        torch.set_num_threads(threads)
    described = machine.describe()
    works = [name for name in names if name != SCALING]
    kept = keep_others(out, described, quick) if only and works else {"works": {}, "left_out": {}}
    minutes = sum(WORKS[name].seconds for name in works) / 60 + (scaling.MINUTES if SCALING in names else 0)
    click.echo(f"{', '.join(names)}: about {minutes / (4 if quick else 1):.1f} minutes on two idle cores")
    if described["load"] is not None and described["load"] > 0.5:
        click.echo(f"load average {described['load']}: other work is running, spreads will be wide", err=True)
    started = time.monotonic()
    if works:
        run = {"machine": described, "quick": quick, **merged(kept, *measure(works, quick))}
        page.update(out, "run", run)
        click.echo(text_table(ROW_TITLES, [row_cells(row) for row in page.rows_of(run)]))
    if SCALING in names:
        tables = scaling.measure(list(scaling.SUBJECTS), quick)
        page.update(out, "scaling", {"machine": described, "quick": quick, "tables": tables})
        click.echo(scaling.as_text(tables))
    click.echo(f"{out / page.PAGE}: written after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
