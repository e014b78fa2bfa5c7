"""Where a tensor of a converted file goes, and what became of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

SHOWN = 4  # names per line of the summary


class Place(NamedTuple):
    """Where a tensor goes, and what is done to it on the way."""

    name: str
    change: Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Report:
    """Filled in while a network is converted; names on the left are those of the file."""

    layout: str  # the file's: "pytorch", "tensorflow" or "rosinality"
    kept: list[str] = field(default_factory=list)  # under their own names
    renamed: dict[str, str] = field(default_factory=dict)  # name in the file -> official name
    added: dict[str, str] = field(default_factory=dict)  # official name -> where its value is from
    dropped: dict[str, str] = field(default_factory=dict)  # tensor or setting of the file -> why
    notes: list[str] = field(default_factory=list)  # anything else worth knowing

    def place(self, name: str, official: str) -> None:
        """Note that a tensor found its place."""
        if name == official:
            self.kept.append(name)
        else:
            self.renamed[name] = official

    def lines(self) -> list[str]:
        """For people: a line of counts, then one for every reason to add or drop something."""
        counts = [f"{len(self.kept)} kept", f"{len(self.renamed)} renamed"]
        counts += [f"{len(self.added)} added", f"{len(self.dropped)} dropped"]
        lines = [f"{self.layout} layout: {', '.join(counts)}"]
        for verb, entries in (("added", self.added), ("dropped", self.dropped)):
            reasons: dict[str, list[str]] = {}
            for name, reason in entries.items():
                reasons.setdefault(reason, []).append(name)
            for reason, names in reasons.items():
                rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"{verb} {', '.join(names[:SHOWN])}{rest}: {reason}")
        return lines + self.notes
