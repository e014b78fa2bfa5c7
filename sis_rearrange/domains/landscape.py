"""The ``landscape`` domain: hill scenes with a house, trees and clouds, and their ground-truth part masks.

The four ranges of hills and the sun are the DiceBear style *Landscape* by DiceBear (CC0 1.0: no attribution needed),
placed, stretched and coloured continuously. The house, the trees and the clouds are drawn here (CC0 as well), because
the style alone has only ground and sky. House and trees stand on the crest of their range, whose height is read from
the range's own path.
"""

from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache, partial
from typing import Any

import numpy as np

from sis_rearrange.domains import dicebear
from sis_rearrange.domains.base import Domain
from sis_rearrange.domains.dicebear import hsv, layer

# Layer, the class it becomes, and the class's palette colour, in drawing order (back to front).
_LAYERS = (
    ("background", "sky", (150, 205, 250)),
    ("orb", "sun", (255, 215, 50)),
    ("cloud", "clouds", (190, 190, 210)),
    ("hill1", "mountains", (150, 130, 180)),
    ("hill2", "hills", (110, 170, 110)),
    ("wall", "wall", (240, 160, 110)),
    ("roof", "roof", (200, 50, 50)),
    ("hill3", "meadow", (170, 150, 50)),
    ("tree", "trees", (20, 100, 60)),
    ("hill4", "foreground", (80, 55, 35)),
)
_LABELS = {name: label for label, (name, _, _) in enumerate(_LAYERS)}

_STYLE = "landscape"
_CANVAS = 100  # side of the artwork's view box, in its own units
_HILLS = ("hill1", "hill2", "hill3", "hill4")
_CREST = {"hill1": 26, "hill2": 45, "hill3": 63, "hill4": 81}  # where the crest of a range lies on average
_MIDDLE = 8  # mean height of a crest in a range's own box
_TOKEN = re.compile(r"[a-zA-Z]|-?(?:\d*\.\d+|\d+)")


# ---- the drawing -----------------------------------------------------------------------------------------------


def _drawing(index: int) -> ElementTree.Element:
    """The SVG tree of one picture. The order of the random draws is part of the format: it fixes every picture."""
    rng = random.Random(index)
    night = rng.random() < 0.2
    sky, options = _colours(rng, night)
    root, figure = dicebear.draw(_STYLE, {"seed": str(index), "size": _CANVAS, **options}, sky)
    definitions = root.find("defs")
    if definitions is None:
        raise RuntimeError("the installed dicebear draws landscape in a way this renderer does not know")
    horizon = rng.uniform(-7, 7)
    crests: dict[str, np.ndarray] = {}
    for use in figure.findall("use"):
        part = layer(use.get("href", ""))
        if part == "orb":
            _place_sun(use, rng)
        elif part in _HILLS:
            crests[part] = _place_hill(use, definitions, part, horizon, rng)
    _add(root, figure, "hill1", _clouds(rng, night, horizon))
    if rng.random() < 0.8:
        _add(root, figure, "hill3", _house(rng, night, crests["hill3"]))
    if rng.random() < 0.85:
        _add(root, figure, "hill4", _trees(rng, night, crests["hill4"]))
    return root


def _colours(rng: random.Random, night: bool) -> tuple[str, dict[str, Any]]:
    """(sky, colour options of the style): ranges darken towards the viewer and change hue from one to the next."""
    if night:
        sky = hsv(rng.uniform(0.58, 0.78), rng.uniform(0.4, 0.8), rng.uniform(0.12, 0.32))
        sun = hsv(rng.uniform(0.1, 0.17), rng.uniform(0, 0.3), rng.uniform(0.85, 1))
    else:
        sky = hsv(rng.choice((0.55, 0.55, 0.07, 0.8)) + rng.uniform(-0.06, 0.06), rng.uniform(0.16, 0.45), 1)
        sun = hsv(rng.uniform(0, 0.15), rng.uniform(0.6, 0.95), rng.uniform(0.92, 1))
    options: dict[str, Any] = {"orbColor": [sun], "orbProbability": 85}
    hue = rng.random()
    for part, saturation, value in zip(_HILLS, (0.25, 0.4, 0.5, 0.6), (0.84, 0.68, 0.51, 0.32), strict=True):
        hue += rng.choice((-1, 1)) * rng.uniform(0.04, 0.2)
        value = (value * 0.62 if night else value) * rng.uniform(0.92, 1.08)
        options[f"{part}Color"] = [hsv(hue, saturation * rng.uniform(0.7, 1.25), value)]
    return sky, options


def _place_sun(use: ElementTree.Element, rng: random.Random) -> None:
    x, y, scale = rng.uniform(10, 90), rng.uniform(9, 27), rng.uniform(0.7, 1.25)
    use.set("transform", f"translate({x:.2f} {y:.2f}) scale({scale:.3f}) translate(-12 -12)")


