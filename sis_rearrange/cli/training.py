"""What the training scripts share: options, presets, the dry run, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sis_rearrange.cli.options import Failure, OneLine
from sis_rearrange.errors import InputError
from sis_rearrange.training.dry_run import describe
from sis_rearrange.training.presets import PRESETS, Preset, get_preset
from sis_rearrange.training.run import TICK, Training
from sis_rearrange.training.scale import PRECISIONS, is_main
from sis_rearrange.training.stopping import Diverged, Elsewhere, Lost, Stopped

SETTINGS = {"show_default": True, "help_option_names": ["-h", "--help"]}


class TrainingCommand(OneLine):
    """A command that ends with one line and the shell's exit code when a signal stops the training (130, 143)."""

    def invoke(self, ctx: click.Context) -> Any:
        """As `OneLine` does it, with `Stopped`."""
        try:
            return super().invoke(ctx)
        except Stopped as stopped:
            if is_main():
                click.echo(str(stopped), err=True)
            ctx.exit(stopped.exit_code)
        except Failure as failure:  # what every process knows, the first one says
            known = isinstance(failure.__cause__, Elsewhere | Diverged) and not isinstance(failure.__cause__, Lost)
            if is_main() or not known:
                raise
            ctx.exit(failure.exit_code)


def _older_precision(ctx: click.Context, option: click.Parameter, chosen: bool) -> None:
    """``--bfloat16`` and ``--float32``, which commands recorded in packs have: defaults of ``--precision``."""
    if chosen:
        ctx.default_map = {**(ctx.default_map or {}), "precision": option.name}


def training_options(preset_options: Callable[[Preset], dict[str, Any]]) -> Callable[[Any], Any]:
    """The options that all training scripts have; ``preset_options`` picks a script's own out of a preset."""

    def take_preset(ctx: click.Context, _option: click.Parameter, name: str | None) -> None:
        if name is not None:
            known = {parameter.name for parameter in ctx.command.params}
            try:
                chosen = preset_options(get_preset(name))
            except InputError as error:
                raise click.UsageError(str(error), ctx) from error
            ctx.default_map = {**(ctx.default_map or {}), **{k: v for k, v in chosen.items() if k in known}}

    options = [
        click.option(
            "--run",
            type=click.Path(file_okay=False, path_type=Path),
            required=True,
            help="Folder for states, logs and samples.",
        ),
        click.option(
            "--preset",
            metavar="NAME",
            is_eager=True,
            expose_value=False,
            callback=take_preset,
            help=f"Defaults for a kind of pictures: {', '.join(PRESETS)}.",
        ),
        click.option(
            "--dry-run", is_flag=True, help="Show settings, sizes, memory and the first batch; train nothing."
        ),
        click.option(
            "--precision",
            type=click.Choice(list(PRECISIONS)),
            default="float32",
            help="Of convolutions and products; see docs/training.md.",
        ),
        *(
            click.option(f"--{name}", is_flag=True, hidden=True, expose_value=False, callback=_older_precision)
            for name in ("bfloat16", "float32")
        ),
        click.option("--tick", default=TICK, help="Seconds between console lines."),
        click.option("--device", default="cpu", help="auto, cpu, or a name that torch knows; auto on several GPUs."),
    ]

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def show_dry_run(training: Training, run: Path) -> None:
    """Print what a training would do."""
    lines = describe(training, run)
    if training.scale.main:
        click.echo("\n".join(lines))


def show_scores(scores: dict[str, float]) -> None:
    """Print the scores at the end."""
    if not is_main():
        return
    for name, value in scores.items():
        click.echo(f"{name} {value:.4f}")
