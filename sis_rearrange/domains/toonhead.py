"""The ``toonhead`` domain: cartoon heads with continuous pose and part jitter, and their ground-truth part masks.

The art is the DiceBear style *ToonHead* by Johan Melin (CC BY 4.0): attribution is required wherever it, or a
picture made from it, is shipped. A picture is one SVG; its mask is the same SVG with every layer painted flat in a
colour of its own and no anti-aliasing, so that no pixel is a blend of two labels.
"""

from __future__ import annotations

import colorsys
import copy
import io
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.domains.base import Domain, check_request
from sis_rearrange.errors import InputError

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
_LABELS = {layer: label for label, (layer, _, _) in enumerate(_LAYERS)}

_CANVAS = 768  # side of the artwork's view box, in its own units
_PIVOT = (384, 400)  # the head turns and scales about this point
_NAMESPACE = "http://www.w3.org/2000/svg"
_TRANSLATE = re.compile(r"translate\(([\d.\-]+)(?: ([\d.\-]+))?\)")
_OPACITIES = ("opacity", "fill-opacity", "stroke-opacity")
_CODE_STEP = 25  # red level between two labels in a mask render

_PICTURE_OVERSAMPLING = 2  # on top of the rasteriser's own anti-aliasing
_MASK_OVERSAMPLING = 4
_MAX_RASTER = 2048  # pixels per side of an oversampled render; larger costs seconds and adds nothing


