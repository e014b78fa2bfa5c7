"""Conditions beyond the built-in ones: a user's own function end to end, and depth models of the real architecture."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.conditions import (
    CONDITIONS,
    Depth,
    Extracted,
    Hed,
    Scribble,
    condition_names,
    get_condition,
    load_plugin,
    register_condition,
    registry,
)
from sis_rearrange.errors import InputError
from sis_rearrange.pack import load_pack

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    yield
    for name in [name for name in sys.modules if name.startswith("sis_plugin_")]:
        del sys.modules[name]


def picture(side: int = 64, shift: int = 0) -> np.ndarray:
    """A dark disc with a light one in it, uint8 [side, side, 3]."""
    y, x = np.indices((side, side))
    radius = np.hypot(y - side / 2, x - side / 2 - shift)
    colours = np.array([(200, 210, 230), (70, 60, 140), (240, 200, 120)], np.uint8)
    return colours[(radius < 0.4 * side).astype(int) + (radius < 0.15 * side)]


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def redness(values: np.ndarray) -> np.ndarray:
    return values[..., 0].astype(np.float32)


# -- the registry ----------------------------------------------------------------------------------------------------


def test_registered_conditions_are_known():
    assert "red" not in condition_names()
    register_condition(Extracted("red", redness, lines=False))
    assert condition_names()[-1] == "red" and condition_names()[:3] == CONDITIONS
    assert get_condition("red").channels == 1
    newer = Extracted("red", redness, lines=False)
    register_condition(newer)
    assert get_condition("red") is newer


@pytest.mark.parametrize("name", [*CONDITIONS, "hed", "depth", "exemplar", "proxy"])
def test_names_of_the_package_are_taken(name):
    with pytest.raises(InputError, match=f"{name!r} comes with the package"):
        register_condition(Extracted(name, redness))


@pytest.mark.parametrize("name", ["", "../red", "Red", "1red", "a b"])
def test_names_become_file_names(name):
    with pytest.raises(InputError, match="no name for a condition"):
        register_condition(Extracted(name, redness))


def test_unknown_conditions_point_to_plugins():
    with pytest.raises(InputError, match="'edges'.*--plugin"):
        get_condition("edges")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p: p.astype(np.float32), r"returned \[64, 64, 3\]"),
        (lambda p: np.full(p.shape[:2], np.nan), "not finite"),
        (lambda p: p[:0, :, 0], r"returned \[0, 64\]"),
        (redness, "values from 70 to 240"),
    ],
)
def test_extractors_that_return_something_else(function, words):
    with pytest.raises(InputError, match=words):
        Extracted("odd", function).from_samples(batch(picture()), None, np.random.default_rng(0))


# -- maps of values --------------------------------------------------------------------------------------------------


def test_values_are_spread_whatever_their_range():
    condition = Extracted("red", redness, lines=False)
    drawn = condition.draw(picture(), None, 0)
    assert drawn.mode == "L" and drawn.size == (64, 64)
    x, fit = condition.read(drawn, 32)
    assert x.shape == (1, 1, 32, 32) and (float(x.min()), float(x.max())) == (0, 1)
    for other in (Image.eval(drawn, lambda v: 60 + v // 2), drawn.resize((300, 300)), Image.fromarray(picture(128))):
        assert float((condition.read(other, 32)[0] - x).abs().mean()) < 0.05
    trained = condition.from_samples(batch(picture(32), picture(32, 8)), None, np.random.default_rng(0))
    near, far = ((x[0] - t).abs().mean() for t in trained)
    assert near < 0.5 * far
    assert condition.show(x[0]).size == (32, 32) and fit.size == (64, 64)
    with pytest.raises(InputError, match="one tone"):
        condition.read(Image.new("L", (64, 64), 90), 32)


# -- plugins ---------------------------------------------------------------------------------------------------------


def example() -> str:
    """The Python file of docs/conditions.md."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/conditions.md").read_text(), re.DOTALL | re.MULTILINE)
    (code,) = [block for block in blocks if "register_condition(" in block]
    return code


