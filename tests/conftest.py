"""A small real pack for every test that needs one: all components at tiny sizes, random weights, drawings from PIL."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sis_rearrange.conditions import CONDITIONS, as_palette, get_condition
from sis_rearrange.domains import get_domain
from sis_rearrange.features import SplitGenerator
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.pack import (
    DISCRIMINATOR,
    GENERATOR,
    JUDGE,
    PROXY,
    REARRANGER,
    SEGMENTER,
    Pack,
    add_file,
    create_pack,
    load_pack,
    mapper_file,
    write_component,
)
from sis_rearrange.proxy import fit_proxy
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.unet import UNet

SIDE, TAP, K = 32, 16, 5  # pixels, cells and clusters of the tiny pack


def tiny_head(side: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A head drawn with PIL: picture uint8 [side, side, 3] and labels of the toonhead classes uint8 [side, side]."""
    domain = get_domain("toonhead")
    canvas = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    shapes = [
        ("rear_hair", 0.22, 0.1, 0.78, 0.7),
        ("clothes", 0.15, 0.8, 0.85, 1.2),
        ("skin", 0.27, 0.2, 0.73, 0.85),
        ("eyes", 0.35, 0.42, 0.45, 0.52),
        ("eyes", 0.55, 0.42, 0.65, 0.52),
        ("mouth", 0.4, 0.64, 0.6, 0.72),
    ]
    for name, x0, y0, x1, y1 in shapes:
        box = [round(side * v) for v in (x0 + shift, y0, x1 + shift, y1)]
        pen.ellipse(box, fill=domain.classes.index(name))
    labels = np.asarray(canvas)
    return np.array(domain.palette, np.uint8)[labels], labels


def write_tiny_pack(path: Path) -> Path:
    """Write the tiny pack into a folder: K=5 clusters at a tap of 16, 32 pixels, classes and palette of toonhead."""
    domain = get_domain("toonhead")
    licence = {"what": "the drawings", "licence": "CC0", "credit": "drawn by the tests"}
    create_pack(path, path.name, domain.name, domain.classes, domain.palette, SIDE, [licence])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(16, 0, 16, SIDE, channel_base=256, channel_max=16, num_layers=2).eval()
        split = SplitGenerator(generator, TAP)
        proxy = fit_proxy(split, K, range(32))
        rearranger = Rearranger(split.tap.channels, K, TAP, width=16, refine_width=8)
        rearranger.feature_std.copy_(proxy.feature_std)
        palette = as_palette(domain.classes, domain.palette)
        channels = {name: get_condition(name, palette).channels for name in CONDITIONS}
        parts: dict[str, tuple[str, torch.nn.Module]] = {
            GENERATOR: ("generator", generator),
            DISCRIMINATOR: ("discriminator", Discriminator(0, SIDE, channel_base=256, channel_max=16)),
            PROXY: ("proxy", proxy),
            REARRANGER: ("rearranger", rearranger),
            SEGMENTER: ("unet", UNet(3, len(domain.classes), (8, 16))),
            JUDGE: ("unet", UNet(3, len(domain.classes), (8, 16))),
        }
        for name, count in channels.items():
            parts[mapper_file(name)] = ("mapper", SemanticMapper(name, count, K, SIDE, TAP, widths=(8, 16)))
    for relpath, (kind, network) in parts.items():
        config = {"kind": kind, "args": network.config}
        write_component(path, relpath, network.state_dict(), config, {"command": "pytest", "seed": 0, "minutes": 0.01})
    for number in range(1, 5):
        picture, labels = tiny_head(64, shift=0.03 * (number - 2))
        for name in CONDITIONS:
            stream = io.BytesIO()
            get_condition(name, palette).draw(picture, labels, seed=number).save(stream, format="PNG")
            add_file(path, f"drawings/{name}-{number}.png", stream.getvalue())
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Compiled graphs and ops lie in pytest's cache: the user's own stays as it is, and the next run finds them."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.cache is not None:
            patch.setenv("SIS_CACHE", str(pytestconfig.cache.mkdir("sis_rearrange")))
        yield


@pytest.fixture(scope="session")
def tiny_pack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny pack, shared by all tests: copy it before you change it."""
    return write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="session")
def tiny_pack(tiny_pack_path: Path) -> Pack:
    """The tiny pack, opened. Its networks are shared: copy one before you train it."""
    return load_pack(tiny_pack_path)
