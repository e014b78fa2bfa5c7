"""The ``toonhead`` domain: cartoon heads with continuous pose and part jitter, and their ground-truth part masks.

The art is the DiceBear style *ToonHead* by Johan Melin (CC BY 4.0): attribution is required wherever it, or a
picture made from it, is shipped. A picture is one SVG; its mask is the same SVG with every layer painted flat in a
colour of its own and no anti-aliasing, so that no pixel is a blend of two labels.
"""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from functools import partial

from sis_rearrange.domains import dicebear
from sis_rearrange.domains.base import Domain
from sis_rearrange.domains.dicebear import Components, hsv, layer

# Layer of the artwork, the class it becomes, and the class's palette colour, in drawing order (back to front).
_LAYERS = (
    ("background", "background", (38, 42, 58)),
    ("rearHair", "rear_hair", (139, 87, 42)),
    ("body", "body", (226, 140, 88)),
    ("head", "skin", (255, 213, 170)),
    ("clothes", "clothes", (66, 135, 214)),
    ("mouth", "mouth", (220, 50, 80)),
    ("beard", "beard", (126, 150, 62)),
    ("eyes", "eyes", (120, 230, 235)),
    ("eyebrows", "eyebrows", (104, 66, 168)),
    ("hair", "hair", (240, 190, 50)),
)
_LABELS = {part: label for label, (part, _, _) in enumerate(_LAYERS)}

_CANVAS = 768  # side of the artwork's view box, in its own units
_PIVOT = (384, 400)  # the head turns and scales about this point
_STYLE = "toon-head"


# ---- the drawing -----------------------------------------------------------------------------------------------


def _drawing(index: int) -> ElementTree.Element:
    """The SVG tree of one picture. The order of the random draws is part of the format: it fixes every picture."""
    _, components = dicebear.load_style(_STYLE)
    rng = random.Random(index)
    skin = hsv(rng.uniform(0.03, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.35, 1))
    hair_hue = rng.random() if rng.random() < 0.2 else rng.uniform(0.02, 0.12)  # one in five is dyed
    hair = hsv(hair_hue, rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.9))
    clothes = hsv(rng.random(), rng.uniform(0.3, 0.95), rng.uniform(0.3, 0.95))
    background = hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.75, 1))

    options = {
        "seed": str(index),
        "size": _CANVAS,
        "skinColor": [skin],
        "hairColor": [hair],
        "clothesColor": [clothes],
        "beardProbability": 25,
    }
    root, figure = dicebear.draw(_STYLE, options, background)
    for use in figure.iter("use"):
        _jitter_part(use, components, rng)
    _pose(figure, rng)
    return root


def shapes(index: int) -> dict[str, str]:
    """Which shape of each layer a picture has, as in ``{"hair": "bun", "mouth": "smile"}``; beards may be absent."""
    uses = [use.get("href", "") for use in _drawing(index).iter("use")]
    return {layer(use): dicebear.variant(use) for use in uses}


def _flat(tree: ElementTree.Element) -> ElementTree.Element:
    return dicebear.flat(tree, lambda component: _LABELS[layer(component)])


def _jitter_part(use: ElementTree.Element, components: Components, rng: random.Random) -> None:
    """Move and stretch one facial part about its own centre; other layers stay where the style puts them."""
    part = layer(use.get("href", ""))
    left, top = dicebear.translation(use)
    width, height = components[part]["width"], components[part]["height"]
    scale_x = scale_y = 1.0
    shift_x = shift_y = 0.0
    if part in ("eyes", "mouth", "eyebrows"):
        scale_x = rng.uniform(0.85, 1.3)
        scale_y = scale_x * rng.uniform(0.9, 1.15)
        shift_x, shift_y = rng.uniform(-10, 10), rng.uniform(-20, 16)
    elif part == "beard":
        scale_x, scale_y = rng.uniform(0.97, 1.06), rng.uniform(0.95, 1.1)
        shift_y = rng.uniform(-4, 8)
    x = left + width / 2 + shift_x - width * scale_x / 2
    y = top + height / 2 + shift_y - height * scale_y / 2
    use.set("transform", f"translate({x:.2f} {y:.2f}) scale({scale_x:.3f} {scale_y:.3f})")


def _pose(figure: ElementTree.Element, rng: random.Random) -> None:
    """Zoom, mirror, shift and tilt the whole figure. The canvas clips it."""
    scale = rng.uniform(1.18, 1.5)
    flip = -1 if rng.random() < 0.5 else 1
    x, y = _PIVOT[0] + rng.uniform(-30, 30), _PIVOT[1] + rng.uniform(-30, 30)
    angle = rng.uniform(-9, 9)
    figure.set(
        "transform",
        f"translate({x:.1f} {y:.1f}) rotate({angle:.2f}) scale({flip * scale:.3f} {scale:.3f}) "
        f"translate(-{_PIVOT[0]} -{_PIVOT[1]})",
    )


TOONHEAD = Domain(
    name="toonhead",
    classes=tuple(name for _, name, _ in _LAYERS),
    palette=tuple(colour for _, _, colour in _LAYERS),
    licence="CC BY 4.0",
    credit="ToonHead by Johan Melin (https://www.figma.com/community/file/1589627891082866389), CC BY 4.0, "
    "rendered with DiceBear, colours and pose varied",
    render=partial(dicebear.render, _drawing, _flat, len(_LAYERS)),
    render_picture=partial(dicebear.render_picture, _drawing),
)
