"""What the domains drawn with DiceBear styles share: loading a style, placing its layers, pictures, part masks.

A drawing is one SVG tree: ``defs`` holds one ``g`` per component (its id starts with the layer's name), the figure
places the components with ``use``. A mask is the same tree with every component painted flat in a code colour of its
label and no anti-aliasing, so that no pixel is a blend of two labels.
"""

from __future__ import annotations

import colorsys
import copy
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.domains.base import check_request
from sis_rearrange.errors import InputError

Components = Mapping[str, Any]  # a style's components by name: width, height, variants

_NAMESPACE = "http://www.w3.org/2000/svg"
_TRANSLATE = re.compile(r"translate\(([\d.\-]+)(?: ([\d.\-]+))?\)")
_OPACITIES = ("opacity", "fill-opacity", "stroke-opacity")
_CODE_STEP = 25  # red level between two labels in a mask render: 0, 25, ... 250
MAX_CLASSES = 255 // _CODE_STEP + 1

_PICTURE_OVERSAMPLING = 2  # on top of the rasteriser's own anti-aliasing
_MASK_OVERSAMPLING = 4
_MAX_RASTER = 2048  # pixels per side of an oversampled render; larger costs seconds and adds nothing


# ---- the drawing -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def load_style(file: str) -> tuple[Any, Components]:
    """(DiceBear style, its components by name) of ``file`` in the styles package, for example "toon-head".

    Loading takes 0.2 s, so once per process. Raises InputError when the rendering packages are not installed.
    """
    try:
        import dicebear_styles
        from dicebear import Style
    except ImportError as error:
        raise InputError(_missing(file, error)) from error
    definition = json.loads((Path(next(iter(dicebear_styles.__path__))) / f"{file}.json").read_text("utf-8"))
    return Style(definition), definition["components"]


def _missing(what: str, error: ImportError) -> str:
    return (
        f"rendering {what} needs the package '{error.name}', which is not installed: "
        "run  pip install 'sis_rearrange[domains]'"
    )


