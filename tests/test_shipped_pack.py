"""The packs that come with the project: sound, small, complete, and they say where everything is from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sis_rearrange.conditions import CONDITIONS, Hed
from sis_rearrange.domains import SPLITS, get_domain
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.pack import Pack, load_pack, mapper_file, verify_pack
from sis_rearrange.tensors import to_uint8
from sis_rearrange.weights import decode_weights

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
SHIPPED = sorted(info.parent.name for info in PRETRAINED.glob("*/domain.json"))
MAPPERS = [mapper_file(name) for name in CONDITIONS]
NETWORKS = ["generator", "discriminator", "proxy", "rearranger", "segmenter", "judge"]


@pytest.fixture(scope="module", params=SHIPPED)
def pack(request: pytest.FixtureRequest) -> Pack:
    return load_pack(PRETRAINED / request.param)


def test_these_are_shipped():
    assert SHIPPED == ["critters", "landscape", "toonhead", "toonhead128"]


def test_it_is_sound_and_small(pack):
    assert verify_pack(pack.path) == []
    assert pack.size < 25_000_000
    domain = get_domain(pack.info["domain"])
    assert pack.classes == domain.classes and pack.palette().colours == domain.palette


def test_it_is_complete(pack):
    assert {*(f"{name}.safetensors" for name in NETWORKS), *MAPPERS} <= set(pack.info["files"])
    assert set(CONDITIONS) <= set(pack.conditions())
    for name in pack.conditions():
        assert any(Path(drawing).name.startswith(f"{name}-") for drawing in pack.drawings())


def test_every_network_is_built_and_they_fit_each_other(pack):
    proxy, generator = pack.proxy(), pack.generator()
    split = SplitGenerator(generator, proxy.resolution)
    feature_map, skip = split.g1(sample_ws(generator, [3]))
    assert feature_map.shape[1:] == (proxy.channels, proxy.resolution, proxy.resolution)
    assert torch.equal(
        split.g2(feature_map, skip, sample_ws(generator, [3])), generator.synthesis(sample_ws(generator, [3]))
    )
    assert (pack.rearranger().channels, pack.rearranger().K) == (proxy.channels, proxy.K)
    for name in pack.conditions():
        assert (pack.mapper(name).K, pack.mapper(name).proxy_resolution) == (proxy.K, proxy.resolution)
    for network in (pack.segmenter(), pack.judge()):
        assert network.out_channels == len(pack.classes)


def test_weights_are_half_precision(pack):
    """All but the centroids, whose rounding would move labels."""
    for relpath in pack.info["files"]:
        if relpath.endswith(".safetensors") and relpath != "proxy.safetensors":
            _, state = decode_weights(pack.read(relpath), relpath)
            assert pack.info["files"][relpath]["bytes"] < 2.5 * sum(t.numel() for t in state.values()) + 60_000, relpath


def test_it_says_where_everything_is_from(pack):
    for relpath in pack.info["files"]:
        note = pack.info["provenance"].get(relpath, {})
        assert note.get("command") or note.get("source"), relpath
    # toonhead's art, and the weights that the others' training started from
    assert any("Johan Melin" in licence["credit"] for licence in pack.info["licences"])
    words = re.findall(r"[^\s\"]+", json.dumps(pack.info["provenance"]))
    assert not any(Path(word).is_absolute() for word in words)  # in anybody's clone


def test_it_has_the_scores_of_this_version(pack):
    scores = pack.info["scores"]["quick"]
    assert scores["hash"] == pack.hash, "scores of another version: run sis evaluate --record"
    assert scores["metrics"]


def test_drawings_are_of_the_test_split(pack):
    for relpath in pack.drawings():
        assert pack.info["provenance"][relpath]["index"] in SPLITS["test"]
        with Image.open(pack.file(relpath)) as image:
            assert image.format == "PNG" and image.width == image.height


def test_soft_edges_all_over_a_picture_are_no_paper_grain():
    """Its HED map is mid grey in a good half, from which the outlines still stand out."""
    pack = load_pack(str(PRETRAINED / "toonhead"))
    with torch.no_grad():
        generator = pack.generator()
        picture = to_uint8(generator.synthesis(sample_ws(generator, [660_042], 0.9)))[0]
    edges = Hed().draw(picture, None, 0)
    assert Hed().is_map(edges) and np.median(np.asarray(edges)) > 45
    lines = Hed().read(edges, pack.resolution)[0][0, 0]
    assert 0.1 < lines.mean() < 0.4
