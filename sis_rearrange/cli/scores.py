"""Commands that look into a pack: its proxy masks, its scores."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.options import Commands, open_pack, pack_argument, psi_option, seeds_option
from sis_rearrange.errors import InputError

MAX_SHOWN = 400  # samples on one sheet
RECORDED = ("metrics", "passed", "versions", "seconds", "threads", "backend", "hash")  # of a report, in domain.json


@click.group(cls=Commands)
def proxy() -> None:
    """Look at the proxy masks of a pack."""


@proxy.command(epilog="\b\nExample:\n  sis proxy show toonhead --seeds 0-15 --out out/proxy.png")
@pack_argument
@seeds_option("0-15")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG file to write.")
@psi_option
def show(pack_name: str, seeds: list[int], out: Path, psi: float) -> None:
    """Draw a contact sheet of samples beside their proxy masks."""
    from tqdm import tqdm

    from sis_rearrange.images import write_png
    from sis_rearrange.sampling import metadata
    from sis_rearrange.sheets import proxy_sheet

    if len(seeds) > MAX_SHOWN:
        raise InputError(f"--seeds: {len(seeds):,} samples do not fit on one sheet; give at most {MAX_SHOWN}")
    opened = open_pack(pack_name)
    with tqdm(total=len(seeds), unit="sample", disable=None) as bar:
        sheet = proxy_sheet(opened, seeds, psi, bar.update)
    notes = {**metadata(opened, psi=psi), "seeds": ",".join(map(str, seeds))}
    write_png(out, sheet, notes)
    click.echo(f"wrote {out}")


@click.command(epilog="\b\nExamples:\n  sis evaluate toonhead --quick\n  sis evaluate toonhead --out out/scores.json")
@pack_argument
@click.option("--quick", is_flag=True, help="Fewer samples: minutes instead of an hour.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the scores.")
@click.option("--record", is_flag=True, help="Also write the scores into the pack's domain.json.")
def evaluate(pack_name: str, quick: bool, out: Path | None, record: bool) -> None:
    """Measure a pack on the test split that nothing was trained on."""
    import json

    from sis_rearrange.evaluation.protocol import evaluate_pack
    from sis_rearrange.evaluation.report import format_report
    from sis_rearrange.images import write_text
    from sis_rearrange.pack import update_info

    opened = open_pack(pack_name)
    report = evaluate_pack(opened, quick=quick)
    click.echo(format_report(report))
    if out is not None:
        write_text(out, json.dumps(report, indent=2, sort_keys=True) + "\n")
    if record:
        name = "quick" if quick else "full"
        update_info(opened.path, {"scores": {name: {key: report[key] for key in RECORDED}}})
        click.echo(f"recorded in {opened.path}")