def render(index: int, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture ``index`` at ``resolution`` pixels per side: (uint8 ``[r, r, 3]`` RGB, mask uint8 ``[r, r]`` in [0, 10)).

    The drawing depends on the index alone; resolutions only sample it more finely. Raises InputError for a negative
    index, a resolution outside 8..2048, or when the rendering packages are not installed.
    """
    check_request(index, resolution)
    tree = _drawing(index)
    return _rasterise_picture(tree, resolution), _rasterise_mask(tree, resolution)


TOONHEAD = Domain(
    name="toonhead",
    classes=tuple(name for _, name, _ in _LAYERS),
    palette=tuple(colour for _, _, colour in _LAYERS),
    licence="CC BY 4.0",
    credit="ToonHead by Johan Melin (https://www.figma.com/community/file/1589627891082866389), CC BY 4.0, "
    "rendered with DiceBear, colours and pose varied",
    render=render,
)


# ---- the drawing -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _style() -> tuple[Any, Mapping[str, Any]]:
    """(DiceBear style, its components by name). Loading takes 0.2 s, so once per process."""
    try:
        import dicebear_styles
        from dicebear import Style
    except ImportError as error:
        raise InputError(_missing(error)) from error
    definition = json.loads((Path(next(iter(dicebear_styles.__path__))) / "toon-head.json").read_text("utf-8"))
    return Style(definition), definition["components"]


def _missing(error: ImportError) -> str:
    return (
        f"rendering toonhead needs the package '{error.name}', which is not installed: "
        "run  pip install 'sis_rearrange[domains]'"
    )


def _drawing(index: int) -> ElementTree.Element:
    """The SVG tree of one picture. The order of the random draws is part of the format: it fixes every picture."""
    style, components = _style()
    from dicebear import Avatar

    rng = random.Random(index)
    skin = _hsv(rng.uniform(0.03, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.35, 1))
    hair_hue = rng.random() if rng.random() < 0.2 else rng.uniform(0.02, 0.12)  # one in five is dyed
    hair = _hsv(hair_hue, rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.9))
    clothes = _hsv(rng.random(), rng.uniform(0.3, 0.95), rng.uniform(0.3, 0.95))
    background = _hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.75, 1))

    avatar = Avatar(
        style,
        {
            "seed": str(index),
            "size": _CANVAS,
            "skinColor": [skin],
            "hairColor": [hair],
            "clothesColor": [clothes],
            "beardProbability": 25,
        },
    )
    # Without its namespace the tree has plain tag names; it is put back as an attribute of the root.
    root = ElementTree.fromstring(str(avatar).replace(f' xmlns="{_NAMESPACE}"', "", 1))
    root.set("xmlns", _NAMESPACE)
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    figure = root.find("g")
    if figure is None:
        raise RuntimeError("the installed dicebear draws toon-head in a way this renderer does not know")
    for use in figure.iter("use"):
        _jitter_part(use, components, rng)
    _pose(figure, rng)
    backdrop = ElementTree.Element("rect", {"width": str(_CANVAS), "height": str(_CANVAS), "fill": background})
    root.insert(list(root).index(figure), backdrop)
    return root


def _hsv(hue: float, saturation: float, value: float) -> str:
    red, green, blue = (int(channel * 255) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _layer(reference: str) -> str:
    """'#rearHair-bun-d656daf9' or 'rearHair-bun-d656daf9' -> 'rearHair'."""
    return reference.lstrip("#").split("-")[0]


def _jitter_part(use: ElementTree.Element, components: Mapping[str, Any], rng: random.Random) -> None:
    """Move and stretch one facial part about its own centre; other layers stay where the style puts them."""
    layer = _layer(use.get("href", ""))
    place = _TRANSLATE.fullmatch(use.get("transform", ""))
    if place is None:
        raise RuntimeError(f"the installed dicebear places '{layer}' in a way this renderer does not know")
    width, height = components[layer]["width"], components[layer]["height"]
    scale_x = scale_y = 1.0
    shift_x = shift_y = 0.0
    if layer in ("eyes", "mouth", "eyebrows"):
        scale_x = rng.uniform(0.85, 1.3)
        scale_y = scale_x * rng.uniform(0.9, 1.15)
        shift_x, shift_y = rng.uniform(-10, 10), rng.uniform(-20, 16)
    elif layer == "beard":
        scale_x, scale_y = rng.uniform(0.97, 1.06), rng.uniform(0.95, 1.1)
        shift_y = rng.uniform(-4, 8)
    x = float(place[1]) + width / 2 + shift_x - width * scale_x / 2
    y = float(place[2] or 0) + height / 2 + shift_y - height * scale_y / 2
    use.set("transform", f"translate({x:.2f} {y:.2f}) scale({scale_x:.3f} {scale_y:.3f})")


def _pose(figure: ElementTree.Element, rng: random.Random) -> None:
    """Zoom, mirror, shift and tilt the whole figure. The canvas clips it, so its own clip path goes."""
    scale = rng.uniform(1.18, 1.5)
    flip = -1 if rng.random() < 0.5 else 1
    x, y = _PIVOT[0] + rng.uniform(-30, 30), _PIVOT[1] + rng.uniform(-30, 30)
    angle = rng.uniform(-9, 9)
    figure.attrib.pop("clip-path", None)
    figure.set(
        "transform",
        f"translate({x:.1f} {y:.1f}) rotate({angle:.2f}) scale({flip * scale:.3f} {scale:.3f}) "
        f"translate(-{_PIVOT[0]} -{_PIVOT[1]})",
    )


# ---- pixels ----------------------------------------------------------------------------------------------------


def _oversampling(resolution: int, factor: int) -> int:
    return max(1, min(factor, _MAX_RASTER // resolution))


def _rasterise(tree: ElementTree.Element, side: int) -> Image.Image:
    """Draw an SVG tree at ``side`` pixels: RGB image."""
    try:
        import resvg_py
    except ImportError as error:
        raise InputError(_missing(error)) from error
    svg = ElementTree.tostring(tree, encoding="unicode")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def _rasterise_picture(tree: ElementTree.Element, resolution: int) -> np.ndarray:
    factor = _oversampling(resolution, _PICTURE_OVERSAMPLING)
    image = _rasterise(tree, resolution * factor)
    return np.asarray(image if factor == 1 else image.reduce(factor))


def _rasterise_mask(tree: ElementTree.Element, resolution: int) -> np.ndarray:
    factor = _oversampling(resolution, _MASK_OVERSAMPLING)
    red = np.asarray(_rasterise(_flat(tree), resolution * factor))[..., 0]
    labels, remainder = np.divmod(red, _CODE_STEP)
    if remainder.any() or labels.max() >= len(_LAYERS):
        raise RuntimeError("a mask render contains blended colours")
    return labels if factor == 1 else majority(labels, factor, len(_LAYERS))


def _flat(tree: ElementTree.Element) -> ElementTree.Element:
    """A copy of the drawing with each layer in one opaque code colour and hard edges; cut-outs keep their shape."""
    flat = copy.deepcopy(tree)
    flat.set("shape-rendering", "crispEdges")
    for component in flat.findall("defs/g"):
        label = _LABELS[_layer(component.get("id", ""))]
        for element in component.iter():
            _paint(element, label)
    for backdrop in flat.findall("rect"):
        _paint(backdrop, _LABELS["background"])
    return flat


def _paint(element: ElementTree.Element, label: int) -> None:
    for paint in ("fill", "stroke"):
        if element.get(paint, "none") != "none":
            element.set(paint, f"#{label * _CODE_STEP:02x}0000")
    for opacity in _OPACITIES:
        element.attrib.pop(opacity, None)


def majority(labels: np.ndarray, factor: int, classes: int) -> np.ndarray:
    """Reduce labels uint8 ``[h*factor, w*factor]`` to uint8 ``[h, w]``: the commonest label of each block.

    Between equals the higher label wins: layers are numbered back to front, so that is the part drawn on top.
    """
    height, width = labels.shape[0] // factor, labels.shape[1] // factor
    blocks = labels.reshape(height, factor, width, factor).transpose(0, 2, 1, 3).reshape(height * width, -1)
    cells = np.arange(height * width, dtype=np.int64)[:, None] * classes
    votes = np.bincount((cells + blocks).ravel(), minlength=height * width * classes).reshape(-1, classes)
    winner = classes - 1 - votes[:, ::-1].argmax(1)
    return winner.astype(np.uint8).reshape(height, width)
