"""`load_generator` on every kind of file, and `sis convert` between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import official_pickles
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

import sis_rearrange as sis
from sis_rearrange.cli import main
from sis_rearrange.errors import InputError
from sis_rearrange.loading import load_discriminator, load_generator
from sis_rearrange.pack import Pack
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.weights import read_networks, write_weights

CHANNELS = [24, 16, 8]  # from 4x4 to 16x16
SIZES = dict(img_resolution=16, channel_base=128, channel_max=24)
CLOSE: dict[str, Any] = dict(rtol=0, atol=1e-4)


def z(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0, c_dim: int = 0) -> Generator:
    torch.manual_seed(seed)
    made = Generator(12, c_dim, 12, num_layers=2, **SIZES).eval().requires_grad_(False)
    made.mapping.w_avg.normal_()
    return made


def discriminator(c_dim: int = 0) -> Discriminator:
    torch.manual_seed(7)
    return Discriminator(c_dim, **SIZES).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """One file of every layout."""
    folder = tmp_path_factory.mktemp("files")
    networks = {"G": generator(1).state_dict(), "D": discriminator().state_dict(), "G_ema": generator().state_dict()}
    kwargs = dict(z_dim=12, c_dim=0, w_dim=12, img_resolution=16, img_channels=3)
    official_pickles.write_pytorch(folder / "official.pkl", networks, {"G_ema": kwargs, "G": kwargs})
    torch.save(networks, folder / "plain.pt")
    torch.save(networks["G"], folder / "flat.pt")
    config = {"kind": "generator", "args": generator().config, "licence": "CC BY 4.0", "credit": "somebody"}
    write_weights(folder / "ours.safetensors", networks["G_ema"], config, half=False)
    names = {"G": 1, "D": None, "Gs": 2}
    variables = {name: layouts.tensorflow_discriminator(0, CHANNELS) if seed is None else
                 layouts.tensorflow_generator(seed, CHANNELS) for name, seed in names.items()}  # fmt: skip
    official_pickles.write_tensorflow(folder / "tensorflow.pkl", variables, {"resolution": 16})
    states = {"g": layouts.rosinality_generator(1, CHANNELS), "g_ema": layouts.rosinality_generator(2, CHANNELS)}
    states["d"] = layouts.rosinality_discriminator(3, CHANNELS)
    official_pickles.write_rosinality(folder / "rosinality.pt", states, torch.full((12,), 0.3))
    torch.save({"weight": torch.ones(3)}, folder / "other.pt")
    conditional = {"G_ema": generator(4, c_dim=3).state_dict(), "D": discriminator(3).state_dict()}
    official_pickles.write_pytorch(folder / "conditional.pkl", conditional)
    return folder


def sis_command(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code in (0, 2), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def works(*args: str | Path) -> str:
    code, out, err = sis_command(*args)
    assert (code, err) == (0, ""), err
    return out


def refused(*args: str | Path) -> str:
    code, _, err = sis_command(*args)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("Error: ")
    return err


# ---------------------------------------------------------------- loading


def test_generators_of_every_layout(files):
    official = generator()(z(), truncation_psi=0.6)
    tensorflow = layouts.tensorflow_picture(layouts.tensorflow_generator(2, CHANNELS), z(), 0.6)
    state = layouts.rosinality_generator(2, CHANNELS)
    rosinality = layouts.rosinality_picture(state, z(), 0.6, torch.full((12,), 0.3))
    for name, expected in (
        ("official.pkl", official),
        ("plain.pt", official),
        ("ours.safetensors", official),
        ("tensorflow.pkl", tensorflow),
        ("rosinality.pt", rosinality),
    ):
        made = sis.load_generator(files / name, backend="torch")
        assert isinstance(made, Generator) and not made.training
        assert not any(parameter.requires_grad for parameter in made.parameters())
        torch.testing.assert_close(made(z(), truncation_psi=0.6), expected, **CLOSE)


def test_another_network_of_the_file(files):
    torch.testing.assert_close(load_generator(files / "official.pkl", "G", "torch")(z()), generator(1)(z()), **CLOSE)
    torch.testing.assert_close(load_generator(files / "flat.pt", backend="torch")(z()), generator(1)(z()), **CLOSE)
    expected = layouts.tensorflow_picture(layouts.tensorflow_generator(1, CHANNELS), z(), 1.0)
    torch.testing.assert_close(load_generator(files / "tensorflow.pkl", "G", "torch")(z()), expected, **CLOSE)


def test_discriminators_of_every_layout(files):
    images = torch.randn(3, 3, 16, 16) * torch.tensor([1.0, 2.0, 4.0])[:, None, None, None]
    for name, expected in (
        ("official.pkl", discriminator()(images)),
        ("tensorflow.pkl", layouts.tensorflow_scores(layouts.tensorflow_discriminator(0, CHANNELS), images)),
        ("rosinality.pt", layouts.rosinality_scores(layouts.rosinality_discriminator(3, CHANNELS), images)),
    ):
        torch.testing.assert_close(load_discriminator(files / name)(images), expected, **CLOSE)


def test_conditional_networks(files):
    c = torch.eye(3)[1:]
    made = load_generator(files / "conditional.pkl", backend="torch")
    torch.testing.assert_close(made(z(), c), generator(4, c_dim=3)(z(), c), **CLOSE)
    images = torch.randn(2, 3, 16, 16)
    expected = discriminator(3)(images, c)
    torch.testing.assert_close(load_discriminator(files / "conditional.pkl")(images, c), expected, **CLOSE)


def test_packs(tiny_pack: Pack, tmp_path, monkeypatch):
    ws = torch.randn(1, tiny_pack.generator().num_ws, 16)
    expected = tiny_pack.generator().synthesis(ws)
    for path in (tiny_pack.path, tiny_pack.path / "domain.json", tiny_pack.path / "generator.safetensors"):
        with torch.no_grad():
            torch.testing.assert_close(load_generator(path, backend="torch").synthesis(ws), expected, **CLOSE)
    assert load_discriminator(tiny_pack.path).img_resolution == 32
    with pytest.raises(InputError, match="leave out 'G'"):
        load_generator(tiny_pack.path, "G")
    with pytest.raises(InputError, match="not a pack"):
        load_generator(tmp_path)


def test_the_fastest_backend_gives_the_same_picture(files):
    pytest.importorskip("openvino")
    slow, fast = (load_generator(files / "official.pkl", backend=backend) for backend in ("torch", "auto"))
    ws = slow.mapping(z(), truncation_psi=0.6)
    with torch.inference_mode():
        torch.testing.assert_close(fast.synthesis(ws), slow.synthesis(ws), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "network", "words"),
    [
        ("official.pkl", "G_emma", ["no network 'G_emma'", "did you mean 'G_ema'", "G, D, G_ema"]),
        ("official.pkl", "D", ["is a discriminator, not a generator"]),
        ("other.pt", None, ["neither a generator nor a discriminator"]),
        ("missing.pkl", None, ["no such file"]),
    ],
)
def test_errors_are_one_line(files, name, network, words):
    with pytest.raises(InputError) as error:
        load_generator(files / name, network)
    text = str(error.value)
    assert "\n" not in text and text.startswith(str(files / name))
    for word in words:
        assert word in text
    with pytest.raises(InputError, match="holds no StyleGAN2 discriminator"):
        load_discriminator(files / "ours.safetensors")


# ---------------------------------------------------------------- sis convert

LICENCE = ("--licence", "CC0")


@pytest.mark.parametrize("name", ["official.pkl", "tensorflow.pkl", "rosinality.pt", "plain.pt"])
@pytest.mark.parametrize("layout", ["ours", "official", "rosinality"])
def test_convert(files, tmp_path, name, layout):
    out = tmp_path / f"out.{'safetensors' if layout == 'ours' else 'pt'}"
    text = works("convert", files / name, out, "--layout", layout, *LICENCE)
    assert "largest difference of a picture before and after" in text and f"wrote {out}" in text
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    before, after = (load_generator(path, backend="torch")(z(), truncation_psi=0.5) for path in (files / name, out))
    torch.testing.assert_close(after, before, **CLOSE)
    records = read_networks(out)
    wanted = {"ours": [""], "official": ["D", "G", "G_ema"], "rosinality": ["d", "g", "g_ema"]}[layout]
    assert sorted(records) == wanted
    assert ("not written" in text) == (layout == "ours")
    about = next(iter(records.values())).config
    assert about["licence"] == "CC0" and about["provenance"]["file"] == name
    assert len(about["provenance"]["sha256"]) == 64


def test_converted_files_hold_plain_tensors_that_other_programs_read(files, tmp_path):
    works("convert", files / "tensorflow.pkl", tmp_path / "r.pt", "--layout", "rosinality", *LICENCE)
    loaded = torch.load(tmp_path / "r.pt", weights_only=True)
    state = loaded["g_ema"]
    expected = layouts.tensorflow_picture(layouts.tensorflow_generator(2, CHANNELS), z(), 0.5)
    picture = layouts.rosinality_picture(state, z(), 0.5, loaded["latent_avg"])
    torch.testing.assert_close(picture, expected, **CLOSE)
    assert set(state) == set(layouts.rosinality_generator(0, CHANNELS))
    works("convert", files / "rosinality.pt", tmp_path / "o.pt", "--layout", "official", *LICENCE)
    loaded = torch.load(tmp_path / "o.pt", weights_only=True)
    made = Generator(12, 0, 12, num_layers=2, **SIZES)
    made.load_state_dict(loaded["G_ema"], strict=True)
    Discriminator(0, **SIZES).load_state_dict(loaded["D"], strict=True)


def test_licence_and_provenance_travel(files, tmp_path):
    works("convert", files / "ours.safetensors", tmp_path / "a.pt", "--layout", "rosinality")
    works("convert", tmp_path / "a.pt", tmp_path / "b.safetensors", "--layout", "rosinality")
    works("convert", tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert (config["licence"], config["credit"]) == ("CC BY 4.0", "somebody")
    assert config["provenance"]["before"]["before"]["file"] == "ours.safetensors"
    torch.testing.assert_close(load_generator(tmp_path / "c.safetensors", backend="torch")(z()), generator()(z()))


def test_convert_one_network(files, tmp_path):
    works("convert", files / "official.pkl", tmp_path / "d.safetensors", "--network", "D", *LICENCE)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(load_discriminator(tmp_path / "d.safetensors")(images), discriminator()(images))
    text = works("convert", files / "tensorflow.pkl", tmp_path / "g.pt", "--layout", "official", "--network", "G",
                 *LICENCE)  # fmt: skip
    assert list(read_networks(tmp_path / "g.pt")) == ["G"] and "not written: D, Gs" in text


def test_convert_refuses(files, tmp_path):
    out = tmp_path / "out.safetensors"
    assert "--licence" in refused("convert", files / "official.pkl", out)
    assert "name end in .safetensors" in refused("convert", files / "official.pkl", tmp_path / "out.pt", *LICENCE)
    assert "class-conditional" in refused("convert", files / "conditional.pkl", tmp_path / "out.pt", *LICENCE,
                                          "--layout", "rosinality")  # fmt: skip
    assert "did you mean 'G_ema'" in refused("convert", files / "official.pkl", out, "--network", "G_em", *LICENCE)
    assert "neither a generator" in refused("convert", files / "other.pt", out, *LICENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_changes_is_not_written(files, tmp_path, monkeypatch):
    """A conversion with a mistake in it: noise of the wrong strength."""
    from sis_rearrange.conversion import rosinality

    correct = rosinality._generator_state

    def mistaken(state):
        made = correct(state)
        return {name: t + 0.5 if name.endswith("noise.weight") else t for name, t in made.items()}

    monkeypatch.setattr(rosinality, "_generator_state", mistaken)
    text = refused("convert", files / "official.pkl", tmp_path / "a.pt", "--layout", "rosinality", *LICENCE)
    assert "picture changes by" in text and list(tmp_path.iterdir()) == []
