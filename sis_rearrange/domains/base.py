"""What an embedded domain is: named part classes, their palette, and a renderer that is a pure function of an index."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from sis_rearrange.errors import InputError

# One numbering for every domain. Nothing is ever trained on "val" or "test".
SPLITS: dict[str, range] = {
    "train": range(0, 1_000_000),
    "val": range(1_000_000, 1_001_000),
    "test": range(1_001_000, 1_002_000),
}

MIN_RESOLUTION, MAX_RESOLUTION = 8, 2048  # pixels per side

Render = Callable[[int, int], "tuple[np.ndarray, np.ndarray]"]
Picture = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Domain:
    """A kind of picture that can be rendered with its ground-truth part mask.

    ``render(index, resolution)`` returns (picture uint8 ``[r, r, 3]`` RGB, mask uint8 ``[r, r]`` with values that
    index ``classes``). It depends on nothing but its two arguments, and the drawing depends on the index alone.
    """

    name: str  # what users type
    classes: tuple[str, ...]  # part names; the position is the label
    palette: tuple[tuple[int, int, int], ...]  # RGB 0..255 per class, for people and for index PNGs
    licence: str  # of the rendered art
    credit: str  # the attribution line to show wherever the art is shipped
    render: Render  # module-level function, so that worker processes can find it
    render_picture: Picture | None = None  # the picture alone, where that is quicker; None: of what ``render`` gives

    def picture(self, index: int, resolution: int) -> np.ndarray:
        """Picture ``index`` without its mask: uint8 ``[r, r, 3]`` RGB, the very pixels that ``render`` gives."""
        if self.render_picture is None:
            return self.render(index, resolution)[0]
        return self.render_picture(index, resolution)

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{self.name}: {len(self.classes)} classes but {len(self.palette)} palette colours")


def check_request(index: int, resolution: int) -> None:
    """Raise InputError unless ``index >= 0`` and the resolution (pixels per side) is one that a renderer draws."""
    if index < 0:
        raise InputError(f"index {index}: indices of rendered pictures start at 0")
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise InputError(f"resolution {resolution}: choose one from {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")


def split_indices(split: str, count: int | None = None, start: int = 0) -> range:
    """The first ``count`` indices of a split (all when None), after skipping ``start`` of them.

    Raises InputError for an unknown split or when the split holds fewer pictures than asked for.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    whole = SPLITS[split]
    count = len(whole) - start if count is None else count
    if start < 0 or count < 1 or start + count > len(whole):
        raise InputError(f"split '{split}' holds {len(whole):,} pictures: cannot take {count:,} from {start:,} on")
    return whole[start : start + count]


def render_many(
    domain: Domain,
    indices: Iterable[int],
    resolution: int,
    workers: int = 2,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Render many indices: (pictures uint8 ``[N, r, r, 3]``, masks uint8 ``[N, r, r]``), in the order asked for.

    ``workers`` is the number of processes (0 or 1: in this process); the result does not depend on it.
    ``progress`` is the title of a progress bar on stderr, drawn where that is a terminal; None draws no bar.
    """
    wanted = [int(index) for index in indices]
    pictures = np.empty((len(wanted), resolution, resolution, 3), np.uint8)
    masks = np.empty((len(wanted), resolution, resolution), np.uint8)
    for at, (picture, mask) in enumerate(_rendered(domain, wanted, resolution, workers, progress)):
        pictures[at], masks[at] = picture, mask
    return pictures, masks


def _rendered(
    domain: Domain, wanted: Sequence[int], resolution: int, workers: int, progress: str | None
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    job = partial(_render_one, domain.render, resolution)
    quiet = True if progress is None else None  # None: where stderr is no terminal, as in logs
    bar = partial(tqdm, total=len(wanted), desc=progress, unit="pic", disable=quiet)
    # Below this a pool costs more than it saves.
    if workers <= 1 or len(wanted) < 32:
        yield from bar(map(job, wanted))
        return
    # fork starts at once and needs no import guard in the caller's script; the workers touch neither torch nor
    # OpenMP, so the usual danger of forking a threaded process does not apply. Elsewhere: the platform's default.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        pool = context.Pool(workers)
    with pool:
        yield from bar(pool.imap(job, wanted, chunksize=max(1, min(32, len(wanted) // (4 * workers)))))


def _render_one(render: Render, resolution: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    return render(index, resolution)