def draw(file: str, options: Mapping[str, Any], background: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Draw a style with DiceBear options: (SVG root, figure), on a backdrop of colour ``background`` ('#rrggbb').

    The root has the children ``defs``, the backdrop ``rect`` and the figure ``g``, which nothing clips but the
    canvas. The tree has plain tag names: its namespace is an attribute of the root.
    """
    style, _ = load_style(file)  # first: it explains a missing package
    from dicebear import Avatar

    root = ElementTree.fromstring(str(Avatar(style, dict(options))).replace(f' xmlns="{_NAMESPACE}"', "", 1))
    root.set("xmlns", _NAMESPACE)
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    figure = root.find("g")
    if figure is None:
        raise RuntimeError(f"the installed dicebear draws {file} in a way this renderer does not know")
    for backdrop in figure.findall("rect"):
        figure.remove(backdrop)
    figure.attrib.pop("clip-path", None)
    left, top, width, height = root.get("viewBox", "0 0 100 100").split()
    backdrop = ElementTree.Element("rect", {"x": left, "y": top, "width": width, "height": height, "fill": background})
    root.insert(list(root).index(figure), backdrop)
    return root, figure


def layer(reference: str) -> str:
    """'#rearHair-bun-d656daf9' or 'rearHair-bun-d656daf9' -> 'rearHair'."""
    return reference.lstrip("#").split("-")[0]


def variant(reference: str) -> str:
    """'#rearHair-bun-d656daf9' -> 'bun'."""
    return reference.split("-")[1]


def hsv(hue: float, saturation: float, value: float) -> str:
    """'#rrggbb' of a colour; hue (any real number), saturation and value in 0..1."""
    red, green, blue = (int(channel * 255) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return f"#{red:02x}{green:02x}{blue:02x}"


def translation(use: ElementTree.Element) -> tuple[float, float]:
    """Where the style puts a layer: the x and y of its ``use`` (0, 0 when it has no transform)."""
    place = _TRANSLATE.fullmatch(use.get("transform", "translate(0)"))
    if place is None:
        raise RuntimeError(f"the installed dicebear places '{layer(use.get('href', ''))}' in an unknown way")
    return float(place[1]), float(place[2] or 0)


def render(
    drawing: Callable[[int], ElementTree.Element],
    flat_of: Callable[[ElementTree.Element], ElementTree.Element],
    classes: int,
    index: int,
    resolution: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Picture ``index`` at ``resolution`` pixels per side: (uint8 ``[r, r, 3]`` RGB, mask uint8 ``[r, r]``).

    A domain's renderer is this with the first three given (`functools.partial`): ``drawing`` makes the SVG tree of an
    index, which alone decides on it, ``flat_of`` paints its layers in code colours, and labels are in ``[0, classes)``.
    Raises InputError for a negative index, a resolution outside 8..2048, or when the rendering packages are missing.
    """
    check_request(index, resolution)
    tree = drawing(index)
    return rasterise_picture(tree, resolution), rasterise_mask(flat_of(tree), resolution, classes)


def render_picture(drawing: Callable[[int], ElementTree.Element], index: int, resolution: int) -> np.ndarray:
    """The picture that `render` gives, without its mask, which takes most of the time; raises as `render`."""
    check_request(index, resolution)
    return rasterise_picture(drawing(index), resolution)


# ---- pixels ----------------------------------------------------------------------------------------------------


def rasterise_picture(tree: ElementTree.Element, resolution: int) -> np.ndarray:
    """Draw an SVG tree: uint8 ``[r, r, 3]`` RGB, anti-aliased."""
    factor = _oversampling(resolution, _PICTURE_OVERSAMPLING)
    image = _rasterise(tree, resolution * factor)
    return np.asarray(image if factor == 1 else image.reduce(factor))


def rasterise_mask(flat_tree: ElementTree.Element, resolution: int, classes: int) -> np.ndarray:
    """Draw a tree made by ``flat``: labels uint8 ``[r, r]`` in ``[0, classes)``; RuntimeError on a blended label."""
    factor = _oversampling(resolution, _MASK_OVERSAMPLING)
    red = np.asarray(_rasterise(flat_tree, resolution * factor))[..., 0]
    labels, remainder = np.divmod(red, _CODE_STEP)
    if remainder.any() or labels.max() >= classes:
        raise RuntimeError("a mask render contains blended colours")
    return labels if factor == 1 else majority(labels, factor, classes)


def flat(
    tree: ElementTree.Element, label: Callable[[str], int], shaded: frozenset[str] = frozenset()
) -> ElementTree.Element:
    """A copy of the drawing with each component in one opaque code colour and hard edges; cut-outs keep their shape.

    ``label`` maps a component's id to its label; the backdrop has label 0. In the layers named in ``shaded``,
    translucent elements are shadows and highlights that cast no label; in all others they count like paint.
    """
    copied = copy.deepcopy(tree)
    copied.set("shape-rendering", "crispEdges")
    for component in copied.findall("defs/g"):
        name = component.get("id", "")
        if layer(name) in shaded:
            _drop_translucent(component)
        for element in component.iter():
            _paint(element, label(name))
    for backdrop in copied.findall("rect"):
        _paint(backdrop, 0)
    return copied


def _drop_translucent(parent: ElementTree.Element) -> None:
    for child in list(parent):
        if any(attribute in child.attrib for attribute in _OPACITIES):
            parent.remove(child)
            continue
        _drop_translucent(child)
        if child.tag == "g" and len(child) == 0:
            parent.remove(child)


def _paint(element: ElementTree.Element, label: int) -> None:
    for paint in ("fill", "stroke"):
        if element.get(paint, "none") != "none":
            element.set(paint, f"#{label * _CODE_STEP:02x}0000")
    for opacity in _OPACITIES:
        element.attrib.pop(opacity, None)


def _oversampling(resolution: int, factor: int) -> int:
    return max(1, min(factor, _MAX_RASTER // resolution))


def _rasterise(tree: ElementTree.Element, side: int) -> Image.Image:
    """Draw an SVG tree at ``side`` pixels: RGB image."""
    try:
        import resvg_py
    except ImportError as error:
        raise InputError(_missing("embedded domains", error)) from error
    svg = ElementTree.tostring(tree, encoding="unicode")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


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
