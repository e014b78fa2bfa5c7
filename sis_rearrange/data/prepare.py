"""`sis data prepare`: pictures as they come -> one zip of square uint8 PNGs with a manifest (see `prepared`)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from sis_rearrange.data.containers import Container, Item, open_container
from sis_rearrange.data.decoding import Refused, decode, shown
from sis_rearrange.data.layouts import SPLITS, Layout, Place, find_layout
from sis_rearrange.data.prepared import FORMAT, MANIFEST, MAX_RESOLUTION, MIN_RESOLUTION, VERSION
from sis_rearrange.data.workers import in_order
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import FITS, fit_image

FILTER = f"lanczos antialiased, Pillow {PIL.__version__}"  # FID depends on it, so the manifest says it
PER_FOLDER = 1000
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: no clock decides on its bytes


@dataclass(frozen=True)
class Settings:
    """How pictures are prepared."""

    resolution: int  # pixels per side, a power of two, as the generator's
    fit: str | None = None  # one of `images.FITS`; None: pictures must be square
    layout: str = "auto"  # one of `layouts.LAYOUTS`
    split: str = "all"  # one of `layouts.SPLITS`
    limit: int | None = None  # the first so many usable pictures; None: all
    strict: bool = False  # end at the first file that cannot be used instead of leaving it out

    def __post_init__(self) -> None:
        power = self.resolution > 0 and self.resolution & (self.resolution - 1) == 0
        if not power or not MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION:
            raise InputError(
                f"--resolution {self.resolution}: must be a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}"
            )
        if self.fit is not None and self.fit not in FITS:
            raise InputError(f"--fit {self.fit}: must be one of {', '.join(FITS)}{nearest(self.fit, FITS)}")
        if self.split not in SPLITS:
            raise InputError(f"--split {self.split}: must be one of {', '.join(SPLITS)}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--max {self.limit}: must be at least 1")


@dataclass
class Summary:
    """What came of it; all of it is in the manifest too."""

    pictures: int = 0
    enlarged: int = 0  # sources smaller than the resolution
    repeated: int = 0  # pictures whose source file came before, byte for byte
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (source, reason)
    skipped: Counter[str] = field(default_factory=Counter)  # files by reason
    splits: Counter[str] = field(default_factory=Counter)  # pictures by split, where the layout knows
    labels: Counter[str] = field(default_factory=Counter)


class Made(NamedTuple):
    """One prepared picture."""

    png: bytes
    sha256: str  # of its pixels
    source_sha256: str
    size: tuple[int, int]  # of the source, upright: width, height
    crop: tuple[int, int, int, int]  # of that: left, top, right, bottom


class NotSquare(NamedTuple):
    """A picture that needs ``--fit``."""

    size: tuple[int, int]


class Tag(NamedTuple):
    """What is known of a picture before it is read."""

    source: str
    place: Place
    skipped: dict[str, int]  # what was skipped before it: reading is ahead by as much as there are workers


class Misplaced(Refused):
    """A picture that cannot belong to this layout: nothing to leave out, but the wrong folder."""


def prepare(inputs: Sequence[Path], out: Path, settings: Settings, workers: int = 2) -> Summary:
    """Write the zip, whole or not at all; its bytes depend on the inputs and settings alone, not on ``workers``.

    Raises InputError: inputs that cannot be read at all, no usable picture, a picture that is not square without
    ``fit``, and, if ``strict``, any file that cannot be used.
    """
    if out.suffix.lower() != ".zip":
        raise InputError(f"{out}: the prepared pictures are one zip file; let the name end in .zip")
    if out.is_dir() or any(path.exists() and out.exists() and path.samefile(out) for path in inputs):
        raise InputError(f"{out}: is a folder or one of the inputs; name another file")
    containers = [open_container(path) for path in inputs]  # before there is a file that one of them might hold
    with _Writer(out) as writer:
        run = _Run(settings, writer)
        for number, container in enumerate(containers):
            if not run.full:
                run.take(number, container, workers)
        return run.finish(inputs)


class _Run:
    """One preparation under way."""

    def __init__(self, settings: Settings, writer: _Writer) -> None:
        self.settings, self.writer = settings, writer
        self.summary = Summary()
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self.classes: tuple[str, ...] = ()
        self._sources: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether there are as many pictures as wanted."""
        return self.settings.limit is not None and len(self.rows) >= self.settings.limit

    def take(self, number: int, container: Container, workers: int) -> None:
        """All pictures of one input."""
        path = container.path
        work = partial(make, self.settings.resolution, self.settings.fit)
        with (
            tqdm(total=container.size or None, desc=path.name, unit_scale=True, disable=None) as bar,
            contextlib.closing(in_order(work, self._jobs(container), workers)) as results,
        ):
            for tag, made in results:
                self._add(number, path, tag, made)
                if bar.total != container.size:
                    bar.total = container.size
                bar.update(container.position - bar.n)
                bar.set_postfix(pictures=len(self.rows), left_out=len(self.left_out), refresh=False)
                if self.full:
                    skipped = tag.skipped
                    break
            else:
                skipped = dict(container.skipped)
        self.summary.skipped.update(skipped)

    def _jobs(self, container: Container) -> Iterator[tuple[Tag, bytes | Refused]]:
        layout: Layout | None = None
        items = container.items()
        while True:
            try:
                item = next(items, None)
            except InputError as error:  # the container is damaged from here on; what was read is sound
                yield Tag("", Place(), dict(container.skipped)), Refused(str(error).removeprefix(f"{container.path}: "))
                return
            if item is None:
                return
            if layout is None:
                layout = find_layout(self.settings.layout, container, item.name)
                self.classes = self.classes or layout.classes
                if self.settings.split != "all" and layout.name not in ("ffhq", "afhq"):
                    raise InputError(f"--split {self.settings.split}: {container.path} has no splits; leave it out")
            try:
                place = layout.place(item.name)
            except InputError as error:
                yield Tag(item.name, Place(), {}), Misplaced(str(error))
                return
            if place is None:
                container.skipped[f"outside the layout {layout.name}"] += 1
            elif self.settings.split not in ("all", place.split):
                container.skipped[f"of another split than {self.settings.split}"] += 1
            else:
                yield Tag(item.name, place, dict(container.skipped)), _read(item)

    def _add(self, number: int, path: Path, tag: Tag, made: Made | NotSquare | Refused) -> None:
        where = f"{path}: {shown(tag.source)}" if tag.source else str(path)
        if isinstance(made, NotSquare):
            width, height = made.size
            raise InputError(f"{where}: is {width}x{height}, not square; give --fit {' or '.join(FITS)}")
        if isinstance(made, Misplaced):
            raise InputError(f"{path}: {made}")
        if isinstance(made, Refused):
            if self.settings.strict:
                raise InputError(f"{where}: {made}; remove it, or leave out --strict")
            self.summary.left_out.append((where, str(made)))
            self.left_out.append({"source": tag.source, "input": number, "reason": str(made)})
            return
        file = f"{len(self.rows) // PER_FOLDER:05d}/img{len(self.rows):08d}.png"
        self.writer.add(file, made.png)
        row: dict[str, Any] = {"file": file, "sha256": made.sha256, "source": tag.source, "input": number}
        row |= {"source_sha256": made.source_sha256, "size": made.size, "crop": made.crop}
        if tag.place.label is not None:
            row["label"] = self.classes.index(tag.place.label)
            self.summary.labels[tag.place.label] += 1
        if tag.place.split is not None:
            row["split"] = tag.place.split
            self.summary.splits[tag.place.split] += 1
        self.rows.append(row)
        left, top, right, bottom = made.crop
        self.summary.pictures += 1
        # Padded, a picture's longer side becomes the resolution; otherwise its shorter one does too
        decisive = max if self.settings.fit == "pad" else min
        self.summary.enlarged += decisive(right - left, bottom - top) < self.settings.resolution
        self.summary.repeated += made.source_sha256 in self._sources
        self._sources.add(made.source_sha256)

    def finish(self, inputs: Sequence[Path]) -> Summary:
        """Write the manifest."""
        names = ", ".join(map(str, inputs))
        if not self.rows:
            if self.summary.left_out:
                (where, reason), count = self.summary.left_out[0], len(self.summary.left_out)
                raise InputError(f"{names}: none of {count:,} pictures can be used; the first: {where}: {reason}")
            skipped = ", ".join(f"{count:,} {reason}" for reason, count in self.summary.skipped.items())
            raise InputError(f"{names}: no pictures there{f' ({skipped})' if skipped else ''}")
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "resolution": self.settings.resolution,
            "filter": FILTER,
            "fit": self.settings.fit,
            "classes": list(self.classes),
            "inputs": [path.name for path in inputs],
            "skipped": self.summary.skipped,
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
        for key, rows in (("left_out", self.left_out), ("pictures", self.rows)):
            lines.append(f'"{key}": [' + ",".join("\n" + json.dumps(row) for row in rows) + "]")
        self.writer.add(MANIFEST, ("{" + ",\n".join(lines) + "}\n").encode())
        self.writer.commit()
        return self.summary


