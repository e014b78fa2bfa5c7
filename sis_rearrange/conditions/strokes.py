"""Brush strokes for scribbles: smooth walks along the middle of every part, planned for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

BASE_SIDE = 64  # lengths below are in pixels of a label map of this side
STEP = 2.0  # length of one step of a walk
MAX_STEPS = 28
MIN_AREA = 5.0  # square pixels: smaller specks get no stroke
WIDTHS = (3.0, 6.5)  # narrowest and widest brush
SKIP = 0.1  # chance that a part is left unpainted in training
TURNS = np.deg2rad(np.array([0, -20, 20, -45, 45, -80, 80]))  # directions a walk chooses from at each step

UNPAINTED = 255  # value of the canvas `paint` returns

Start = tuple[int, int, int, int, int, float]  # image, label, part, y, x, area of the part in square base pixels


@dataclass(frozen=True)
class Stroke:
    """One brush stroke on the picture number `image`."""

    image: int
    label: int
    width: float  # pixels of the label map
    points: np.ndarray  # float [P, 2], (y, x) in pixels of the label map, P >= 1


def plan(labels: np.ndarray, classes: int, rng: np.random.Generator, skip: float = SKIP) -> list[Stroke]:
    """Labels int [N, R, R] -> strokes of all pictures: 1-5 in each connected part, a dab in a small one.

    A part is left out with chance `skip`, but every picture that has a part gets at least one stroke.
    """
    N, R = labels.shape[0], labels.shape[-1]
    unit = R / BASE_SIDE
    depth = np.stack([_depth(plane) for plane in labels])
    parts = np.zeros(labels.shape, dtype=np.int32)
    starts: list[Start] = []
    for n in range(N):
        starts += _choose_starts(labels[n], depth[n], parts[n], n, classes, rng, skip)
    if not starts:
        return []
    table = np.array([s[:5] for s in starts], dtype=np.int64)
    area = np.array([s[5] for s in starts])
    length = np.sqrt(area) * rng.uniform(0.7, 1.8, len(area)) / STEP
    steps = np.where(area < 40, rng.integers(0, 3, len(area)), np.clip(length.astype(int), 2, MAX_STEPS))
    paths, count = _walk(depth, parts, table, steps, STEP * unit, rng)
    room = 1.6 * depth[table[:, 0], table[:, 3], table[:, 4]]
    width = np.maximum(np.minimum(rng.uniform(*WIDTHS, len(area)) * unit, room), 1.7 * unit)
    return [
        Stroke(int(table[s, 0]), int(table[s, 1]), float(width[s]), _smooth(paths[s, : count[s] + 1]))
        for s in range(len(table))
    ]


def paint(strokes: list[Stroke], count: int, resolution: int, side: int) -> np.ndarray:
    """Strokes planned on label maps of `resolution` -> uint8 [count, side, side] of labels, 255 where unpainted."""
    scale = side / resolution
    canvases = [Image.new("L", (side, side), UNPAINTED) for _ in range(count)]
    pens = [ImageDraw.Draw(canvas) for canvas in canvases]
    for stroke in strokes:
        pen, radius = pens[stroke.image], stroke.width * scale / 2
        points = [(float(x) * scale, float(y) * scale) for y, x in stroke.points + 0.5]
        if len(points) > 1:
            pen.line(points, fill=stroke.label, width=max(1, round(2 * radius)))
        for x, y in points:  # round caps and joints
            pen.ellipse((x - radius, y - radius, x + radius - 1, y + radius - 1), fill=stroke.label)
    return np.stack([np.asarray(canvas) for canvas in canvases])


def _depth(labels: np.ndarray) -> np.ndarray:
    """Distance of every pixel of [R, R] to another label or to the rim, in pixels, at least 0.5."""
    edge = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    # The rim counts as an edge too: otherwise open background is deepest in the corners and all strokes end there.
    return ndimage.distance_transform_edt(np.pad(~edge, 1))[1:-1, 1:-1] + 0.5


def _choose_starts(
    labels: np.ndarray,
    depth: np.ndarray,
    parts: np.ndarray,
    image: int,
    classes: int,
    rng: np.random.Generator,
    skip: float,
) -> list[Start]:
    """Number the connected parts of one picture (into `parts`) and draw where the strokes of each begin."""
    unit = labels.shape[0] / BASE_SIDE
    starts: list[list[Start]] = []
    skipped: list[list[Start]] = []
    number = 0
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=classes)):
        pieces, found = ndimage.label(labels == label)
        where = np.flatnonzero(pieces)
        ids = pieces.ravel()[where]
        sizes = np.bincount(ids, minlength=found + 1)
        for piece in range(1, found + 1):
            area = sizes[piece] / unit**2
            if area < MIN_AREA:
                continue
            number += 1
            cells = where[ids == piece]
            parts.ravel()[cells] = number
            weight = np.cumsum(depth.ravel()[cells] ** 2)
            many = 1 if area < 100 else int(rng.integers(2, 4)) if area < 900 else int(rng.integers(3, 6))
            picks = cells[np.searchsorted(weight, rng.random(many) * weight[-1])]
            places = (divmod(int(p), labels.shape[1]) for p in picks)
            rows = [(image, int(label), number, y, x, float(area)) for y, x in places]
            (skipped if rng.random() < skip else starts).append(rows)
    kept = starts or skipped[:1]
    return [row for rows in kept for row in rows]


def _walk(
    depth: np.ndarray, parts: np.ndarray, starts: np.ndarray, steps: np.ndarray, step: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All walks in lockstep: positions float [S, MAX_STEPS + 1, 2] and how many steps each one took, int [S].

    Each step takes the direction, near the present one, where its part is deepest (with some noise), and ends where
    every direction leaves the part.
    """
    S, R = len(starts), depth.shape[-1]
    image, part = starts[:, 0, None], starts[:, 2, None]
    position = starts[:, 3:5].astype(np.float64)
    heading = rng.uniform(0, 2 * np.pi, S)
    paths = np.repeat(position[:, None], MAX_STEPS + 1, axis=1)
    taken = np.zeros(S, dtype=np.int64)
    rows = np.arange(S)
    for at in range(1, int(steps.max(initial=0)) + 1):
        angle = heading[:, None] + TURNS
        y, x = position[:, :1] + step * np.sin(angle), position[:, 1:] + step * np.cos(angle)
        iy, ix = np.rint(y).astype(int), np.rint(x).astype(int)
        inside = (iy >= 0) & (iy < R) & (ix >= 0) & (ix < R)
        iy, ix = iy.clip(0, R - 1), ix.clip(0, R - 1)
        inside &= parts[image, iy, ix] == part
        score = np.where(inside, depth[image, iy, ix] + step * rng.random((S, len(TURNS))), -1.0)
        best = score.argmax(axis=1)
        moves = (score[rows, best] > 0) & (taken == at - 1) & (at <= steps)
        position = np.where(moves[:, None], np.stack([y[rows, best], x[rows, best]], axis=1), position)
        heading = np.where(moves, angle[rows, best], heading)
        taken += moves
        paths[:, at] = position
    return paths, taken


def _smooth(points: np.ndarray) -> np.ndarray:
    """Round off the corners of a walk [P, 2]; its ends stay."""
    if len(points) > 2:
        inner = 0.25 * points[:-2] + 0.5 * points[1:-1] + 0.25 * points[2:]
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points
