"""The ``critters`` domain: imaginary animals with continuous pose, parts and colours, and their true part masks.

The art is the DiceBear style *Critters* by DiceBear (CC0 1.0: no attribution needed). What grows on the head is told
apart by its kind: horns are bone-coloured, ears have the colour family of the body, feelers and crests a bright one.
The soft drop shadow that the style lays on the backdrop belongs to the background; light and shade on the body to
the body. Freckles and speckles are left out: at 64 pixels they are smaller than a pixel.
"""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from functools import partial

from sis_rearrange.domains import dicebear
from sis_rearrange.domains.base import Domain
from sis_rearrange.domains.dicebear import Components, hsv, layer

# Class and its palette colour; the position is the label, back to front.
_CLASSES = (
    ("background", (38, 42, 58)),
    ("horns", (235, 225, 190)),
    ("ears", (226, 140, 88)),
    ("feelers", (126, 200, 80)),
    ("crest", (200, 60, 190)),
    ("body", (66, 135, 214)),
    ("markings", (120, 85, 50)),
    ("cheeks", (255, 150, 170)),
    ("eyes", (120, 230, 235)),
    ("mouth", (220, 50, 60)),
)
_LABELS = {name: label for label, (name, _) in enumerate(_CLASSES)}
_LAYER_CLASS = {"body": "body", "pattern": "markings", "cheeks": "cheeks", "eyes": "eyes", "mouth": "mouth"}
_TOPS = {
    "horns": ("horns", "hornsIn", "hornsSmall", "spike"),
    "ears": ("earsRound", "earsPointy", "earsDroop"),
    "feelers": ("antenna", "antennae", "sprout", "bobble", "nub"),
    "crest": ("spikes", "fin", "crown"),
}
_TOP_CLASS = {variant: kind for kind, variants in _TOPS.items() for variant in variants}
_SHADED = frozenset({"top", "body"})  # the layers whose translucent elements are light and shade

_STYLE = "critters"
_CANVAS = 100  # side of the artwork's view box, in its own units
_FEET = (50, 106)  # the figure leans, turns and scales about this point of the artwork, just below its canvas
_TOP_FOOT = (25, 36)  # what grows on the head turns and scales about this point of its own box
_TOP_PROBABILITY = 88
_PATTERNS = ("belly", "dots", "bar", "bars", "spot", "stripes", "dotRow", "chevron", "ring")
# Bodies narrower than others: their parts shrink so that they stay on them.
_ROOM = {"chimney": 0.8, "tower": 0.8, "wedge": 0.85, "tilt": 0.86, "lean": 0.9, "bell": 0.9, "steps": 0.85}


def _drawing(index: int) -> ElementTree.Element:
    """The SVG tree of one picture. The order of the random draws is part of the format: it fixes every picture."""
    _, components = dicebear.load_style(_STYLE)
    rng = random.Random(index)
    kind = rng.choice(tuple(_TOPS))
    background, body, top = _colours(rng, kind)
    ink = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.08, 0.24))
    options = {
        "seed": str(index),
        "size": _CANVAS,
        "bodyColor": [body],
        "accentColor": [top],
        "inkColor": [ink],
        "topVariant": [rng.choice(_TOPS[kind])],
        "topProbability": _TOP_PROBABILITY,
        "patternVariant": list(_PATTERNS),
        "patternProbability": 65,
        "cheeksVariant": ["blush", "blushBig"],
        "cheeksProbability": 50,
    }
    root, figure = dicebear.draw(_STYLE, options, background)
    _recolour(root, "pattern", _marking(rng), rng.uniform(0.6, 0.95))
    _recolour(root, "cheeks", hsv(rng.uniform(0.92, 1.04), rng.uniform(0.35, 0.75), 1), rng.uniform(0.75, 1))
    _thin_paint(root)
    uses = list(root.iter("use"))
    room = min(_ROOM.get(dicebear.variant(use.get("href", "")), 1.0) for use in uses)
    # Eyes, cheeks and mouth wander together, and each a little alone.
    face = (rng.uniform(-3, 3) * (5 * room - 4), rng.uniform(-3, 5))
    for use in uses:
        _place(use, components, face, room, rng)
    _pose(figure, rng)
    return root


def _colours(rng: random.Random, kind: str) -> tuple[str, str, str]:
    """(backdrop, body, what grows on the head): bodies always stand out from the backdrop by value and hue."""
    hue = rng.random()
    body = hsv(hue, rng.uniform(0.15, 0.65), rng.uniform(0.82, 1))
    away = hue + rng.uniform(0.15, 0.85)
    if rng.random() < 0.7:
        background = hsv(away, rng.uniform(0.35, 0.9), rng.uniform(0.25, 0.65))
    else:
        background = hsv(away, rng.uniform(0.02, 0.2), rng.uniform(0.9, 1))
        body = hsv(hue, rng.uniform(0.5, 0.75), rng.uniform(0.65, 0.9))
    tops = {
        "horns": hsv(rng.uniform(0.08, 0.14), rng.uniform(0.05, 0.3), rng.uniform(0.78, 0.95)),
        "ears": hsv(hue + rng.uniform(-0.06, 0.06), rng.uniform(0.55, 0.85), rng.uniform(0.55, 0.8)),
        "feelers": hsv(hue + rng.uniform(0.25, 0.75), rng.uniform(0.6, 0.95), rng.uniform(0.85, 1)),
        "crest": hsv(hue + rng.uniform(0.25, 0.75), rng.uniform(0.6, 0.95), rng.uniform(0.85, 1)),
    }
    return background, body, tops[kind]