def _place_hill(
    use: ElementTree.Element, definitions: ElementTree.Element, part: str, horizon: float, rng: random.Random
) -> np.ndarray:
    """Put a range where it belongs, swollen or flattened; returns its crest: (x, y) float ``[N, 2]`` on the canvas."""
    angle, swell = math.radians(rng.uniform(-4, 4)), rng.uniform(0.7, 1.9)
    stretch = rng.choice((-1, 1)) * rng.uniform(0.75, 1.2)
    x = _CANVAS / 2 + rng.uniform(-60, 60)
    y = _CREST[part] + horizon * (_CANVAS - _CREST[part]) / 75 + rng.uniform(-4, 4)
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b, c, d = stretch * cosine, stretch * sine, -swell * sine, swell * cosine
    # Turned about the middle of the canvas, so that the tilt does not lift or sink the range.
    e = x - a * 50 - c * _MIDDLE
    f = y + math.tan(angle) * (x - _CANVAS / 2) - b * 50 - d * _MIDDLE
    use.set("transform", f"matrix({a:.5f} {b:.5f} {c:.5f} {d:.5f} {e:.3f} {f:.3f})")
    path = next(component for component in definitions if component.get("id") == use.get("href", "")[1:]).find("path")
    points = np.array(_points("" if path is None else path.get("d", "")))
    return points @ np.array([[a, b], [c, d]]) + np.array([e, f])


@lru_cache(maxsize=64)
def _points(path: str) -> tuple[tuple[float, float], ...]:
    """End points of the curves of a range's path, left to right, in its own units; the closing box is left out."""
    tokens = _TOKEN.findall(path)
    at, command, x, y = 0, "", 0.0, 0.0
    points: list[tuple[float, float]] = []
    arguments = {"M": 2, "L": 2, "C": 6, "S": 4}
    while at < len(tokens):
        if tokens[at].isalpha():
            command, at = tokens[at], at + 1
        if command.upper() not in arguments:
            break  # V, H, Z: the box below the crest
        count = arguments[command.upper()]
        last_x, last_y = float(tokens[at + count - 2]), float(tokens[at + count - 1])
        x, y = (x + last_x, y + last_y) if command.islower() else (last_x, last_y)
        points.append((x, y))
        at += count
    if len(points) < 2:
        raise RuntimeError("the installed dicebear draws hills in a way this renderer does not know")
    return tuple(points)


def _height(crest: np.ndarray, x: float, reach: float = 0) -> float:
    """The canvas y of a crest at x; with ``reach``, of the lowest ground within it on both sides."""
    crest = crest[np.argsort(crest[:, 0])]
    return max(float(np.interp(at, crest[:, 0], crest[:, 1])) for at in (x - reach, x, x + reach))


def _add(
    root: ElementTree.Element, figure: ElementTree.Element, before: str, parts: list[tuple[str, ElementTree.Element]]
) -> None:
    """Add own components (layer name, drawing in canvas units) to the picture, behind the layer ``before``."""
    definitions = root.find("defs")
    uses = figure.findall("use")
    at = list(figure).index(next(use for use in uses if layer(use.get("href", "")) == before))
    for number, (name, drawing) in enumerate(parts):
        drawing.set("id", f"{name}-own-{number}")
        if definitions is not None:
            definitions.append(drawing)
        figure.insert(at + number, ElementTree.Element("use", {"href": f"#{name}-own-{number}"}))


def _shape(parent: ElementTree.Element, tag: str, fill: str, **attributes: float | str) -> None:
    values = {name: value if isinstance(value, str) else f"{value:.2f}" for name, value in attributes.items()}
    ElementTree.SubElement(parent, tag, {"fill": fill, **values})


def _polygon(parent: ElementTree.Element, fill: str, *points: tuple[float, float]) -> None:
    _shape(parent, "polygon", fill, points=" ".join(f"{x:.2f},{y:.2f}" for x, y in points))


def _clouds(rng: random.Random, night: bool, horizon: float) -> list[tuple[str, ElementTree.Element]]:
    """None to two clouds: three puffs on a flat bottom each."""
    group = ElementTree.Element("g")
    value = rng.uniform(0.4, 0.6) if night else 1
    fill = hsv(rng.uniform(0.55, 0.7), rng.uniform(0, 0.06) if not night else 0.2, value)
    count = rng.choice((0, 1, 1, 2))
    for place in range(count):
        width = rng.uniform(9, 16)
        x = rng.uniform(5, 95) if count == 1 else rng.uniform(5, 42) + 53 * place
        y = rng.uniform(8, 20 + horizon)
        height = width * rng.uniform(0.45, 0.6)
        for shift, size in ((-0.55, 0.62), (0.05, 1), (0.6, 0.7)):
            swell = size * rng.uniform(0.85, 1.15)
            _shape(
                group,
                "ellipse",
                fill,
                cx=x + shift * width,
                cy=y - swell * height / 2,
                rx=width * 0.48 * swell,
                ry=swell * height * 0.75,
            )
        _shape(
            group,
            "rect",
            fill,
            x=x - width * 0.95,
            y=y - height * 0.3,
            width=width * 1.95,
            height=height * 0.45,
            rx=height * 0.22,
        )
    return [("cloud", group)] if count else []


