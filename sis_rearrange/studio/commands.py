"""Copy as command line: the `sis` command that makes the same picture, to the bit, from the files beside it.

Files are called by the names under which the page offers them: the drawing as it was sent is drawing.png, an edited
mask mask.png, an inversion and an uploaded picture what the replies call them. A pack is called by its name.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from sis_rearrange.errors import InputError
from sis_rearrange.inversion import Crop
from sis_rearrange.sampling import DEFAULT_PSI
from sis_rearrange.studio.protocol import (
    EditRequest,
    InvertRequest,
    MixRequest,
    MorphRequest,
    RenderRequest,
    TransferRequest,
)
from sis_rearrange.studio.values import Look

DRAWING, MASK = "drawing.png", "mask.png"
FIRST, SECOND = "first.png", "second.png"
OUT = "out"


@dataclass
class Command:
    """A command line under construction, and the files that it reads."""

    words: list[str]
    needs: list[str] = field(default_factory=list)

    def add(self, *words: object) -> Command:
        """Words behind those that are there; numbers as Python writes them, so that they are read back exactly."""
        self.words += [f"{word!r}" if isinstance(word, float) else str(word) for word in words]
        return self

    def file(self, name: str) -> str:
        """A file that the command reads."""
        if name not in self.needs:
            self.needs.append(name)
        return name

    def line(self) -> str:
        """For a POSIX shell."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Names:
    """What a command calls things: the pack, and the files of inverted pictures by token."""

    pack: str
    device: str = "auto"
    inversions: dict[str, str] = field(default_factory=dict)

    def start(self, command: str) -> Command:
        """`sis COMMAND PACK`."""
        return Command(["sis", command, self.pack])

    def end(self, command: Command, out: str) -> Command:
        """The options that all commands share."""
        if self.device != "auto":
            command.add("--device", self.device)
        return command.add("--out", out)

    def look(self, command: Command, look: Look) -> str:
        """A look as one word: its seed, or the file of the inversion."""
        return str(look.seed) if look.picture is None else command.file(self.inversions[look.picture])


def render_command(request: RenderRequest, condition: str, backend: str, names: Names) -> Command:
    """`sis synthesize` for a drawing; ``condition`` is the kind of drawing, ``backend`` what painted it."""
    command = names.start("synthesize").add("--condition", condition)
    drawn, look = request.drawing, request.look
    command.add(command.file(DRAWING) if drawn.look is None else names.look(command, drawn.look))
    if look.picture is None:
        command.add("--seeds", look.seed, "--psi", psi_for(look))
    else:
        command.add("--source", names.look(command, look))
    if request.fit != "pad":
        command.add("--fit", request.fit)
    if request.samples > 1:
        command.add("--samples", request.samples, "--temperature", request.temperature)
        command.add("--sample-seed", request.layout_seed)
    if request.refine:
        command.add("--refine", request.refine)
    return names.end(command.add("--backend", backend), OUT)


def edit_command(request: EditRequest, picture: str, kind: str, names: Names) -> Command:
    """`sis edit`."""
    command = names.start("edit")
    command.add(command.file(picture), "--mask", command.file(MASK))
    command.add("--source", command.file(names.inversions[request.token]), "--kind", kind)
    return names.end(command.add("--feather", request.feather), f"{OUT}/edited.png")


def mix_command(request: MixRequest, names: Names) -> Command:
    """`sis mix`. InputError for looks of two truncations, which no command makes."""
    command = names.start("mix")
    command.add(names.look(command, request.structure), names.look(command, request.look))
    if request.layer is not None:
        command.add("--layer", request.layer)
    command.add("--psi", one_psi(request.structure, request.look))
    return names.end(command, f"{OUT}/mixed.png")


def transfer_command(request: TransferRequest, names: Names) -> Command:
    """`sis transfer`; InputError as `mix_command`."""
    command = names.start("transfer")
    command.add(names.look(command, request.base), names.look(command, request.donor))
    for part in request.parts:
        command.add("--part", part)
    command.add("--psi", one_psi(request.base, request.donor))
    return names.end(command, f"{OUT}/transferred.png")


def morph_command(request: MorphRequest, condition: str | None, names: Names) -> Command:
    """`sis morph`; InputError as `mix_command`."""
    command = names.start("morph")
    ends = ((request.first, FIRST), (request.second, SECOND))
    for end, name in ends:
        command.add(command.file(name) if end.look is None else names.look(command, end.look))
    looks = [end.look for end, _ in ends if end.look is not None]
    if request.look is not None:
        command.add("--look", names.look(command, request.look))
        looks.append(request.look)
    if condition is not None:
        command.add("--condition", condition)
    command.add("--through", request.through, "--frames", request.frames, "--rate", request.rate)
    command.add("--psi", one_psi(*looks))
    return names.end(command, f"{OUT}/morph.gif")


def invert_command(request: InvertRequest, picture: str, crop: Crop, inversion: str, names: Names) -> Command:
    """`sis invert`."""
    command = names.start("invert")
    command.add(command.file(picture), "--crop", f"{crop.x},{crop.y},{crop.size}", "--steps", request.steps)
    if not request.tune:
        command.add("--no-tune")
    return names.end(command.add("--seed", request.seed), inversion)


def psi_for(look: Look) -> float:
    """The truncation of a seed's look."""
    return DEFAULT_PSI if look.psi is None else look.psi


def one_psi(*looks: Look) -> float:
    """The truncation that all seeds among the looks share."""
    found = {psi_for(look) for look in looks if look.picture is None}
    if len(found) > 1:
        raise InputError(f"psi: all looks take one truncation, got {' and '.join(f'{psi:g}' for psi in sorted(found))}")
    return found.pop() if found else DEFAULT_PSI
