"""The command that writes a pack's networks for other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.options import OneLine, open_pack, pack_argument


@click.command(
    cls=OneLine,
    epilog="\b\nExamples:\n"
    "  sis export toonhead --onnx out/synthesis.onnx\n"
    "  sis export toonhead --what rearrange --onnx out/rearrange.onnx\n"
    "  sis export toonhead --what mapper --condition sketch --onnx out/sketch.onnx",
)
@pack_argument
@click.option("--onnx", "path", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@click.option(
    "--what",
    default="synthesis",
    show_default=True,
    help="synthesis (ws to image), rearrange (ws and labels of a layout to image) or mapper.",
)
@click.option("--condition", help="Of the mapper.")
def export(pack_name: str, path: Path, what: str, condition: str | None) -> None:
    """Write a part of a pack as one ONNX file, checked against onnxruntime where that is installed."""
    from sis_rearrange.export import export_onnx

    done = export_onnx(open_pack(pack_name), path, what, condition)
    for title, ends in (("input", done.inputs), ("output", done.outputs)):
        for name, shape in ends.items():
            click.echo(f"{title} {name}: {' x '.join(map(str, shape))}")
    checked = "not checked: onnxruntime is not installed"
    if done.difference is not None:
        checked = f"onnxruntime differs from torch by at most {done.difference:.1e} of the range"
    click.echo(f"wrote {path} ({done.bytes:,} bytes, opset {done.opset}); {checked}")