def _marking(rng: random.Random) -> str:
    """White patches or dark ones."""
    light, dark = hsv(rng.random(), rng.uniform(0, 0.25), 1), hsv(rng.random(), rng.uniform(0.3, 0.7), 0.3)
    return light if rng.random() < 0.6 else dark


def _recolour(root: ElementTree.Element, part: str, colour: str, opacity: float) -> None:
    """Paint a layer that the style keeps a whisper of white so that a small picture shows it."""
    for component in root.findall("defs/g"):
        if layer(component.get("id", "")) != part:
            continue
        for element in component.iter():
            for paint in ("fill", "stroke"):
                if element.get(paint, "none") != "none":
                    element.set(paint, colour)
            if "opacity" in element.attrib:
                element.set("opacity", f"{opacity:.2f}")


def _thin_paint(root: ElementTree.Element) -> None:
    """Opacity of single shapes as translucent paint: the same picture, rasterised without a layer for each."""
    for element in root.iter():
        if element.tag != "g" and ("fill" in element.attrib) != ("stroke" in element.attrib):
            opacity = element.attrib.pop("opacity", None)
            if opacity is not None:
                element.set("fill-opacity" if "fill" in element.attrib else "stroke-opacity", opacity)


def _place(
    use: ElementTree.Element, components: Components, face: tuple[float, float], room: float, rng: random.Random
) -> None:
    """Move, stretch and turn one part about its own pivot; the body stays (the pose moves it)."""
    part = layer(use.get("href", ""))
    if part not in ("top", "pattern", "cheeks", "eyes", "mouth"):
        return
    left, top = dicebear.translation(use)
    pivot = _TOP_FOOT if part == "top" else (components[part]["width"] / 2, components[part]["height"] / 2)
    low, high, reach_x, reach_y, turn = {
        "top": (0.95, 1.35, 1.5, 1.5, 9),
        "pattern": (0.8, 1.25, 5, 3, 14),
        "cheeks": (1.0, 1.2, 0.3, 1.5, 4),
        "eyes": (0.9, 1.2, 1, 2, 5),
        "mouth": (0.9, 1.4, 1.5, 1.5, 9),
    }[part]
    scale_x = rng.uniform(low, high)
    scale_y = scale_x * rng.uniform(0.88, 1.12)
    if part != "pattern":
        scale_x, scale_y = scale_x * room, scale_y * (1 + room) / 2
    x, y = left + pivot[0] + rng.uniform(-reach_x, reach_x), top + pivot[1] + rng.uniform(-reach_y, reach_y)
    if part in ("cheeks", "eyes", "mouth"):
        x, y = x + face[0], y + face[1]
    use.set(
        "transform",
        f"translate({x:.2f} {y:.2f}) rotate({rng.uniform(-turn, turn):.2f}) scale({scale_x:.3f} {scale_y:.3f}) "
        f"translate({-pivot[0]:g} {-pivot[1]:g})",
    )


def _pose(figure: ElementTree.Element, rng: random.Random) -> None:
    """Mirror, stretch, lean and tilt the figure about its feet, which stay below the canvas."""
    flip = -1 if rng.random() < 0.5 else 1
    height = rng.uniform(0.8, 0.98)
    width = height * rng.uniform(1, 1.32)
    x, y = _FEET[0] + rng.uniform(-9, 9), _FEET[1] + rng.uniform(-1, 6)
    figure.set(
        "transform",
        f"translate({x:.2f} {y:.2f}) rotate({rng.uniform(-4, 4):.2f}) skewX({rng.uniform(-8, 8):.2f}) "
        f"scale({flip * width:.3f} {height:.3f}) translate({-_FEET[0]} {-_FEET[1]})",
    )


def _label(component: str) -> int:
    part = layer(component)
    if part == "animation":
        return 0  # an empty layer
    return _LABELS[_TOP_CLASS[dicebear.variant(component)] if part == "top" else _LAYER_CLASS[part]]


def _flat(tree: ElementTree.Element) -> ElementTree.Element:
    return dicebear.flat(tree, _label, _SHADED)


CRITTERS = Domain(
    name="critters",
    classes=tuple(name for name, _ in _CLASSES),
    palette=tuple(colour for _, colour in _CLASSES),
    licence="CC0 1.0",
    credit="Critters by DiceBear (https://www.dicebear.com), CC0 1.0, colours and pose varied",
    render=partial(dicebear.render, _drawing, _flat, len(_CLASSES)),
    render_picture=partial(dicebear.render_picture, _drawing),
)
