"""Packs for part names of one's own: a pack speaks of one set of parts, so other parts make another pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sis_rearrange.conditions import OF_PARTS, Palette
from sis_rearrange.errors import InputError
from sis_rearrange.pack import (
    GENERATOR,
    JUDGE,
    SEGMENTER,
    Pack,
    copy_pack,
    load_pack,
    mapper_file,
    update_info,
)
from sis_rearrange.pack_files import DRAWING_FOLDER, INFO_FILE


def pack_with_classes(pack: Pack, palette: Palette, out: Path | None) -> Pack:
    """The pack that mappers for these parts go into.

    A pack that names no parts takes these. One with the same parts stays as it is. For other parts there must be
    ``out``, a folder for a copy without whatever knows the old parts (judge, segmenter, masks' and scribbles' mappers,
    drawings); with ``out`` the pack itself is never changed, and a copy that an earlier try left is used again.

    Raises InputError for other parts without ``out``, and where ``out`` holds something else.
    """
    same = pack.classes == palette.names
    if out is not None:
        return _copied(pack, palette, out, same)
    if same:
        return pack
    if pack.classes:
        raise InputError(
            f"pack {pack.name!r} has other parts ({', '.join(pack.classes)}) than these masks "
            f"({', '.join(palette.names)}); --out FOLDER makes a pack of its own with them"
        )
    update_info(pack.path, _named(palette))
    return load_pack(pack.path)


def _named(palette: Palette) -> dict[str, Any]:
    return {"classes": list(palette.names), "palette": [list(colour) for colour in palette.colours]}


def _copied(pack: Pack, palette: Palette, out: Path, same: bool) -> Pack:
    if (out / INFO_FILE).is_file():
        there = load_pack(out)
        files = (there.info["files"], pack.info["files"])
        if there.classes != palette.names or any(f.get(GENERATOR) != files[0].get(GENERATOR) for f in files):
            raise InputError(f"{out}: holds another pack already; choose another folder or remove it")
        return there
    if same:
        return copy_pack(pack, out, **_named(palette))
    old = [relpath for relpath in pack.info["files"] if _knows_parts(relpath)]
    return copy_pack(pack, out, old, domain=out.resolve().name, **_named(palette))


def _knows_parts(relpath: str) -> bool:
    """Whether a file of a pack has to do with the names of its parts."""
    mappers = [mapper_file(condition) for condition in OF_PARTS]
    return relpath in (JUDGE, SEGMENTER, *mappers) or relpath.startswith(f"{DRAWING_FOLDER}/")
