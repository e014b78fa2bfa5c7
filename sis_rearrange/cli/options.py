"""What the commands share: one-line errors, the type of seed lists, common options."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from sis_rearrange.errors import InputError, InputWarning

if TYPE_CHECKING:
    from sis_rearrange.pack import Pack

MAX_SEEDS = 10_000  # in one list
MAX_SEED = 2**63 - 1


class Failure(click.ClickException):
    """An error as one line on stderr; the process ends with exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line; names of files may have line breaks."""
        line = " ".join(self.format_message().split("\n"))
        click.echo(f"Error: {line}", err=file is None, file=file)


def _failure(error: Exception) -> Failure:
    """The user's mistake as one line; for a misused option with the pointer to its help."""
    line = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        line = f"{line.rstrip('.')}; see '{error.ctx.command_path} --help'"
    return Failure(line)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What was used but not quite as it is (`InputWarning`) is said in one line on stderr, each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, InputWarning):
                click.echo(f"Warning: {message}", err=True)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _print_any_name() -> None:
    """Names of files need not be text: what cannot be encoded is printed escaped instead of ending the command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


class OneLine(click.Command):
    """A command that reports bad input, wrong options and failing disks in one line: no usage text, no traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, errors in one line. Without arguments the help is shown."""
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise _failure(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, errors in one line."""
        _print_any_name()
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except (InputError, click.UsageError) as error:
            raise _failure(error) from error
        except BrokenPipeError:  # `sis ... | head`: click ends without a word
            raise
        except OSError as error:  # a full disk under a log or checkpoint that a library writes
            raise Failure(f"{error.filename or 'a file'}: {error.strerror or error}") from error


class Commands(OneLine, click.Group):
    """A group whose commands do so too."""


def parse_seeds(text: str, what: str = "seeds") -> list[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7], each once, in the order given.

    Raises InputError for anything else, a backward range, and more than `MAX_SEEDS`.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})\s*(?:-\s*([0-9]{1,19})\s*)?", part)
        if not match:
            raise InputError(f"{what} {text!r}: give whole numbers and ranges such as 0-3,7")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise InputError(f"{what} {text!r}: the range {first}-{last} runs backwards; write {last}-{first}")
        if last > MAX_SEED:
            raise InputError(f"{what} {text!r}: the largest seed is {MAX_SEED}")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise InputError(f"{what} {text!r}: more than {MAX_SEEDS:,} in one list; use several runs")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


class SeedList(click.ParamType):
    """Option type of `parse_seeds`."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Text from the command line, or a list that is converted already."""
        return value if isinstance(value, list) else parse_seeds(value)


def seeds_option(default: str) -> Callable[[Any], Any]:
    """The option --seeds."""
    return click.option(
        "--seeds", type=SeedList(), default=default, show_default=True, help="Seeds of samples, such as 0-3,7."
    )


def out_folder(function: Any) -> Any:
    """The required option --out of commands that write a folder."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="Folder to write to; made where it is missing.",
    )(function)


def own_conditions(function: Any) -> Any:
    """The options --plugin and --depth-model, which make conditions known before the command runs; it gets neither."""

    @wraps(function)
    def run(*args: Any, plugins: tuple[str, ...], depth_model: str | None, **options: Any) -> Any:
        from sis_rearrange.conditions import Depth, load_plugin, register_condition

        for path in plugins:
            load_plugin(path)
        if depth_model is not None:
            register_condition(Depth(depth_model))
        return function(*args, **options)

    for option in (
        click.option(
            "--depth-model",
            metavar="MODEL",
            help="For depth maps of photos: a folder, or a name on the model hub, which transformers then fetches.",
        ),
        click.option(
            "--plugin",
            "plugins",
            multiple=True,
            metavar="FILE.py",
            help="Run a Python file of yours that registers conditions; see docs/conditions.md.",
        ),
    ):
        run = option(run)
    return run


psi_option = click.option("--psi", type=float, default=0.9, show_default=True, help="Truncation of the samples.")
pack_argument = click.argument("pack_name", metavar="PACK")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, or a name that torch knows."
)
backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs the networks: torch, openvino (CPU), or auto: torch for a few pictures, the faster one for many.",
)


def open_pack(name: str) -> Pack:
    """The pack of a command line argument, verified."""
    from sis_rearrange.pack import load_pack

    return load_pack(name)
