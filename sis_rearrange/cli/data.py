"""Commands about training pictures: prepare them, check them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sis_rearrange.cli.options import Commands, Failure

FITS = ("crop", "pad", "stretch")  # as in `images`, which needs Pillow
LAYOUTS = ("auto", "folder", "lsun", "ffhq", "afhq")  # as in `data.layouts`
SPLITS = ("all", "train", "val", "test")

workers_option = click.option(
    "--workers", type=click.IntRange(0, 256), default=2, show_default=True, help="Processes that decode pictures."
)


@click.group(cls=Commands)
def data() -> None:
    """Make pictures ready to be trained on: folders, zips, tars, LSUN's LMDBs, FFHQ, AFHQ."""


@data.command(
    epilog="\b\nExamples:\n"
    "  sis data prepare photos/ photos256.zip --resolution 256 --fit crop\n"
    "  sis data prepare church_outdoor_train_lmdb church256.zip --resolution 256 --fit crop --workers 8\n"
    "  sis data prepare ffhq/images1024x1024 ffhq256.zip --resolution 256 --split train\n"
    "  sis data prepare afhq.zip afhq512.zip --resolution 512 --split train"
)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.zip", type=click.Path(path_type=Path))
@click.option("--resolution", type=int, required=True, help="Pixels per side, a power of two.")
@click.option("--fit", type=click.Choice(FITS), help="How pictures become square; none: they must be square.")
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="auto",
    show_default=True,
    help="What folders in IN mean; auto tells by the names.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="all",
    show_default=True,
    help="Only these pictures of FFHQ (its json, or the first 60,000, are train) or AFHQ (its folders).",
)
@click.option("--max", "limit", type=int, help="Take the first so many usable pictures.")
@workers_option
@click.option(
    "--skip-bad/--strict",
    default=True,
    show_default=True,
    help="Leave out files that cannot be used, and name each; or end at the first.",
)
def prepare(
    inputs: tuple[Path, ...],
    out: Path,
    resolution: int,
    fit: str | None,
    layout: str,
    split: str,
    limit: int | None,
    workers: int,
    skip_bad: bool,
) -> None:
    """Write the pictures of IN as square PNGs of one size into one zip that is fast to train on, with a manifest.

    IN is a folder, zip, tar, tar.gz or LSUN LMDB; nothing is unpacked to disk. Scaling is antialiased (Lanczos). The
    same pictures and options give the same bytes.
    """
    from sis_rearrange.data.prepare import Settings, prepare

    settings = Settings(resolution, fit, layout, split, limit, strict=not skip_bad)
    done = prepare(inputs, out, settings, workers)
    for where, reason in done.left_out:
        click.echo(f"left out: {where}: {reason}", err=True)
    for reason, count in done.skipped.items():
        click.echo(f"skipped: {count:,} {reason}")
    if done.enlarged:
        click.echo(f"enlarged: {done.enlarged:,} were smaller than {resolution} px; they look soft")
    if done.repeated:
        click.echo(f"repeated: {done.repeated:,} came before, byte for byte")
    for what, counts in (("split", done.splits), ("label", done.labels)):
        if counts:
            click.echo(f"{what}: {', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))}")
    left = f", left out {len(done.left_out):,}" if done.left_out else ""
    click.echo(f"wrote {out}: {done.pictures:,} pictures of {resolution} px{left}")


@data.command(epilog="\b\nExamples:\n  sis data check photos/\n  sis data check photos256.zip --json")
@click.argument("path", metavar="IN", type=click.Path(path_type=Path))
@workers_option
@click.option("--json", "as_json", is_flag=True, help="Write the whole report as JSON to stdout.")
def check(path: Path, workers: int, as_json: bool) -> None:
    """Look at every file of IN and name those that cannot be used; count sizes, colours, duplicates.

    Hidden files and files that are no pictures are counted, not mistakes. Of a zip that `sis data prepare` wrote, every
    picture is held against its hash. Exit code 0 where every picture can be used, 2 otherwise. Sides that differ and
    duplicates do not change it.
    """
    from sis_rearrange.data.check import check

    report = check(path, workers)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
    else:
        for line in report.lines():
            click.echo(line)
    if not report.pictures and not report.bad:
        raise Failure(f"{path}: no pictures there")
    if report.bad:
        raise Failure(f"{path}: {len(report.bad):,} of {report.pictures + len(report.bad):,} pictures cannot be used")
