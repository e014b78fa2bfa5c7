"""Finished parts of a long evaluation, kept on disk: a run that was cut off, or asked for less, does nothing twice.

A cell is one JSON file, and a strip of its first pictures beside it. Its name ends in a hash of everything that can
make a difference to it, so that other settings make other cells and an old one is never taken for a new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images import read_image, write_png, write_text

FOLDER = "cells"  # in the report folder


def digest(settings: Mapping[str, Any]) -> str:
    """12 hex digits that stand for JSON-able settings; the order of keys does not matter."""
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Cells:
    """The cells in a report folder; ``folder`` None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; name a folder for the report")
        self.folder = None if folder is None else folder / FOLDER
        self._strips: dict[str, np.ndarray] = {}  # of this run, where no folder keeps them

    def find(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `keep` was given under this name and these settings; None for nothing, and for a damaged file."""
        if self.folder is None:
            return None
        path = self._path(name, settings)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("settings") != json.loads(json.dumps(settings)):
            return None
        results = found.get("results")
        return results if isinstance(results, dict) else None

    def keep(self, name: str, settings: Mapping[str, Any], results: Mapping[str, Any], strip: np.ndarray) -> None:
        """Write a finished cell: JSON-able results, and before them a strip of pictures uint8 ``[h, w, 3]``."""
        self._strips[self._key(name, settings)] = strip
        if self.folder is None:
            return
        path = self._path(name, settings)
        write_png(path.with_suffix(".png"), strip, {"cell": name})
        document = {"cell": name, "settings": settings, "results": results}
        write_text(path, json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def strip(self, name: str, settings: Mapping[str, Any]) -> np.ndarray | None:
        """The strip of a cell, uint8 ``[h, w, 3]``; None where it is gone."""
        key = self._key(name, settings)
        if key not in self._strips and self.folder is not None:
            path = self._path(name, settings).with_suffix(".png")
            try:
                self._strips[key] = np.asarray(read_image(path).convert("RGB"))
            except InputError:
                return None
        return self._strips.get(key)

    def _key(self, name: str, settings: Mapping[str, Any]) -> str:
        return f"{name}-{digest(settings)}"

    def _path(self, name: str, settings: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        if not re.fullmatch(r"[a-z0-9-]+", name):
            raise ValueError(f"{name!r}: cells are named in small letters, digits and dashes")
        return self.folder / f"{self._key(name, settings)}.json"


def strip_of(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 ``[N, h, w, 3]`` side by side, ``[h, N w, 3]``."""
    return np.concatenate(list(pictures), axis=1)


def pieces(strip: np.ndarray) -> list[Image.Image]:
    """The square pictures of a strip."""
    side = strip.shape[0]
    return [Image.fromarray(strip[:, at : at + side]) for at in range(0, strip.shape[1] - side + 1, side)]
