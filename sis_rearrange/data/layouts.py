"""Data sets whose folders mean something: which pictures of FFHQ and AFHQ are held out, and which animal they show."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sis_rearrange.data.containers import Container, Indexed
from sis_rearrange.data.decoding import shown
from sis_rearrange.data.lsun import Lmdb
from sis_rearrange.errors import InputError, nearest

LAYOUTS = ("auto", "folder", "lsun", "ffhq", "afhq")
SPLITS = ("all", "train", "val", "test")
AFHQ_CLASSES = ("cat", "dog", "wild")
FFHQ_TRAIN = 60_000  # the first of FFHQ's 70,000 pictures are for training
MAX_JSON_BYTES = 2**30  # FFHQ's own is 255 MB

_AFHQ = re.compile(r"(?:.*/)?(train|val|test)/(cat|dog|wild)/[^/]+", re.DOTALL)
_FFHQ = re.compile(r"(?P<root>(?:.*/)?)(?P<thousand>\d\d)000/(?P<number>(?P=thousand)\d{3})\.png", re.DOTALL)


class Place(NamedTuple):
    """What a picture's name says in its layout."""

    label: str | None = None
    split: str | None = None  # "train", "val" or "test"


class Layout:
    """Reads names; ``name`` is one of `LAYOUTS` but "auto"."""

    def __init__(self, name: str, ffhq_splits: dict[int, str] | None = None) -> None:
        self.name = name
        self._ffhq_splits = ffhq_splits
        self._root: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels it can give, in their order."""
        return AFHQ_CLASSES if self.name == "afhq" else ()

    def place(self, name: str) -> Place | None:
        """What a name means; None for one outside the layout. Raises InputError for FFHQ in several sizes at once."""
        if self.name == "afhq":
            afhq = _AFHQ.fullmatch(name)
            return Place(afhq[2], afhq[1]) if afhq else None
        if self.name != "ffhq":
            return Place()
        ffhq = _FFHQ.fullmatch(name)
        if ffhq is None:
            return None
        root = ffhq["root"]
        if self._root not in (None, root):
            raise InputError(
                f"holds FFHQ twice, in '{shown(self._root or './')}' and '{shown(root or './')}': name one of them"
            )
        self._root = root
        number = int(ffhq["number"])
        if self._ffhq_splits is None:
            return Place(split="train" if number < FFHQ_TRAIN else "val")
        return Place(split=self._ffhq_splits.get(number))


def find_layout(asked: str, container: Container, first: str | None = None) -> Layout:
    """The layout of a container: as ``asked``, or by its names where that is "auto".

    Of a tar, whose names nobody knows before they are read, the ``first`` decides. FFHQ's own json, where it lies in
    the folder or beside it, decides on the split; without it the first 60,000 are for training. Raises InputError for
    an unknown layout, one that the container cannot have, and a json that is none.
    """
    if asked not in LAYOUTS:
        raise InputError(f"--layout {asked}: must be one of {', '.join(LAYOUTS)}{nearest(asked, LAYOUTS)}")
    if isinstance(container, Lmdb) != (asked == "lsun") and asked != "auto":
        raise InputError(f"{container.path}: --layout lsun is for LMDBs, and an LMDB has no other")
    if asked == "auto":
        names = container.names if isinstance(container, Indexed) else [] if first is None else [first]
        asked = "lsun" if isinstance(container, Lmdb) else _told_by(names)
    return Layout(asked, _ffhq_json(container.path) if asked == "ffhq" else None)


def _told_by(names: Sequence[str]) -> str:
    for name, pattern in (("afhq", _AFHQ), ("ffhq", _FFHQ)):
        if names and all(pattern.fullmatch(each) for each in names):
            return name
    return "folder"


def _ffhq_json(path: Path) -> dict[int, str] | None:
    """Picture number -> split, from ffhq-dataset-v2.json; None where there is none."""
    folders = [path, path.parent] if path.is_dir() else [path.parent]
    for file in (file for folder in folders for file in sorted(folder.glob("ffhq-dataset*.json"))):
        try:
            if file.stat().st_size > MAX_JSON_BYTES:
                raise InputError(f"{file}: is larger than FFHQ's; move it away to split by number")
            facts = json.loads(file.read_bytes())
            names = {"training": "train", "validation": "val"}
            return {int(number): names[about["category"]] for number, about in facts.items()}
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{file}: is not FFHQ's list of pictures; move it away to split by number") from None
    return None
