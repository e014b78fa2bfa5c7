"""`sis data check`: every file that cannot be used, with the reason, and what else to know of the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from sis_rearrange.data import likeness
from sis_rearrange.data.containers import Container, open_container
from sis_rearrange.data.decoding import Refused, decode, shown
from sis_rearrange.data.prepared import Prepared, is_prepared
from sis_rearrange.data.workers import in_order
from sis_rearrange.errors import InputError

MANY = 10  # lines of a table; --json has all


class Seen(NamedTuple):
    """One usable picture."""

    size: tuple[int, int]  # upright: width, height
    mode: str
    pixels: bytes  # sha256 of size and pixels
    look: likeness.Look


@dataclass
class Report:
    """What a container holds."""

    path: str
    pictures: int = 0  # that can be used
    bad: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> files
    sizes: dict[str, int] = field(default_factory=dict)  # "WIDTHxHEIGHT" -> pictures, the commonest first
    modes: dict[str, int] = field(default_factory=dict)  # colour mode -> pictures
    not_square: int = 0
    smallest_side: int = 0
    duplicates: list[list[str]] = field(default_factory=list)  # files with the same pixels
    near_duplicates: list[list[str]] = field(default_factory=list)  # files that look alike; see `likeness`
    prepared: int | None = None  # resolution of a prepared zip, whose hashes are checked then

    @property
    def usable(self) -> bool:
        """Whether every picture can be used."""
        return self.pictures > 0 and not self.bad

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {
            **self.__dict__,
            "bad": [{"file": file, "reason": reason} for file, reason in self.bad],
            "near_threshold": {"hash": "dHash 16x16", "bits": likeness.THRESHOLD, "of": likeness.BITS},
            "usable": self.usable,
        }

    def lines(self) -> Iterator[str]:
        """The report for people; the bad files first, all of them."""
        yield from (f"bad: {shown(file)}: {reason}" for file, reason in self.bad)
        yield f"{self.pictures:,} pictures can be used, {len(self.bad):,} cannot"
        if self.prepared is not None:
            yield f"prepared at {self.prepared} px; every picture was held against its hash in the manifest"
        for reason, count in sorted(self.skipped.items()):
            yield f"skipped: {count:,} {reason}"
        yield from _table("size", self.sizes)
        yield from _table("colour", self.modes)
        if self.smallest_side:
            yield f"smallest side: {self.smallest_side} px; pictures smaller than --resolution are enlarged"
        if self.not_square:
            yield f"not square: {self.not_square:,}; prepare them with --fit crop (or pad, or stretch)"
        yield from _families("the same pixels", self.duplicates)
        yield from _families(
            f"looking alike (at most {likeness.THRESHOLD} of {likeness.BITS} bits of dHash)", self.near_duplicates
        )


def check(path: Path, workers: int = 2) -> Report:
    """Look at every file of a folder, zip, tar or LMDB. Raises InputError where it cannot be opened at all."""
    if is_prepared(path):
        _check_hashes(path, report := Report(str(path)))
        return report
    container = open_container(path)
    report = Report(str(path))
    names: list[str] = []
    seen: list[Seen] = []
    with tqdm(total=container.size or None, desc=path.name, unit_scale=True, disable=None) as bar:
        for name, found in in_order(look, _jobs(container), workers):
            if isinstance(found, Refused):
                report.bad.append((name, str(found)))
            else:
                names.append(name)
                seen.append(found)
            if bar.total != container.size:
                bar.total = container.size
            bar.update(container.position - bar.n)
    report.skipped = dict(container.skipped)
    _count(report, names, seen)
    return report


def look(data: bytes) -> Seen | Refused:
    """What is to know of one picture file."""
    try:
        image, mode = decode(data)
    except Refused as reason:
        return reason
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return Seen(image.size, mode, digest.digest(), likeness.look_at(image))


def _jobs(container: Container) -> Iterator[tuple[str, bytes | Refused]]:
    items = container.items()
    while True:
        try:
            item = next(items, None)
        except InputError as error:  # damaged from here on
            yield container.path.name, Refused(str(error).removeprefix(f"{container.path}: "))
            return
        if item is None:
            return
        try:
            data: bytes | Refused = item.read()
        except Refused as reason:
            data = reason
        yield item.name, data


def _count(report: Report, names: list[str], seen: list[Seen]) -> None:
    report.pictures = len(seen)
    report.sizes = dict(Counter(f"{each.size[0]}x{each.size[1]}" for each in seen).most_common())
    report.modes = dict(Counter(each.mode for each in seen).most_common())
    report.not_square = sum(each.size[0] != each.size[1] for each in seen)
    report.smallest_side = min((min(each.size) for each in seen), default=0)
    places: dict[bytes, list[int]] = {}
    for place, each in enumerate(seen):
        places.setdefault(each.pixels, []).append(place)
    report.duplicates = [[names[place] for place in group] for group in places.values() if len(group) > 1]
    alone = [group[0] for group in places.values()]  # one of each: the others are named already
    alike = likeness.find_alike([seen[place].look for place in alone])
    report.near_duplicates = [[names[alone[at]] for at in group] for group in alike]


def _check_hashes(path: Path, report: Report) -> None:
    pictures = Prepared(path)
    report.prepared = pictures.resolution
    for index in tqdm(range(len(pictures)), desc=path.name, unit_scale=True, disable=None):
        try:
            pictures.read(index)
            report.pictures += 1
        except InputError as error:
            report.bad.append((pictures.names[index], str(error).removeprefix(f"{path}: ")))
    report.sizes = {f"{pictures.resolution}x{pictures.resolution}": report.pictures}
    report.modes = {"RGB": report.pictures}
    report.smallest_side = pictures.resolution


def _table(what: str, counts: dict[str, int]) -> Iterator[str]:
    rows = list(counts.items())
    yield from (f"{what}: {name:>11} {count:>9,}" for name, count in rows[:MANY])
    if len(rows) > MANY:
        yield f"{what}: {len(rows) - MANY:,} others {sum(count for _, count in rows[MANY:]):>9,}"


def _families(what: str, groups: list[list[str]]) -> Iterator[str]:
    if groups:
        yield f"{what}: {sum(len(group) - 1 for group in groups):,} beyond the first of their kind"
    for group in groups[:MANY]:
        more = f" and {len(group) - 4:,} more" if len(group) > 4 else ""
        yield f"  {' = '.join(map(shown, group[:4]))}{more}"
    if len(groups) > MANY:
        yield f"  and {len(groups) - MANY:,} groups more; --json names all"