def test_the_documented_plugin_trains_and_paints(tiny_pack_path, tmp_path):
    """docs/conditions.md to the letter, end to end: the file, a training, a picture from a photo and from edges."""
    plugin, pack = tmp_path / "edges.py", tmp_path / "pack"
    plugin.write_text(example())
    shutil.copytree(tiny_pack_path, pack)
    train = runpy.run_path(str(ROOT / "train_mapper.py"))["main"]
    arguments = [pack, "--condition", "edges", "--run", tmp_path / "run", "--kimg", "0.02", "--batch", "4"]
    quick = [*arguments, "--widths", "8,16", "--save-every", "5", "--cycle", "0"]
    refused = CliRunner().invoke(train, [str(a) for a in quick])
    assert refused.exit_code == 2 and "edges" in refused.output
    done = CliRunner().invoke(train, [str(a) for a in [*quick, "--plugin", plugin]])
    assert done.exit_code == 0, done.output
    assert "edges" in load_pack(pack).conditions()
    photo = Image.fromarray(picture(96))
    photo.save(tmp_path / "photo.png")
    get_condition("edges").draw(np.asarray(photo), None, 0).save(tmp_path / "map.png")
    monkey = ["synthesize", pack, "--condition", "edges", tmp_path / "photo.png", tmp_path / "map.png", "--seeds", "3"]
    painted = CliRunner().invoke(main, [str(a) for a in [*monkey, "--plugin", plugin, "--out", tmp_path / "out"]])
    assert painted.exit_code == 0, painted.output
    assert {"photo_seed3.png", "map_seed3.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1", "registers no condition"),
        ("1 / 0", "cannot be run .ZeroDivisionError"),
        ("def f(:", "cannot be run .SyntaxError"),
        (
            "from sis_rearrange.conditions import *\nregister_condition(Extracted('sketch', max))",
            "comes with the package",
        ),
    ],
)
def test_bad_plugins(tmp_path, code, words):
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(InputError, match=words) as caught:
        load_plugin(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such Python file"):
        load_plugin(tmp_path / "none.py")


# -- depth -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth Anything at a tiny size, random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers", reason="pip install 'sis_rearrange[depth]'")
    backbone = transformers.Dinov2Config(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=8,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[4, 4],
        fusion_hidden_size=4,
        head_hidden_size=4,
    )
    folder = tmp_path_factory.mktemp("depth") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.DepthAnythingForDepthEstimation(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.4)
            model.head.conv3.bias.fill_(20.0)  # its last ReLU would cut a random model's depth to 0
        model.save_pretrained(folder)
    size = {"height": 28, "width": 28}
    transformers.DPTImageProcessor(size=size, do_pad=False, ensure_multiple_of=14).save_pretrained(folder)
    return folder


def test_depth_of_photos_and_samples(depth_model):
    register_condition(Depth(depth_model))
    condition = get_condition("depth")
    photo = Image.fromarray(picture(96))
    x, fit = condition.read(photo, 32)
    assert x.shape == (1, 1, 32, 32) and fit.size == (96, 96)
    assert float(x.std()) > 0.2 and float(x.min()) == 0 and float(x.max()) == 1
    trained = condition.from_samples(batch(picture(32)), None, np.random.default_rng(0))
    assert trained.shape == (1, 1, 32, 32) and float(trained.min()) >= 0 and float(trained.max()) <= 1
    again = condition.read(condition.draw(np.asarray(photo), None, 0), 32)[0]
    assert float((again - x).abs().mean()) < 0.1
    away = Depth(depth_model, inverse=False).read(photo, 32)[0]
    assert float((away - (1 - x)).abs().mean()) < 0.02


def test_depth_maps_need_no_model():
    x, _ = Depth().read(Image.fromarray(redness(picture()).astype(np.uint8)), 32)
    assert x.shape == (1, 1, 32, 32)
    with pytest.raises(InputError, match="--depth-model"):
        Depth().read(Image.fromarray(picture()), 32)


def test_depth_models_that_cannot_be_used(depth_model, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Depth(tmp_path / "none").read(Image.fromarray(picture()), 32)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="cannot be used") as caught:
        Depth(empty).read(Image.fromarray(picture()), 32)
    assert "\n" not in str(caught.value)


def test_pickled_depth_models_are_not_read(depth_model, tmp_path):
    """Weights that could run code are refused although they are there."""
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(depth_model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be used"):
        Depth(folder).read(Image.fromarray(picture()), 32)


def test_depth_models_with_code_of_their_own_are_not_run(depth_model, tmp_path):
    import json

    folder = tmp_path / "code"
    shutil.copytree(depth_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForDepthEstimation": "evil.M"}
    config["model_type"] = "unheard_of"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    with pytest.raises(InputError, match="cannot be used"):
        Depth(folder).read(Image.fromarray(picture()), 32)
    assert not (tmp_path / "ran").exists()


def test_networks_are_read_when_they_are_needed():
    """Making the conditions reads nothing, so that listing them is cheap and works without what they need."""
    assert Hed().channels == 3 and Depth("no/such").channels == 1
    assert isinstance(Scribble(load_pack(ROOT / "pretrained" / "toonhead").palette()), Scribble)
