"""The command `sis`. Each command parses, validates and calls one function; torch is imported when one of them runs."""

from __future__ import annotations

import click

from sis_rearrange import __version__
from sis_rearrange.cli.convert import convert
from sis_rearrange.cli.data import data
from sis_rearrange.cli.doctor import doctor
from sis_rearrange.cli.domains import domains
from sis_rearrange.cli.edit import edit, mix, morph, transfer
from sis_rearrange.cli.export import export
from sis_rearrange.cli.invert import invert
from sis_rearrange.cli.label import label
from sis_rearrange.cli.options import Commands
from sis_rearrange.cli.pack import pack
from sis_rearrange.cli.pictures import demo, generate, synthesize
from sis_rearrange.cli.scores import evaluate, proxy
from sis_rearrange.cli.studio import studio

__all__ = ["main"]


@click.group("sis", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="sis_rearrange", message="sis_rearrange %(version)s")
def main() -> None:
    """Turn drawings into pictures by rearranging the features of a trained StyleGAN2.

    \b
    Start with:
      sis demo
      sis synthesize toonhead --condition sketch drawing.png --seeds 0-3 --out out
    """


for command in (
    demo,
    generate,
    synthesize,
    invert,
    edit,
    mix,
    transfer,
    morph,
    studio,
    evaluate,
    pack,
    convert,
    export,
    domains,
    data,
    label,
    proxy,
    doctor,
):
    main.add_command(command)