def _house(rng: random.Random, night: bool, crest: np.ndarray) -> list[tuple[str, ElementTree.Element]]:
    """A house from cottage to tower, its foot sunk into the meadow: walls with a door and windows, and a roof."""
    wall, roof = ElementTree.Element("g"), ElementTree.Element("g")
    width, height, gable = rng.uniform(13, 26), rng.uniform(11, 22), rng.uniform(7, 15)
    x = rng.uniform(18, 82)
    foot = _height(crest, x, width / 2)
    left, right, eaves = x - width / 2, x + width / 2, _height(crest, x) - height
    dim = 0.7 if night else 1
    paint = hsv(rng.uniform(0, 0.16), rng.uniform(0.02, 0.35), rng.uniform(0.85, 1) * dim)
    dark = hsv(rng.random(), rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.35))
    glass = hsv(rng.uniform(0.11, 0.15), 0.6, 1) if night else hsv(rng.uniform(0.5, 0.62), 0.35, rng.uniform(0.4, 0.8))
    _shape(wall, "rect", paint, x=left, y=eaves, width=width, height=foot - eaves + 3)
    door = rng.uniform(0.3, 0.7)
    _shape(wall, "rect", dark, x=left + width * door - 1.8, y=eaves + height - 7, width=3.6, height=foot - eaves + 10)
    for pane in (0.12, 0.88):
        if abs(pane - door) > 0.25:
            _shape(
                wall,
                "rect",
                glass,
                x=left + width * pane - (0 if pane < 0.5 else 3.6),
                y=eaves + 2.5,
                width=3.6,
                height=3.8,
            )
    tile = hsv(
        rng.choice((0.0, 0.03, 0.6, 0.75)) + rng.uniform(-0.03, 0.05),
        rng.uniform(0.45, 0.85),
        rng.uniform(0.4, 0.85) * dim,
    )
    over, ridge = rng.uniform(1.2, 3), rng.uniform(0, 0.32) * width
    lean = rng.uniform(-0.1, 0.1) * width
    _polygon(
        roof,
        tile,
        (left - over, eaves + 0.6),
        (x - ridge + lean, eaves - gable),
        (x + ridge + lean, eaves - gable),
        (right + over, eaves + 0.6),
    )
    return [("wall", wall), ("roof", roof)]


def _trees(rng: random.Random, night: bool, crest: np.ndarray) -> list[tuple[str, ElementTree.Element]]:
    """One to five trees of one kind, firs or round ones, their feet sunk into the foreground."""
    group = ElementTree.Element("g")
    hue = rng.uniform(0.04, 0.12) if rng.random() < 0.25 else rng.uniform(0.24, 0.45)
    # Darker or lighter than the meadow behind.
    value = rng.uniform(0.16, 0.34) if rng.random() < 0.7 else rng.uniform(0.64, 0.85)
    saturation, value = rng.uniform(0.45, 0.85), value * (0.75 if night else 1)
    trunk = hsv(rng.uniform(0.04, 0.09), 0.5, 0.3)
    fir = rng.random() < 0.5
    count = rng.randint(1, 5)
    start = rng.uniform(0, 100)
    for number in range(count):
        x = (start + number * rng.uniform(13, 24)) % 100
        width, height = rng.uniform(8, 14), rng.uniform(14, 24)
        foot = _height(crest, x) + 2
        fill = hsv(hue + rng.uniform(-0.03, 0.03), saturation, value * rng.uniform(0.85, 1.15))
        _shape(group, "rect", trunk, x=x - 1.1, y=foot - 6, width=2.2, height=8)
        if fir:
            for base, peak, half in ((0.14, 0.66, 0.5), (0.42, 1, 0.38)):
                _polygon(
                    group,
                    fill,
                    (x - width * half, foot - height * base),
                    (x, foot - height * peak),
                    (x + width * half, foot - height * base),
                )
        else:
            _shape(group, "ellipse", fill, cx=x, cy=foot - height * 0.58, rx=width * 0.5, ry=height * 0.4)
    return [("tree", group)]


def _flat(tree: ElementTree.Element) -> ElementTree.Element:
    return dicebear.flat(tree, lambda component: _LABELS.get(layer(component), 0))  # 0: the empty animation layer


LANDSCAPE = Domain(
    name="landscape",
    classes=tuple(name for _, name, _ in _LAYERS),
    palette=tuple(colour for _, _, colour in _LAYERS),
    licence="CC0 1.0",
    credit="Landscape by DiceBear (https://www.dicebear.com), CC0 1.0, colours and places varied, "
    "house, trees and clouds added",
    render=partial(dicebear.render, _drawing, _flat, len(_LAYERS)),
    render_picture=partial(dicebear.render_picture, _drawing),
)
