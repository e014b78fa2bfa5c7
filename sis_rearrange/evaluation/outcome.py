"""What a protocol is asked, what it returns, and the report folder that comes of it.

A report is ``results.json`` (everything, for machines), ``results.md`` (the same for people) and plots. The results say
what they rest on: protocol, counts, split, seeds, resize filter, hashes of the networks that looked, versions, pack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sis_rearrange import __version__
from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes, write_text
from sis_rearrange.pack import Pack

RESULTS, PAGE = "results.json", "results.md"
NEEDED = (
    *("protocol", "quick", "command", "pack", "hash", "metrics", "counts", "split", "seeds"),
    *("preprocessing", "extractors", "versions"),
)


@dataclass(frozen=True)
class Request:
    """What every protocol is told."""

    quick: bool = False  # less of everything: minutes, and the results say so
    progress: bool | None = None  # bars on stderr; None: where it is a terminal
    inception: Path | None = None  # file with the weights of the Inception network
    out: Path | None = None  # the report folder, where a long protocol keeps what it has finished
    only: tuple[str, ...] = ()  # parts of the protocol, as it names them; empty: all


@dataclass(frozen=True)
class Outcome:
    """What a protocol found."""

    results: dict[str, Any]  # JSON-able; `about` gives the keys that every protocol has
    text: str  # for the terminal
    plots: Mapping[str, bytes] = field(default_factory=dict)  # file name -> PNG
    page: str | None = None  # results.md; None: made of the results


Run = Callable[[Pack, Request], Outcome]


def about(
    pack: Pack,
    protocol: str,
    request: Request,
    counts: Mapping[str, int],  # how many of what was looked at
    split: str,  # of the domain's renders; "none" where none was used
    seeds: Mapping[str, range | Sequence[int]],  # what for -> a range, or (first, one past the last)
    preprocessing: Mapping[str, str],  # metric or network -> what is done to a picture first, resize filter included
    extractors: Mapping[str, str],  # network that looked -> sha256 of its weights
) -> dict[str, Any]:
    """The part of the results that says what the numbers rest on; add ``metrics``, ``intervals``, ``tables`` to it."""
    quick = " --quick" if request.quick else ""
    more = f" --inception {request.inception}" if request.inception else ""
    more += f" --only {','.join(request.only)}" if request.only else ""
    return {
        "protocol": protocol,
        "quick": request.quick,
        "command": f"sis evaluate {pack.name} --protocol {protocol}{quick}{more} --out report",
        "pack": pack.name,
        "hash": pack.hash,
        "counts": dict(counts),
        "split": split,
        "seeds": {name: _ends(span) for name, span in seeds.items()},
        "preprocessing": dict(preprocessing),
        "extractors": dict(extractors),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "metrics": {},
        "intervals": {},
        "tables": {},
        "notes": [],
    }


def _ends(span: range | Sequence[int]) -> list[int]:
    return [span.start, span.stop] if isinstance(span, range) else [int(span[0]), int(span[1])]


def versions() -> dict[str, str]:
    """Of the package, torch and Python, and of the libraries that compute metrics where they are installed."""
    found = {"sis_rearrange": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    for library in ("numpy", "torch-fidelity", "lpips"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def hash_of(network: torch.nn.Module) -> str:
    """Hex sha256 of a network's weights: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain(value: float) -> float | None:
    """A number as JSON has it: None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None


def write_report(outcome: Outcome, folder: str | Path) -> list[Path]:
    """Write the report into a folder, each file whole or not at all; returns what was written.

    Raises InputError where a file cannot be written or the folder's name is that of a file, and ValueError for results
    that do not say what they rest on.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the report")
    if missing := [key for key in NEEDED if key not in outcome.results]:
        raise ValueError(f"results lack {', '.join(missing)}")
    written = []
    for name, png in outcome.plots.items():
        write_bytes(folder / name, png)
        written.append(folder / name)
    page = as_markdown(outcome.results, outcome.plots) if outcome.page is None else outcome.page
    write_text(folder / PAGE, page.rstrip() + "\n")
    text = json.dumps(outcome.results, indent=2, sort_keys=True, allow_nan=False)
    write_text(folder / RESULTS, text + "\n")
    return [*written, folder / PAGE, folder / RESULTS]


def as_markdown(results: Mapping[str, Any], plots: Sequence[str] | Mapping[str, bytes] = ()) -> str:
    """The results as a page: what they rest on, metrics with their intervals, tables, plots."""
    quick = " (quick)" if results["quick"] else ""
    lines = [f"# {results['pack']}: protocol {results['protocol']}{quick}", "", f"    {results['command']}", ""]
    intervals = results.get("intervals", {})
    rows = [
        (f"`{name}`", show(value), _interval(intervals.get(name))) for name, value in sorted(results["metrics"].items())
    ]
    lines += table(("metric", "value", "95 % interval"), rows)
    for name, cells in sorted(results.get("tables", {}).items()):
        lines += ["", f"## {name}", ""]
        lines += table(("", "value"), [(str(key), show(value)) for key, value in cells.items()])
    for plot in plots:
        lines += ["", f"![{Path(plot).stem}]({plot})"]
    lines += ["", "## What this rests on", ""]
    lines += [f"- pack `{results['pack']}`, hash `{results['hash']}`", f"- split: {results['split']}"]
    for key in ("counts", "seeds", "preprocessing", "extractors", "versions"):
        shown = (f"{name}: {_span(value)}" for name, value in results[key].items())
        lines.append(f"- {key}: {'; '.join(shown) or 'none'}")
    lines += [f"- {note}" for note in results.get("notes", [])]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are aligned right."""
    marks = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def show(value: Any) -> str:
    """A number for people: four significant digits; "n/a" for None."""
    if value is None:
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    return f"{show(interval['low'])} to {show(interval['high'])} ({interval['over']})"


def _span(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        return f"{value[0]} to {value[1]}"
    return f"`{value[:12]}`" if isinstance(value, str) and len(value) == 64 else str(value)
