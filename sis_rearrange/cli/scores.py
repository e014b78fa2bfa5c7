"""Commands that look into a pack: its proxy masks, its scores."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.options import Commands, open_pack, own_conditions, pack_argument, psi_option, seeds_option
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


@click.command(
    epilog="\b\nExamples:\n  sis evaluate toonhead --quick\n  sis evaluate toonhead --out out/scores.json\n"
    "  sis evaluate toonhead --protocol quality --out report"
)
@pack_argument
@click.option("--protocol", default="main", show_default=True, help="What is measured: see docs/metrics.md.")
@click.option("--quick", is_flag=True, help="Fewer samples: minutes instead of an hour.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report; or a .json file for the scores.")
@click.option("--record", is_flag=True, help="Also write the scores of protocol main into the pack's domain.json.")
@click.option(
    "--inception", type=click.Path(path_type=Path), help="Inception's weights, for FID (torch-fidelity's file)."
)
@click.option("--only", default="", help="Parts of protocol few-shot: METHOD[:N[:REPEAT]], such as ours,vote:1.")
@own_conditions
def evaluate(
    pack_name: str, protocol: str, quick: bool, out: Path | None, record: bool, inception: Path | None, only: str
) -> None:
    """Measure a pack on samples and renders that nothing was trained on."""
    import json

    from sis_rearrange.evaluation.outcome import Request, write_report
    from sis_rearrange.evaluation.protocols import get_protocol
    from sis_rearrange.images import write_text
    from sis_rearrange.pack import update_info

    run = get_protocol(protocol)
    if record and protocol != "main":
        raise InputError(f"--record: keeps the scores of protocol main, not of {protocol}; use --out")
    for option, value, user in (("--inception", inception, "quality"), ("--only", only, "few-shot")):
        if value and protocol != user:
            raise InputError(f"{option}: is for protocol {user}, not {protocol}; leave it out")
    file = out is not None and out.suffix.lower() == ".json"
    if out is not None and not file and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder for the report")
    opened = open_pack(pack_name)
    parts = tuple(part.strip() for part in only.split(",") if part.strip())
    outcome = run(opened, Request(quick, inception=inception, out=None if file else out, only=parts))
    click.echo(outcome.text)
    if out is not None and file:
        write_text(out, json.dumps(outcome.results, indent=2, sort_keys=True) + "\n")
    elif out is not None:
        for path in write_report(outcome, out):
            click.echo(f"wrote {path}")
    if record:
        name = "quick" if quick else "full"
        update_info(opened.path, {"scores": {name: {key: outcome.results[key] for key in RECORDED}}})
        click.echo(f"recorded in {opened.path}")
