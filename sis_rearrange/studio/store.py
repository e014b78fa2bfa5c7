"""What tokens stand for: uploaded pictures, inversions, own classes; files in one private folder that goes in the end.

A token is random and names nothing but itself. What was not used for a while is removed with its files.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sis_rearrange.studio.refusals import Busy, Gone

PREFIX = "sis-studio-"
ABANDONED = 3600.0  # seconds, at least, since anything in a folder changed, before it may count as left behind
IDLE = 120.0  # seconds without use after which an entry may go where room is needed
PREFIXES = {"upload": "up-", "inversion": "inv-", "classes": "own-", "job": "job-"}
WORDS = {"upload": "uploaded picture", "inversion": "inverted picture", "classes": "set of own classes", "job": "job"}


@dataclass(eq=False)
class Entry:
    """What one token stands for."""

    token: str
    kind: str  # "upload", "inversion", "classes" or "job"
    folder: Path  # of its own
    about: dict[str, Any] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)


class Store:
    """Entries by token. Threads may share it."""

    def __init__(self, most: int, seconds: float, most_bytes: int = 2_000_000_000) -> None:
        self._most, self._seconds, self._most_bytes = most, seconds, most_bytes  # entries of a kind; of disk, in all
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        _remove_abandoned(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # readable by this user alone
        self._held = _locked(self.folder)

    def add(self, kind: str, **about: Any) -> Entry:
        """A new entry with an empty folder. `Busy` where too much was used lately."""
        token = PREFIXES[kind] + secrets.token_urlsafe(18)
        entry = Entry(token, kind, self.folder / token, about)
        self.sweep()
        with self._lock:
            self._make_room(kind)
            entry.folder.mkdir(mode=0o700)
            self._entries[token] = entry
        return entry

    def get(self, token: str, kind: str) -> Entry:
        """The entry of a token, which counts as a use. `Gone` where there is none of this kind."""
        with self._lock:
            entry = self._entries.get(token)
            if entry is None or entry.kind != kind:
                raise Gone(f"this {WORDS[kind]} is not known here, or has expired; make it again")
            entry.used = time.monotonic()
            return entry

    def find(self, token: str) -> Entry:
        """The entry of a token of any kind."""
        with self._lock:
            entry = self._entries.get(token)
            if entry is None:
                raise Gone("this token is not known here, or has expired")
            entry.used = time.monotonic()
            return entry

    def remove(self, token: str) -> None:
        """Forget an entry and delete its files; nothing where it is gone already."""
        with self._lock:
            entry = self._entries.get(token)
            if entry is not None:
                self._remove(entry)

    def sweep(self) -> None:
        """Remove what was not used for too long."""
        with self._lock:
            for entry in [e for e in self._entries.values() if time.monotonic() - e.used > self._seconds]:
                self._remove(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Remove everything."""
        with self._lock:
            self._entries.clear()
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._held is not None:
                self._held.close()
                self._held = None

    def _make_room(self, kind: str) -> None:
        """Remove what was used longest ago, where there is too much of it."""
        oldest = sorted(self._entries.values(), key=lambda entry: entry.used)
        same = [entry for entry in oldest if entry.kind == kind]
        while len(same) >= self._most or (oldest and self._bytes() > self._most_bytes):
            entry = (same if len(same) >= self._most else oldest)[0]
            if time.monotonic() - entry.used < IDLE:
                raise Busy("busy: the server keeps too many pictures at the moment, try again in some minutes")
            self._remove(entry)
            same, oldest = ([each for each in found if each is not entry] for found in (same, oldest))

    def _bytes(self) -> int:
        """On disk. Jobs remove files of theirs meanwhile."""
        total = 0
        for folder, _, names in os.walk(self.folder):  # passes over folders that have gone
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.token]
        shutil.rmtree(entry.folder, ignore_errors=True)


def _locked(folder: Path) -> IO[bytes] | None:
    """A file in the folder, locked for as long as it is open; None where that cannot be had."""
    try:
        import fcntl

        held = (folder / ".lock").open("ab")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held
    except (ImportError, OSError):
        return None


def _remove_abandoned(root: Path) -> None:
    """Remove what servers that were killed left behind: folders that nobody holds."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            own = folder.lstat().st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
            if not own or time.time() - folder.stat().st_mtime < ABANDONED:
                continue
        except (OSError, AttributeError):  # gone meanwhile, or a system without users
            continue
        held = _locked(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            held.close()


def safe_name(name: str, fallback: str = "picture") -> str:
    """A file name without folders, of letters, digits, dots, dashes and underscores; at most 60 characters."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-")[-60:].strip("._-")
    return plain or fallback
