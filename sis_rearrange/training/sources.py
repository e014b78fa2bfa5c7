"""Where training pictures come from: an embedded domain's renderer, which never runs dry, or a folder or zip of images,
best the zip that `sis data prepare` makes of them.

Picture number ``i`` of a training is the same whenever and by whomever it is asked for. Worker processes read ahead,
so that a step need not wait; how long it did is counted.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sis_rearrange.data.containers import Indexed, open_container
from sis_rearrange.data.decoding import SUFFIXES, Refused, decode, shown
from sis_rearrange.data.prepared import Prepared, is_prepared
from sis_rearrange.domains import SPLITS, Domain
from sis_rearrange.errors import InputError
from sis_rearrange.images import FITS, fit_image
from sis_rearrange.tensors import from_uint8

AHEAD = 4  # batches that each worker prepares before they are asked for


class Pictures(Dataset[np.ndarray]):
    """Numbered training pictures, uint8 ``[r, r, 3]``. A number has no end; where pictures are few they come again."""

    name: str  # what the run was trained on
    resolution: int
    endless = False  # whether none is ever seen twice in any training of sensible length

    def __getitem__(self, number: int) -> np.ndarray:
        """Picture ``number`` of the training. Raises InputError for one that cannot be read."""
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        """JSON-able: what decides which picture a number stands for."""
        return {"name": self.name, "resolution": self.resolution}


class Renders(Pictures):
    """The training split of an embedded domain, in order."""

    endless = True

    def __init__(self, domain: Domain, resolution: int) -> None:
        self.domain, self.name, self.resolution = domain, domain.name, resolution

    def __getitem__(self, number: int) -> np.ndarray:
        split = SPLITS["train"]
        return self.domain.picture(split[number % len(split)], self.resolution)


class ImageFiles(Pictures):
    """A folder (recursive), zip or prepared zip of images, in an order that is drawn anew for every pass by the seed.

    A prepared zip must be of the training's resolution, and its pictures are held against their hashes when they are
    read. Its labels are not looked at: no training here is class-conditional.
    """

    def __init__(
        self,
        path: Path,
        resolution: int,
        fit: str | None = None,  # how to make them square: one of FITS; None: they must be square
        mirror: bool = False,  # every second pass shows them mirrored
        seed: int = 0,
    ) -> None:
        if fit is not None and fit not in FITS:
            raise InputError(f"--fit {fit}: must be one of {', '.join(FITS)}")
        self.path, self.name, self.resolution = path, path.name, resolution
        self.fit, self.mirror, self.seed = fit, mirror, seed
        self._store = _open(path)
        self.files = self._store.names  # relative to the folder or zip
        if not self.files:
            raise InputError(f"{path}: holds no images ({', '.join(SUFFIXES)}); give a folder or zip that does")
        if isinstance(self._store, Prepared):
            self._check_prepared(self._store)

    def describe(self) -> dict[str, object]:
        """With the number of images, how they are made square, and the order's seed."""
        own: dict[str, object] = {"images": len(self.files), "fit": self.fit, "mirror": self.mirror, "seed": self.seed}
        if isinstance(self._store, Prepared):
            own |= {"fit": self._store.fit, "filter": self._store.filter, "manifest": self._store.digest}
        return super().describe() | own

    def __getitem__(self, number: int) -> np.ndarray:
        turn, place = divmod(number, len(self.files))
        index = int(_order(self.seed, turn, len(self.files))[place])
        pixels = self._store.read(index) if isinstance(self._store, Prepared) else self._read(self._store, index)
        return pixels[:, ::-1] if self.mirror and turn % 2 else pixels

    def _read(self, store: Indexed, index: int) -> np.ndarray:
        where = f"{self.path}{'/' if self.path.is_dir() else ': '}{shown(store.names[index])}"
        try:
            image = decode(store.data(index)).image
        except Refused as reason:
            raise InputError(
                f"{where}: {reason}; remove it (`sis data check` names all such files, `prepare` leaves them out)"
            ) from None
        if self.fit is None and image.width != image.height:
            raise InputError(f"{where}: is {image.width}x{image.height}, not square; give --fit {' or '.join(FITS)}")
        if image.size != (self.resolution, self.resolution):
            # Lanczos is antialiased in Pillow: it averages over all pixels that fall into one
            image = fit_image(image, self.resolution, self.fit or "stretch", (255, 255, 255))[0]
        return np.asarray(image)

    def _check_prepared(self, store: Prepared) -> None:
        if store.resolution != self.resolution:
            raise InputError(
                f"{self.path}: was prepared at {store.resolution} pixels, not --resolution {self.resolution}; "
                "`sis data prepare` the pictures it was made from"
            )
        if self.fit not in (None, store.fit):
            raise InputError(
                f"--fit {self.fit}: {self.path} was prepared with {store.fit or 'square pictures'}; leave --fit out"
            )