def make(resolution: int, fit: str | None, data: bytes) -> Made | NotSquare | Refused:
    """One picture file -> its PNG. Scaled by Lanczos over all pixels that fall into one, in steps of no kind."""
    try:
        image = decode(data).image
    except Refused as reason:
        return reason
    width, height = image.size
    if width != height and fit is None:
        return NotSquare((width, height))
    side = min(width, height)
    left, top = ((width - side) // 2, (height - side) // 2) if fit == "crop" else (0, 0)
    crop = (left, top, left + side, top + side) if fit == "crop" else (0, 0, width, height)
    if (width, height) != (resolution, resolution):
        image = fit_image(image, resolution, fit or "stretch", (255, 255, 255))[0]
    pixels = np.asarray(image)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")  # a new image: nothing of the source's remarks goes with it
    sha256, source = hashlib.sha256(pixels.tobytes()), hashlib.sha256(data)
    return Made(stream.getvalue(), sha256.hexdigest(), source.hexdigest(), (width, height), crop)


def _read(item: Item) -> bytes | Refused:
    try:
        return item.read()
    except Refused as reason:
        return reason


class _Writer:
    """A zip of stored members beside its final place, put there when it is whole.

    A writer that is killed cannot remove its file, so it holds a lock on it, which ends with it: the next writer
    removes the files of this ending that nobody holds.
    """

    ENDING = ".prepare.tmp"

    def __init__(self, out: Path) -> None:
        self.out = out
        # same folder, so that os.replace is atomic
        self._temporary = out.with_name(f".{secrets.token_hex(8)}{self.ENDING}")
        self._file: IO[bytes] | None = None
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> _Writer:
        with self._failures():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            self._file = self._locked()
            self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        return self

    def _locked(self) -> IO[bytes]:
        """The new file, held as long as it is open."""
        while True:
            file = self._temporary.open("xb")
            with contextlib.suppress(OSError):  # a file system without locks, where nobody removes anything either
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()  # another writer removed it before it was locked

    def _remove_stale(self) -> None:
        """Remove what writers left that were killed."""
        for path in self.out.parent.glob(f".{'[0-9a-f]' * 16}{self.ENDING}"):
            with contextlib.suppress(OSError), path.open("r+b") as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
                path.unlink()

    def add(self, name: str, data: bytes) -> None:
        """Append a member."""
        member = zipfile.ZipInfo(name, _DATE)
        member.create_system, member.external_attr = 3, 0o644 << 16
        assert self._archive is not None
        with self._failures():
            self._archive.writestr(member, data)

    def commit(self) -> None:
        """Put the file where it belongs."""
        assert self._archive is not None
        with self._failures():
            self._archive.close()
            self._archive = None
            assert self._file is not None
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._temporary, self.out)

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            if self._archive is not None:
                self._archive.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.out}: cannot be written ({error.strerror or error})") from error
