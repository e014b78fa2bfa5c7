"""What every method in the few-shot table offers, and the one that ignores the drawing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import Networks
from sis_rearrange.pack import PROXY, REARRANGER, Pack
from sis_rearrange.tensors import assert_shape
from sis_rearrange.training.few_shot import Shot


class Baseline(ABC):
    """A way from a drawn part mask to a picture, learnt from a few annotated samples of a pack's generator.

    The fields of these dataclasses are settings; what `fit` learns is kept beside them, for one pack and one set of
    shots at a time: another `fit` forgets the first.
    """

    name: ClassVar[str]  # in files and on the command line
    title: ClassVar[str]  # for people
    learns: ClassVar[bool] = True  # whether the annotated samples make a difference
    networks: ClassVar[tuple[str, ...]] = ()  # of the pack that do too, beside generator, segmenter and judge
    psi: float  # truncation of the samples
    fit_seconds: float = 0.0  # of the `fit` that stands, where the last call found it done already

    @abstractmethod
    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Learn from annotated samples of ``pack.generator()``; ``seed`` decides everything random.

        ``progress``: draw bars on stderr; None: where it is a terminal. Raises InputError where the pack lacks a part.
        """

    @abstractmethod
    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Pictures float32 ``[N, 3, R, R]`` in [-1, 1] for masks int64 ``[N, R, R]``, one seed for each picture.

        Picture i depends on mask i and seed i alone, up to rounding. Raises ValueError before `fit`.
        """

    def settings(self) -> dict[str, Any]:
        """Everything that can make a difference to the results, JSON-able."""
        return asdict(self)  # type: ignore[call-overload]


class Rearranging(Baseline):
    """A method that asks the pack's rearranger for proxy masks. `fit` leaves ``_networks``, with the rearranger."""

    networks: ClassVar[tuple[str, ...]] = (PROXY, REARRANGER)

    @abstractmethod
    def asked(self, masks: torch.Tensor, source_labels: torch.Tensor) -> torch.Tensor:
        """The proxy masks int64 ``[N, r, r]`` for drawn masks ``[N, R, R]``, of clusters that the sources have."""

    @torch.inference_mode()
    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See `Baseline.synthesize`."""
        networks = fitted(self, "_networks")
        check_masks(masks, seeds, networks.split.generator.img_resolution)
        source = networks.sources(seeds)
        return networks.rearrange(source, self.asked(masks, source.labels))[1]


@dataclass
class Ignoring(Baseline):
    """The unconditional sample of the seed, whatever was drawn: what no method may fall below."""

    psi: float = 0.9

    name = "ignoring"
    title = "unconditional sample, drawing ignored"
    learns = False

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Take the pack's generator; see `Baseline.fit`."""
        self._networks = Networks.of(pack, self.psi, rearranger=False)

    @torch.inference_mode()
    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See `Baseline.synthesize`; the masks are only counted."""
        networks = fitted(self, "_networks")
        check_masks(masks, seeds, networks.split.generator.img_resolution)
        return networks.picture(networks.sources(seeds))


def fitted(baseline: Baseline, attribute: str) -> Any:
    """Something that `Baseline.fit` has left; ValueError before."""
    if attribute not in vars(baseline):
        raise ValueError(f"{baseline.name}: call fit first")
    return getattr(baseline, attribute)


def check_masks(masks: torch.Tensor, seeds: Sequence[int], resolution: int) -> None:
    """ValueError unless there is one square label map of the generator's size for each seed."""
    assert_shape(masks, [len(seeds), resolution, resolution])


def check_shots(shots: Sequence[Shot], pack: Pack) -> None:
    """InputError without any shot; ValueError for labels that are not whole maps of the pack's classes."""
    if not shots:
        raise InputError("no annotated sample: one is enough, none is not")
    for shot in shots:
        assert_shape(shot.labels, [pack.resolution, pack.resolution])
        if int(shot.labels.min()) < 0 or int(shot.labels.max()) >= len(pack.classes):
            raise ValueError(f"labels must lie in [0, {len(pack.classes)})")
