"""From one layout to another in steps, in one look: frames, a GIF, or an MP4 where a library for it is there."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes, write_png

MAX_FRAMES = 1000
THROUGH = ("masks", "latents")
SOFTNESS = 0.35  # cells over which one cluster gives way to the next
FAR = 4.0  # cells: no cluster counts as farther from a cell than this, so that new ones grow instead of popping up
FILM_SIDE = 256  # pixels, at least, of the frames of a film
HOLD = 6  # frames for which a film rests at both ends


def distances(labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Signed distance of each cell to each cluster's border, float32 ``[K, h, w]``: positive inside, at most `FAR`."""
    planes = []
    for k in range(num_clusters):
        inside = labels == k
        if not inside.any():
            planes.append(np.full(labels.shape, -FAR))
            continue
        out = ndimage.distance_transform_edt(~inside) - 0.5
        deep = ndimage.distance_transform_edt(inside) - 0.5 if not inside.all() else np.full(labels.shape, FAR)
        planes.append(np.where(inside, deep, -out))
    return np.clip(np.stack(planes), -FAR, FAR).astype(np.float32)


def between(first: np.ndarray, second: np.ndarray, t: float) -> torch.Tensor:
    """The soft mask ``[1, K, h, w]`` at ``t`` in [0, 1] between two layouts given as `distances`."""
    mixed = torch.from_numpy((1 - t) * first + t * second)
    return (mixed / SOFTNESS).softmax(dim=0)[None]


@torch.inference_mode()
def morph(
    editor: Editor,
    look: Look,
    first: torch.Tensor,
    second: torch.Tensor,
    frames: int,
) -> Iterator[torch.Tensor]:
    """Images ``[1, 3, R, R]`` of a look from one layout to another, labels ``[1, r, r]`` in clusters of the look.

    Outlines move: what is interpolated is the signed distance of every cell to every cluster.
    """
    check_frames(frames)
    ends = [distances(labels[0].cpu().numpy(), editor.proxy.K) for labels in (first, second)]
    for step in range(frames):
        moved = editor.move(look, between(ends[0], ends[1], step / (frames - 1)))
        yield look.decode(moved.feature_map, moved.skip)


@torch.inference_mode()
def morph_latents(editor: Editor, look: Look, first: Look, second: Look, frames: int) -> Iterator[torch.Tensor]:
    """The same along the generator's own way between two samples: each step's layout is that of the mean ws."""
    check_frames(frames)
    for step in range(frames):
        ws = first.ws.lerp(second.ws, step / (frames - 1))
        logits = editor.proxy.logits(first.split.g1(ws)[0])
        moved = editor.move(look, editor.reachable(logits, look))
        yield look.decode(moved.feature_map, moved.skip)


def check_frames(frames: int) -> None:
    """Raise InputError for a number of frames that makes no film."""
    if not 2 <= frames <= MAX_FRAMES:
        raise InputError(f"--frames {frames}: give 2 to {MAX_FRAMES:,}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_film(path: Path) -> str:
    """What a path asks for: "folder", "gif" or "mp4". InputError for another kind of file and for a missing library."""
    suffix = path.suffix.lower()
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError(f"{path}: MP4 needs 'pip install imageio-ffmpeg'; or name a .gif, which needs nothing")
    if suffix in ("", ".gif", ".mp4"):
        return {"": "folder"}.get(suffix, suffix[1:])
    raise InputError(f"{path}: name a .gif, an .mp4, or a folder for frames")


def write_film(path: Path, frames: Sequence[Image.Image], rate: float) -> None:
    """Write frames (RGB, one size) as the path asks: see `check_film`. GIF and MP4 come whole or not at all."""
    kind = check_film(path)
    if kind == "folder":
        for number, frame in enumerate(frames):
            write_png(path / f"frame{number:04d}.png", frame)
        return
    rested = [frames[0]] * HOLD + list(frames) + [frames[-1]] * HOLD
    write_bytes(path, _gif(rested, rate) if kind == "gif" else _mp4(rested, rate))


def _gif(frames: Sequence[Image.Image], rate: float) -> bytes:
    stream = io.BytesIO()
    reduced = [frame.quantize(128, method=Image.Quantize.MEDIANCUT) for frame in frames]
    duration = max(20, round(1000 / rate))  # browsers slow down what is faster than 50 a second
    reduced[0].save(stream, "GIF", save_all=True, append_images=reduced[1:], duration=duration, loop=0, optimize=False)
    return stream.getvalue()


def _mp4(frames: Sequence[Image.Image], rate: float) -> bytes:
    import tempfile

    library = importlib.import_module("imageio_ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = library.write_frames(str(path), frames[0].size, fps=rate, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(np.asarray(frame.convert("RGB"))))
        writer.close()
        return path.read_bytes()
