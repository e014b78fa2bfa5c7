"""Palettes as JSON files, and those that come with the package: our domains', CelebAMask-HQ, ADE20K, Cityscapes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sis_rearrange.conditions.palette import Palette
from sis_rearrange.errors import InputError, nearest

MAX_BYTES = 1_000_000


def palette_names() -> tuple[str, ...]:
    """The names of the palettes that come with the package, sorted."""
    folder = resources.files("sis_rearrange") / "palettes"
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def load_palette(name_or_path: str | Path) -> Palette:
    """A palette by name (`palette_names`), or from a JSON file such as `Palette.to_json` writes.

    A file of that path goes before a name. Raises `InputError`, naming the file, where it cannot be used.
    """
    path = Path(name_or_path)
    if str(name_or_path) in palette_names() and not path.is_file():
        source = resources.files("sis_rearrange") / "palettes" / f"{name_or_path}.json"
        return Palette.from_json(source.read_text(encoding="utf-8"))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: has too many bytes for a palette; give a JSON list of names and colours")
        return Palette.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = palette_names()
        raise InputError(
            f"{name_or_path}: no such palette file{nearest(path.name, known)} (known names: {', '.join(known)})"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # an InputError, or no text
        raise InputError(f"{path}: {error}") from None
