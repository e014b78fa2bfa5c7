"""The files of a domain pack: ``domain.json``, paths that stay in the folder, hashes. Knows no network, needs no torch.

``domain.json`` (format 1) holds ``name, domain, classes, palette, resolution, licences [{what, licence, credit}]``,
``files {relpath: {sha256, bytes}}``, ``provenance {relpath: {command, seed, minutes, ...}}`` and ``scores``, and a
``checksum`` over all of these, so that a changed byte shows wherever it is. It is changed with ``update_info``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import write_bytes

FORMAT = 1
INFO_FILE = "domain.json"
DRAWING_FOLDER = "drawings"

_MAX_INFO_BYTES = 4_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SCHEMA: dict[str, type] = {
    "name": str,
    "domain": str,
    "classes": list,
    "palette": list,
    "resolution": int,
    "licences": list,
    "files": dict,
    "provenance": dict,
    "scores": dict,
}
_OWN_KEYS = ("format", "files", "checksum")


def pretrained_roots() -> list[Path]:
    """The folders that hold packs by name: beside the modules in an installed wheel, above them in a checkout."""
    package = Path(__file__).resolve().parent
    return [root for root in (package / "pretrained", package.parent / "pretrained") if root.is_dir()]


def pack_names() -> list[str]:
    """The names of the packs that came with the package, sorted."""
    return sorted({info.parent.name for root in pretrained_roots() for info in root.glob(f"*/{INFO_FILE}")})


def find_pack(name_or_path: str | Path) -> Path:
    """The folder of a pack given by path (also of its ``domain.json``) or by name; ``InputError`` if there is none."""
    text = str(name_or_path)
    path = Path(name_or_path)
    try:
        path.exists()
    except OSError as error:  # a name too long for the file system
        raise InputError(f"{text[:80]!r}: cannot be looked up ({error.strerror or error})") from error
    if path.name == INFO_FILE and path.is_file():
        return path.parent
    if text and (path / INFO_FILE).is_file():
        return path
    if _NAME.fullmatch(text):
        for root in pretrained_roots():
            if (root / text / INFO_FILE).is_file():
                return root / text
    if path.is_dir() and text:
        raise InputError(f"{text}: is a folder without {INFO_FILE}, so it is not a pack")
    if path.exists() and text:
        raise InputError(f"{text}: is a file; give the folder of a pack, or a name such as 'toonhead'")
    known = pack_names()
    raise InputError(
        f"unknown pack {text!r}{nearest(path.name, known)}; known names: {', '.join(known) or 'none'}, "
        f"or give the path of a folder with {INFO_FILE}"
    )


def create_pack(
    path: str | Path,
    name: str,
    domain: str,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    resolution: int,
    licences: Sequence[Mapping[str, str]] = (),
    exist_ok: bool = False,
) -> Path:
    """Start an empty pack in a folder and return that folder.

    ``classes`` and ``palette`` (RGB triples, 0-255) go in label order; ``licences`` are ``{what, licence, credit}``.
    Where a pack is there already: ``InputError``, or with ``exist_ok`` it is kept if domain, classes and resolution
    agree.
    """
    path = Path(path)
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a pack; use small letters, digits, '-' and '_'")
    info: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "domain": domain,
        "classes": list(classes),
        "palette": [[int(v) for v in colour] for colour in palette],
        "resolution": int(resolution),
        "licences": [dict(licence) for licence in licences],
        "files": {},
        "provenance": {},
        "scores": {},
    }
    if (path / INFO_FILE).exists():
        old = read_info(path) if exist_ok else {}
        if any(old.get(key) != info[key] for key in ("domain", "classes", "resolution")):
            raise InputError(f"{path}: holds another pack already; choose another folder or remove it")
        return path
    _check_schema(info, path / INFO_FILE)
    make_folder(path)
    _write_info(path, info)
    return path


def add_file(pack_dir: str | Path, relpath: str, data: bytes, provenance: Mapping[str, Any] | None = None) -> None:
    """Put a file (a drawing, say) into a pack and list its size and hash; the other files' entries stay as they are."""
    root = Path(pack_dir)
    info = read_info(root)
    target = inside(root, relpath)
    if relpath == INFO_FILE:
        raise ValueError(f"{INFO_FILE} is written by update_info")
    make_folder(target.parent)
    write_bytes(target, data)
    info["files"][relpath] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if provenance is not None:
        info["provenance"][relpath] = dict(provenance)
    _write_info(root, info)


def update_info(pack_dir: str | Path, changes: Mapping[str, Any]) -> None:
    """Change ``domain.json``: dictionaries (``scores``, ``provenance``) are merged, anything else is replaced."""
    if own := sorted(set(changes) & set(_OWN_KEYS)):
        raise ValueError(f"{own} are kept by add_file and write_component")
    root = Path(pack_dir)
    info = _plain(_merged(read_info(root), changes))
    _check_schema(info, root / INFO_FILE)
    _write_info(root, info)


