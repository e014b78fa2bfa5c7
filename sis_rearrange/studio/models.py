"""One pack, ready to draw: its networks, and the looks that were asked for lately.

Seeds are painted by the engine where it is there. A picture whose generator was tuned, and a pack with own classes,
would each make the engine compile graphs of their own for seconds: plain torch paints those.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from sis_rearrange.conditions import Palette
from sis_rearrange.editing import Editor
from sis_rearrange.editing import Look as EditorLook
from sis_rearrange.inversion import Inversion
from sis_rearrange.pack import SEGMENTER, Pack, load_pack
from sis_rearrange.sampling import DEFAULT_PSI
from sis_rearrange.studio.pictures import png
from sis_rearrange.studio.refusals import Gone
from sis_rearrange.studio.store import Entry, Store
from sis_rearrange.studio.values import Look
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.whole_graph import Source

LOOKS, THUMBNAILS = 48, 1000  # of seeds, kept
INVERTED = 4  # of pictures: each may hold a generator of its own
OWN = 2  # packs with own classes, kept

T = TypeVar("T")


class Recent(Generic[T]):
    """The values that were used last, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not there."""
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


@dataclass(frozen=True, eq=False)
class Shown:
    """A look, with the pictures of it that every reply shows."""

    source: Source
    synth: Synthesizer  # what paints it
    image: Image.Image
    image_png: bytes
    proxy_png: bytes


class Model:
    """One pack's networks and looks, for the thread that makes pictures."""

    def __init__(self, pack: Pack, store: Store, device: str = "auto", backend: str = "auto") -> None:
        self.pack, self.device, self.store = pack, device, store
        self.fast = Synthesizer(pack, device, backend)
        self.plain = self.fast if self.fast.backend == "torch" else Synthesizer(pack, device, "torch")
        self.editor = Editor(pack, device)
        self._seeds: Recent[Shown] = Recent(LOOKS)
        self._thumbnails: Recent[bytes] = Recent(THUMBNAILS)
        self._inverted: Recent[Shown] = Recent(INVERTED)
        self._editor_looks: Recent[EditorLook] = Recent(INVERTED)
        self._inversions: Recent[Inversion] = Recent(INVERTED)
        self._own: Recent[Model] = Recent(OWN)

    @property
    def parts(self) -> Palette | None:
        """The palette of part masks."""
        return self.pack.palette()

    @property
    def has_segmenter(self) -> bool:
        """Whether parts can be seen in pictures."""
        return SEGMENTER in self.pack.info["files"] and bool(self.pack.classes)

    def look(self, look: Look) -> Shown:
        """A look, ready to be painted in; `Gone` for an unknown picture, InputError for one of another pack."""
        if look.picture is not None:
            self.store.get(look.picture, "inversion")
            return self._inverted.get(look.picture, lambda: self._shown(look))
        return self._seeds.get((look.seed, psi_of(look)), lambda: self._shown(look))

    def thumbnail(self, look: Look) -> bytes:
        """The picture of a seed's look as PNG. Looking at many drives none out that is drawn in."""
        return self._thumbnails.get((look.seed, psi_of(look)), lambda: self._shown(look).image_png)

    def editor_look(self, look: Look) -> EditorLook:
        """The same, for edits."""
        if look.picture is not None:
            self.store.get(look.picture, "inversion")
        of = look.seed if look.seed is not None else self.inversion(str(look.picture))
        return self._editor_looks.get(look, lambda: self.editor.look(of, psi_of(look)))

    def inversion(self, token: str) -> Inversion:
        """The inversion of a token."""
        entry = self.store.get(token, "inversion")
        return self._inversions.get(token, lambda: Inversion.load(inversion_file(entry), self.pack))

    def own(self, token: str) -> Model:
        """The model of own classes that were learnt for this pack."""
        entry = self.store.get(token, "classes")
        if entry.about["pack"] != self.pack.name:
            raise Gone(f"these classes were learnt for another pack than {self.pack.name!r}")
        return self._own.get(token, lambda: Model(load_pack(own_folder(entry)), self.store, self.device, "torch"))

    def _shown(self, look: Look) -> Shown:
        synth = self.fast
        if look.picture is not None:
            synth = self.plain
            source = synth.set_source(inversion=self.inversion(look.picture))
        else:
            source = synth.set_source(seed=look.seed, psi=psi_of(look))
        image = synth.source_image(source)
        return Shown(source, synth, image, png(image), png(synth.proxy_image(source.labels[0])))


def psi_of(look: Look) -> float:
    """The truncation of a look's sample."""
    return DEFAULT_PSI if look.psi is None else look.psi


def inversion_file(entry: Entry) -> Path:
    """The file of an inversion."""
    return entry.folder / str(entry.about["file"])


def own_folder(entry: Entry) -> Path:
    """The folder of a pack with own classes."""
    return entry.folder / str(entry.about["name"])