def _open(path: Path) -> Indexed | Prepared:
    if not path.exists():
        raise InputError(f"{path}: no such folder, zip file or embedded domain")
    if is_prepared(path):
        return Prepared(path)
    store = open_container(path)
    if not isinstance(store, Indexed):
        raise InputError(f"{path}: is read from front to back only; first  sis data prepare {path} OUT.zip")
    return store


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, turn]).permutation(count)


class Feed:
    """Batches of pictures in the order of their numbers, read ahead by worker processes."""

    def __init__(self, pictures: Pictures, batch: int, workers: int) -> None:
        self.pictures, self.batch, self.workers = pictures, batch, workers
        self.waited = 0.0  # seconds that callers waited for pictures
        self._batches: Iterator[np.ndarray | str] = iter(())
        self._next = -1  # number of the first picture of the batch that comes next

    def take(self, first: int) -> torch.Tensor:
        """Pictures ``first`` to ``first + batch - 1``: float32 ``[batch, 3, r, r]`` in [-1, 1]. Raises InputError."""
        if first != self._next:
            self.close()
            self._batches, self._next = self._from(first), first
        started = time.monotonic()
        found = next(self._batches)
        self.waited += time.monotonic() - started
        self._next += self.batch
        if isinstance(found, str):
            raise InputError(found)
        return from_uint8(found)

    def close(self) -> None:
        """End the workers."""
        self._batches, self._next = iter(()), -1

    def _from(self, first: int) -> Iterator[np.ndarray | str]:
        # Arrays go through pipes: shared memory for tensors is small in containers, and running out of it kills
        methods = multiprocessing.get_all_start_methods()
        loader: DataLoader[np.ndarray | str] = DataLoader(
            _OrError(self.pictures),
            batch_sampler=_Numbers(first, self.batch),
            num_workers=self.workers,
            collate_fn=_stack,
            prefetch_factor=AHEAD if self.workers else None,
            worker_init_fn=_leave_signals,
            multiprocessing_context="fork" if self.workers and "fork" in methods else None,
        )
        return iter(loader)


class _Numbers:
    """Endless batches of numbers in order."""

    def __init__(self, first: int, batch: int) -> None:
        self.first, self.batch = first, batch

    def __iter__(self) -> Iterator[list[int]]:
        at = self.first
        while True:
            yield list(range(at, at + self.batch))
            at += self.batch


class _OrError(Dataset["np.ndarray | str"]):
    """Pictures, or the message of the InputError where one cannot be read: workers pass on no exceptions unchanged."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __getitem__(self, number: int) -> np.ndarray | str:
        try:
            return self.pictures[number]
        except InputError as error:
            return str(error)


def _stack(found: Sequence[np.ndarray | str]) -> np.ndarray | str:
    errors = [each for each in found if isinstance(each, str)]
    return errors[0] if errors else np.stack([each for each in found if not isinstance(each, str)])


def _leave_signals(_worker: int) -> None:
    """Signals reach every process of a terminal or service: the training decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