def inside(root: Path, relpath: str) -> Path:
    """``root / relpath`` for a plain relative path that stays in ``root`` with symbolic links followed.

    ``InputError`` for an absolute path, one with ``..``, and a link that leads out of the folder.
    """
    plain = PurePosixPath(relpath)
    bad = (
        not relpath
        or plain.is_absolute()
        or ".." in plain.parts
        or str(plain) != relpath
        or re.search(r"[\\:\x00]", relpath)
    )
    if bad or not (root / relpath).resolve().is_relative_to(root.resolve()):
        raise InputError(f"{root}: {relpath!r} leads out of the pack's folder; refused")
    return root / relpath


def read_checked(root: Path, relpath: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a listed file, or the ``InputError`` that says what is wrong with it."""
    path = inside(root, relpath)
    again = "copy the pack again"
    try:
        if not path.is_file():
            raise InputError(f"{path}: is listed in {INFO_FILE} but missing; {again}")
        size = path.stat().st_size
        data = path.read_bytes() if size == entry["bytes"] else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size != entry["bytes"]:
        raise InputError(f"{path}: has {size:,} bytes instead of {entry['bytes']:,}; {again}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise InputError(f"{path}: was changed (sha256 {digest[:8]} instead of {entry['sha256'][:8]}); {again}")
    return data


def unlisted(root: Path, info: Mapping[str, Any]) -> list[str]:
    """Weights and drawings in the folder that ``domain.json`` does not list; notes and hidden files are let be."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            relpath = (Path(folder) / name).relative_to(root).as_posix()
            part = relpath.endswith(".safetensors") or relpath.startswith(f"{DRAWING_FOLDER}/")
            if part and not name.startswith(".") and relpath not in info["files"]:
                found.append(relpath)
    return sorted(found)


def files_hash(info: Mapping[str, Any]) -> str:
    """The pack's hash: hex sha256 over the sorted names and hashes of its listed files."""
    lines = (f"{relpath}\0{entry['sha256']}\n" for relpath, entry in sorted(info["files"].items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _checksum(info: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in info.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_info(root: Path) -> dict[str, Any]:
    """``domain.json``, parsed and checked; ``InputError`` where anything is off."""
    path = root / INFO_FILE
    try:
        size = path.stat().st_size
        if size > _MAX_INFO_BYTES:
            raise InputError(f"{path}: has {size:,} bytes, too many for a description of a pack; copy the pack again")
        info = json.loads(path.read_bytes().decode("utf-8"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); copy the pack again") from error
    if not isinstance(info, dict):
        raise InputError(f"{path}: is not a description of a pack; copy the pack again")
    if info.get("format") != FORMAT:
        raise InputError(
            f"{path}: has pack format {info.get('format')!r}, and this version reads {FORMAT}; "
            "update sis_rearrange or copy the pack again"
        )
    _check_schema(info, path)
    if info.get("checksum") != _checksum(info):
        raise InputError(
            f"{path}: was changed after it was written (its checksum differs); copy the pack again, "
            "and make changes with sis_rearrange.pack.update_info"
        )
    return info


def _check_schema(info: Mapping[str, Any], path: Path) -> None:
    for key, kind in _SCHEMA.items():
        if not isinstance(info.get(key), kind) or isinstance(info[key], bool):
            raise InputError(f"{path}: {key!r} is missing or not a {kind.__name__}; copy the pack again")
    colours = all(
        isinstance(c, list) and len(c) == 3 and all(type(v) is int and 0 <= v <= 255 for v in c)
        for c in info["palette"]
    )
    if not colours or len(info["palette"]) != len(info["classes"]) or info["resolution"] < 1:
        raise InputError(f"{path}: needs one RGB colour per class and a positive resolution; copy the pack again")
    for relpath, entry in info["files"].items():
        sound = (
            isinstance(entry, dict)
            and type(entry.get("bytes")) is int
            and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256")))
        )
        if not sound:
            raise InputError(f"{path}: its entry for {relpath!r} has no sha256 and size; copy the pack again")


def _write_info(root: Path, info: dict[str, Any]) -> None:
    info = _plain(info)
    info["checksum"] = _checksum(info)
    write_bytes(root / INFO_FILE, (json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    # As it will be read back (tuples are lists, keys are text), so that the checksum is of what the file says.
    return dict(json.loads(json.dumps(info, allow_nan=False)))


def _merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def make_folder(path: Path) -> None:
    """Make a folder and those above it; ``InputError`` where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror or error})") from error


@contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write into, which takes its place at the end: all of it appears, or nothing.

    Raises InputError, naming ``path``, where that fails.
    """
    whole = path.resolve()
    unfinished = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
