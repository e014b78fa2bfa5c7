"""The command that writes weights in another layout."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.options import OneLine

LAYOUTS = ("ours", "official", "rosinality")  # as in `layouts`, which needs torch


@click.command(
    cls=OneLine,
    epilog="\b\nExamples:\n"
    "  sis convert stylegan2-ffhq.pkl ffhq.safetensors --licence 'NVIDIA Source Code License-NC'\n"
    "  sis convert ffhq.safetensors ffhq.pt --layout rosinality",
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="ours",
    show_default=True,
    help="Names of the tensors; ours are the official PyTorch ones, in a safetensors file.",
)
@click.option("--network", help="The only one to write, such as G_ema.")
@click.option("--licence", default="", help="Of the weights; needed unless IN names one. It is written into OUT.")
def convert(source: Path, target: Path, layout: str, network: str | None, licence: str) -> None:
    """Write StyleGAN2 weights of any kind as safetensors, or as a torch file for another program.

    IN is an official pickle (PyTorch or TensorFlow), a rosinality checkpoint, a state dict or safetensors; no code in
    it runs. An OUT that ends in .safetensors holds one network, any other all of them. Says what was kept and dropped,
    and compares a picture before and after; where they differ nothing is written.
    """
    from sis_rearrange.layouts import convert_file

    results, left = convert_file(source, target, layout, network, licence)
    for result in results:
        click.echo(f"{result.source or source.name} -> {result.name or target.name} ({result.kind})")
        for line in result.lines:
            click.echo(f"  {line}")
        what = "picture" if result.kind == "generator" else "score"
        click.echo(f"  largest difference of a {what} before and after: {result.difference:.1e}")
    if left:
        click.echo(f"not written: {', '.join(left)}; --network picks one")
    click.echo(f"wrote {target}")
