"""Conditions by name: those that come with the package, and those that users register."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from sis_rearrange.conditions.base import Condition
from sis_rearrange.conditions.depth import Depth
from sis_rearrange.conditions.hed import Hed
from sis_rearrange.conditions.palette import Palette
from sis_rearrange.conditions.scribble import Scribble
from sis_rearrange.conditions.segmentation import Segmentation
from sis_rearrange.conditions.sketch import Sketch
from sis_rearrange.errors import InputError, nearest

CONDITIONS = ("segmentation", "sketch", "scribble")  # drawn by hand; they need nothing but the pack
OF_PARTS = ("segmentation", "scribble")  # of these: painted in a palette's colours, read by mappers that know its parts
EXTRACTED = ("hed", "depth")  # made by a network, which ships (hed) or which the user names (depth)
_TAKEN = (*CONDITIONS, "hed", "exemplar", "proxy")
_REGISTERED: dict[str, Condition] = {}


def condition_names() -> tuple[str, ...]:
    """Every condition that `get_condition` knows now."""
    return tuple(dict.fromkeys((*CONDITIONS, *EXTRACTED, *_REGISTERED)))


def register_condition(condition: Condition) -> None:
    """Make a condition known by its name, to `get_condition` and with it to training, synthesis and evaluation.

    A name registered before is replaced; "depth" too, by a `Depth` with a model. Raises `InputError` for a name that
    another condition of the package has, and for one that is not small letters, digits, "-" and "_".
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", condition.name):
        raise InputError(f"{condition.name!r} is no name for a condition; use small letters, digits, '-' and '_'")
    if condition.name in _TAKEN or (condition.name == "depth" and not isinstance(condition, Depth)):
        raise InputError(f"a condition called {condition.name!r} comes with the package; choose another name")
    _REGISTERED[condition.name] = condition


def get_condition(name: str, palette: Palette | None = None, painted: Palette | None = None) -> Condition:
    """The condition called `name`.

    Args:
        palette: the domain's classes, which "segmentation" and "scribble" need.
        painted: what people's masks are painted in, where that is another palette; classes go by their names.

    Raises `InputError` for an unknown name (with the nearest known one) or a missing palette.
    """
    known = condition_names()
    if name not in known:
        raise InputError(
            f"unknown condition {name!r}{nearest(name, known)} (known: {', '.join(known)}; "
            "one of your own needs its file, with --plugin)"
        )
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name == "sketch":
        return Sketch()
    if name == "hed":
        return Hed()
    if name == "depth":
        return Depth()
    if palette is None:
        raise InputError(
            f"condition {name!r} needs part names, and the pack has none; `sis label` gives it some, or "
            "`sis pack new --palette` a new one"
        )
    return Segmentation(palette, painted) if name == "segmentation" else Scribble(palette, painted)


def load_plugin(path: str | Path) -> tuple[str, ...]:
    """Run a Python file of the user's that registers conditions; returns the names of those it registered.

    It is code, and may do whatever the user may: name only files that you wrote or read. Raises `InputError` where it
    is missing, fails, or registers nothing.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"{path}: no such Python file; --plugin takes a .py file that calls register_condition")
    before = dict(_REGISTERED)
    name = f"sis_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does it: functions of the file can be found by other processes
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's file may raise
        _REGISTERED.clear()
        _REGISTERED.update(before)
        del sys.modules[name]
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from error
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be run ({type(error).__name__}: {reason})") from error
    found = tuple(name for name, condition in _REGISTERED.items() if before.get(name) is not condition)
    if not found:
        raise InputError(f"{path}: registers no condition; let it call register_condition")
    return found
