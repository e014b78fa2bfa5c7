"""The commands on a tiny pack: what they write, what they say, and that asking for help costs nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import SIDE, tiny_head
from official_pickles import write_pytorch
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.cli.options import parse_seeds
from sis_rearrange.cli.pictures import _exemplars
from sis_rearrange.conditions import as_palette
from sis_rearrange.domains import SPLITS
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.inversion import Crop, Inversion
from sis_rearrange.pack import DISCRIMINATOR, GENERATOR, JUDGE, PROXY, load_pack, verify_pack
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.weights import encode_weights, read_weights

ROOT = Path(__file__).resolve().parent.parent


def sis(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def works(*args: str | Path) -> str:
    result = sis(*args)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert result.stderr == ""
    return result.stdout


def works_with_bar(*args: str | Path) -> str:
    """As `works`, for commands that draw a progress bar."""
    result = sis(*args)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*args: str | Path) -> str:
    result = sis(*args)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("Error: ")
    return result.stderr


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.fixture
def folder(tiny_pack_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pack that a command may change."""
    return Path(shutil.copytree(tiny_pack_path, tmp_path / "mine"))


# ---------------------------------------------------------------- help and version


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_help_has_a_runnable_example(path):
    text = works(*path, "--help")
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    examples = [shlex.split(line) for line in lines if line.startswith(f"sis {' '.join(path)} ")]
    examples += [line.split() for line in lines if line == f"sis {' '.join(path)}"]
    assert examples, text
    for words in examples:  # parses: the options exist and nothing required is missing
        command: click.Command = main
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        command.make_context(words[len(path)], words[1 + len(path) :], resilient_parsing=False)


def test_help_is_instant():
    code = "import sys, sis_rearrange.cli; print([m for m in ('torch', 'numpy', 'PIL', 'scipy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_version():
    from sis_rearrange import __version__

    assert works("--version").strip() == f"sis_rearrange {__version__}"


# ---------------------------------------------------------------- seeds


def test_seed_lists():
    assert parse_seeds("0-3,7") == [0, 1, 2, 3, 7]
    assert parse_seeds(" 5 , 2 - 4,5") == [5, 2, 3, 4]
    assert parse_seeds(str(2**63 - 1)) == [2**63 - 1]
    assert len(parse_seeds("0-9999")) == 10_000


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "1-", "-1", "3-1", "1.5", "0x3", "0-10000", str(2**63), "1" * 40, "٣"]
)
def test_seed_lists_that_are_none(text):
    with pytest.raises(InputError) as error:
        parse_seeds(text)
    assert "\n" not in str(error.value) and "seeds" in str(error.value)


# ---------------------------------------------------------------- pictures


def test_generate(tiny_pack_path, tmp_path):
    works("generate", tiny_pack_path, "--seeds", "3,5-6", "--out", tmp_path / "a", "--psi", "0.7")
    works("generate", tiny_pack_path, "--seeds", "5", "--out", tmp_path / "b", "--psi", "0.7")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "contact_sheet.png", "seed3.png", "seed5.png", "seed6.png"]  # fmt: skip
    # the very bytes, whichever seeds are asked for
    assert (tmp_path / "a/seed5.png").read_bytes() == (tmp_path / "b/seed5.png").read_bytes()
    with Image.open(tmp_path / "a/seed3.png") as image:
        assert image.size == (SIDE, SIDE)
        assert (image.info["seed"], image.info["psi"], image.info["pack"]) == ("3", "0.7", "tiny")
        assert len(image.info["pack_hash"]) == 12 and "sis_rearrange" in image.info["Software"]


def test_generate_shows_inversions(tiny_pack, tmp_path):
    generator = tiny_pack.generator()
    ws = sample_ws(generator, [5])[0]
    own = {"name": tiny_pack.name, "generator": tiny_pack.info["files"][GENERATOR]["sha256"]}
    names = ("psnr", "psnr_latent", "distance", "nearest", "limit", "prior_distance", "seconds")
    numbers = dict.fromkeys(names, 1.0)
    brighter = {"synthesis.b32.torgb.bias": torch.ones(3)}
    for name, delta in (("a", {}), ("b", brighter)):
        error = np.zeros((SIDE, SIDE), np.float32)
        picture = {"name": f"{name}.jpg"}
        Inversion(ws, delta, error, numbers, Crop(0, 0, SIDE), picture, own).save(tmp_path / f"{name}.safetensors")
    sources = ["--source", tmp_path / "a.safetensors", "--source", tmp_path / "b.safetensors"]
    works("generate", tiny_pack.path, *sources, "--out", tmp_path / "o")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "a_inverted.png",
        "b_inverted.png",
        "contact_sheet.png",
    ]
    a, b = (np.asarray(Image.open(tmp_path / f"o/{name}_inverted.png")).astype(int) for name in "ab")
    works("generate", tiny_pack.path, "--seeds", "5", "--source", tmp_path / "a.safetensors", "--out", tmp_path / "p")
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["a_inverted.png", "contact_sheet.png", "seed5.png"]
    with Image.open(tmp_path / "p/seed5.png") as image:
        assert np.abs(np.asarray(image) - a).max() <= 1  # ws are stored in half precision
    assert (b >= a).all() and (b > a).any()  # the generator that was tuned to it
    assert "other.safetensors" in refused("generate", tiny_pack.path, "--source", "other.safetensors", "--out", "p")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_backends_paint_the_same_pictures(tiny_pack, tmp_path, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    drawing, out = tiny_pack.file("drawings/sketch-1.png"), tmp_path / "out"
    works("synthesize", tiny_pack.path, "--condition", "sketch", drawing, "--seeds", "3", "--out", out,
          "--backend", backend)  # fmt: skip
    works("synthesize", tiny_pack.path, "--condition", "sketch", drawing, "--seeds", "3", "--out", tmp_path / "auto")
    works("generate", tiny_pack.path, "--seeds", "3", "--out", tmp_path / "look", "--backend", backend)
    found, wanted = (Image.open(folder / "sketch-1_seed3.png") for folder in (out, tmp_path / "auto"))
    assert (found.info["backend"], wanted.info["backend"]) == (backend, "torch")  # one picture: not worth an engine
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wanted)).max() <= 1


def test_unknown_backends_are_refused(tiny_pack, tmp_path):
    drawing = tiny_pack.file("drawings/sketch-1.png")
    for args in (
        ("synthesize", tiny_pack.path, "--condition", "sketch", drawing, "--out", tmp_path),
        ("generate", tiny_pack.path, "--seeds", "3", "--out", tmp_path),
        ("demo", "--pack", tiny_pack.path, "--out", tmp_path / "demo.png"),
    ):
        assert "did you mean 'torch'" in refused(*args, "--backend", "torhc")
    assert list(tmp_path.iterdir()) == []


def test_synthesize_files_and_folders(tiny_pack, tmp_path):
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    for number in (1, 2):
        shutil.copy(tiny_pack.file(f"drawings/sketch-{number}.png"), drawings / f"{number}.png")
    (drawings / ".hidden.png").write_text("not looked at")
    (drawings / "notes.txt").write_text("not looked at")
    other = tmp_path / "1.png"
    shutil.copy(tiny_pack.file("drawings/sketch-3.png"), other)
    out = tmp_path / "out"
    text = works(
        "synthesize",
        tiny_pack.path,
        "--condition",
        "sketch",
        drawings,
        other,
        "--seeds",
        "0,4",
        "--out",
        out,
        "--proxy-masks",
    )
    assert "6 pictures of 3 of 3 drawings" in text
    names = [
        f"{stem}_{what}.png" for stem in ("1", "1-2", "2") for what in ("seed0", "seed0_proxy", "seed4", "seed4_proxy")
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "contact_sheet.png"])
    with Image.open(out / "1-2_seed4.png") as image:
        assert (image.info["seed"], image.info["condition"]) == ("4", "sketch")


def test_proxy_masks_go_round(tiny_pack, tmp_path):
    """The proxy mask that a drawing was read as, handed in again, gives the same picture."""
    drawing = tiny_pack.file("drawings/segmentation-1.png")
    args = ("--seeds", "2", "--out")
    works("synthesize", tiny_pack.path, "--condition", "segmentation", drawing, *args, tmp_path / "a", "--proxy-masks")
    mask = tmp_path / "a/segmentation-1_seed2_proxy.png"
    works("synthesize", tiny_pack.path, "--condition", "proxy", mask, *args, tmp_path / "b")
    with Image.open(tmp_path / "a/segmentation-1_seed2.png") as a, Image.open(
        tmp_path / "b/segmentation-1_seed2_proxy_seed2.png") as b:  # fmt: skip
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_synthesize_exemplars(tiny_pack, tmp_path):
    works(
        "synthesize", tiny_pack.path, "--condition", "exemplar", "12", "14-15", "--seeds", "1", "--out", tmp_path / "o"
    )
    names = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert names == ["contact_sheet.png", *(f"exemplar{n}_seed1.png" for n in (12, 14, 15))]
    for wrong, words in (("photo.png", "photo.png: no such file"), ("5-2", "runs backwards")):
        exemplar = "synthesize", tiny_pack.path, "--condition", "exemplar", wrong
        assert words in refused(*exemplar, "--out", tmp_path / "p")


def test_an_exemplar_seed_and_a_picture_of_its_name_are_both_painted(tmp_path):
    shutil.copy(SHIPPED / "drawings" / "sketch-1.png", tmp_path / "exemplar12.png")
    found = _exemplars(("12", str(tmp_path / "exemplar12.png")), tmp_path / "o")
    assert found == {"exemplar12": 12, "exemplar12-2": tmp_path / "exemplar12.png"}


@pytest.mark.parametrize("command", [("generate",), ("synthesize", "--condition", "exemplar", "3")])
def test_a_file_is_no_folder_to_write_to(tiny_pack, tmp_path, command):
    (tmp_path / "file").touch()
    message = refused(command[0], tiny_pack.path, *command[1:], "--out", tmp_path / "file")
    assert "is a file" in message


def test_synthesize_several_layouts(tiny_pack, tmp_path):
    drawing, out = tiny_pack.file("drawings/scribble-1.png"), tmp_path / "o"
    command = ["synthesize", tiny_pack.path, "--condition", "scribble", drawing, "--seeds", "1-2", "--samples"]
    assert "wrote 6 pictures of 1 of 1 drawings" in works(*command, "3", "--out", out)
    names = [f"scribble-1_sample{n}_seed{seed}.png" for n in (1, 2, 3) for seed in (1, 2)]
    assert sorted(p.name for p in out.iterdir()) == ["contact_sheet.png", *names]
    with Image.open(out / "scribble-1_sample3_seed1.png") as image:
        assert image.info["layout"] == "sample 3, seed 0, temperature 1"
    assert "samples 65" in refused(*command, "65", "--out", tmp_path / "p")
    assert "temperature -1" in refused(*command, "2", "--temperature", "-1", "--out", tmp_path / "p")
    assert "--samples 2 or more" in refused(*command, "1", "--temperature", "2", "--out", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_synthesize_a_mask_in_a_foreign_palette(tiny_pack, tmp_path):
    own = tiny_pack.palette()
    colours = [[7 * n, 255 - 9 * n, 40] for n in range(len(own))]
    foreign = as_palette(own.names[::-1], colours)
    (tmp_path / "parts.json").write_text(foreign.to_json())
    _, labels = tiny_head(64)
    foreign.to_image(len(own) - 1 - labels).convert("RGB").save(tmp_path / "mask.png")
    command = ["synthesize", tiny_pack.path, "--condition", "segmentation", tmp_path / "mask.png", "--seeds", "1"]
    works(*command, "--palette", tmp_path / "parts.json", "--out", tmp_path / "o")
    assert (tmp_path / "o" / "mask_seed1.png").exists()
    assert "no such palette" in refused(*command, "--palette", "part.json", "--out", tmp_path / "p")
    sketch = ["synthesize", tiny_pack.path, "--condition", "sketch", tiny_pack.file("drawings/sketch-1.png")]
    words = "--palette: is for segmentation and scribble, not sketch"
    assert words in refused(*sketch, "--palette", tmp_path / "parts.json", "--out", tmp_path / "p")


def test_demo(tiny_pack, tmp_path):
    out = tmp_path / "new" / "demo.png"
    works("demo", "--pack", tiny_pack.path, "--out", out)
    assert [p.name for p in out.parent.iterdir()] == ["demo.png"]
    with Image.open(out) as image:
        assert image.width > 900 and image.height > 800
        assert image.info["pack_hash"] == tiny_pack.short_hash and image.info["looks"].count(",") == 3
        assert image.info["drawings"] == "segmentation-1.png, sketch-2.png, scribble-3.png"


def test_demo_of_a_pack_without_drawings(folder, tmp_path):
    shutil.rmtree(folder / "drawings")
    info = json.loads((folder / "domain.json").read_text())
    info["files"] = {name: entry for name, entry in info["files"].items() if not name.startswith("drawings/")}
    from sis_rearrange import pack_files

    pack_files._write_info(folder, info)
    assert "sis pack add-drawings" in refused("demo", "--pack", folder, "--out", tmp_path / "demo.png")
    assert not (tmp_path / "demo.png").exists()


def test_proxy_show(tiny_pack, tmp_path):
    works("proxy", "show", tiny_pack.path, "--seeds", "0-5", "--out", tmp_path / "proxy.png")
    with Image.open(tmp_path / "proxy.png") as image:
        assert image.info["seeds"] == "0,1,2,3,4,5" and image.width > 8 * 128
    assert "at most 400" in refused("proxy", "show", tiny_pack.path, "--seeds", "0-500", "--out", tmp_path / "b.png")


# ---------------------------------------------------------------- packs


def test_pack_info_and_verify(tiny_pack, folder):
    text = works("pack", "info", tiny_pack.path)
    for word in (tiny_pack.hash, "scribble, segmentation, sketch", "mappers/sketch.safetensors", "drawn by the tests"):
        assert word in text
    assert tiny_pack.short_hash in works("pack", "verify", folder)
    (folder / "proxy.safetensors").unlink()
    with (folder / "judge.safetensors").open("ab") as file:
        file.write(b"!")
    result = sis("pack", "verify", folder)
    assert result.exit_code == 2
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["Error", "Error"]
    assert "judge.safetensors" in result.stderr and "proxy.safetensors" in result.stderr


@pytest.fixture
def snapshot(tiny_pack, tmp_path) -> Path:
    """What a training leaves: both networks as plain tensors in one torch file."""
    path = tmp_path / "snapshot.pt"
    torch.save({"G_ema": tiny_pack.generator().state_dict(), "D": tiny_pack.discriminator().state_dict()}, path)
    return path


def test_pack_new(snapshot, tiny_pack, tmp_path):
    new = tmp_path / "new-pack"
    fit = ("--tap", "16", "--clusters", "4", "--proxy-samples", "12")
    text = works_with_bar("pack", "new", new, "--generator", snapshot, "--domain", "toonhead", *fit, "--source", "us")
    made = load_pack(new)
    assert verify_pack(new) == [] and made.name == "new-pack" and made.resolution == SIDE and made.short_hash in text
    for ours, theirs in ((made.generator(), tiny_pack.generator()), (made.discriminator(), tiny_pack.discriminator())):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert set(made.info["files"]) == {GENERATOR, DISCRIMINATOR, PROXY}
    assert (made.proxy().K, made.proxy().resolution) == (4, 16)
    note = made.info["provenance"][GENERATOR]
    assert (note["source"], note["network"], note["file"]) == ("us", "G_ema", "snapshot.pt") and "command" in note
    assert made.info["provenance"][PROXY]["samples"] == 12
    assert "Johan Melin" in made.info["licences"][0]["credit"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_pack_new_for_a_domain_of_ones_own(snapshot, tmp_path):
    """Neither classes nor credit come from an embedded domain, and there need not be any."""
    palette = as_palette(("sky", "sea"), ((90, 160, 230), (10, 40, 120)))
    (tmp_path / "parts.json").write_text(palette.to_json())
    fit = ("--tap", "8", "--clusters", "3", "--proxy-samples", "4")
    start = ("pack", "new", tmp_path / "coast", "--generator", snapshot, *fit)
    works_with_bar(*start, "--palette", tmp_path / "parts.json", "--licence", "CC0")
    made = load_pack(tmp_path / "coast")
    assert made.palette() == palette and made.info["domain"] == "coast"
    assert [(entry["licence"], entry["credit"]) for entry in made.info["licences"]] == [("CC0", "")]
    assert "is there already" in refused(*start)
    start = ("pack", "new", tmp_path / "b", *start[3:])
    assert "no/parts.json" in refused(*start, "--palette", "no/parts.json")
    (tmp_path / "wrong.json").write_text('{"sky": [1, 2, 3]}')
    assert "not a JSON list" in refused(*start, "--palette", tmp_path / "wrong.json")
    torch.save(read_weights(snapshot, "G_ema")[1], tmp_path / "alone.pt")
    text = works_with_bar("pack", "new", tmp_path / "b", "--generator", tmp_path / "alone.pt", *fit)
    assert "no discriminator: train the rearranger with --adversarial 0" in text
    plain = load_pack(tmp_path / "b")
    assert set(plain.info["files"]) == {GENERATOR, PROXY}
    assert plain.classes == () and plain.palette() is None and verify_pack(tmp_path / "b") == []
    assert "b 3" not in works("pack", "info", tmp_path / "b")


def test_pack_new_of_one_class(tmp_path):
    torch.manual_seed(0)
    sizes = dict(channel_base=64, channel_max=8)
    networks = {"G_ema": Generator(8, 3, 8, 16, num_layers=2, **sizes), "D": Discriminator(3, 16, **sizes)}
    write_pytorch(tmp_path / "classes.pkl", {name: network.state_dict() for name, network in networks.items()})
    start = ("pack", "new", tmp_path / "cats", "--generator", tmp_path / "classes.pkl", "--proxy-samples", "4",
             "--clusters", "3", "--tap", "8")  # fmt: skip
    assert "--class 0 to 2" in refused(*start)
    assert "class 3" in refused(*start, "--class", "3")
    works_with_bar(*start, "--class", "1")
    made = load_pack(tmp_path / "cats")
    z, c = torch.randn(2, 8), torch.eye(3)[[1, 1]]
    expected = networks["G_ema"].eval()(z, c)
    torch.testing.assert_close(made.generator()(z), expected, rtol=0, atol=0.02)  # stored as float16
    images = torch.randn(2, 3, 16, 16)
    expected = networks["D"].eval()(images, c)
    torch.testing.assert_close(made.discriminator()(images), expected, rtol=0, atol=0.02)


def test_pack_new_refuses(snapshot, tmp_path):
    new = tmp_path / "new"
    start = ("pack", "new", new, "--generator", snapshot)
    assert "is a discriminator" in refused(*start, "--network", "D")
    assert "no such file" in refused("pack", "new", new, "--generator", tmp_path / "x.pt")
    assert "can be split at [4, 8, 16]" in refused(*start, "--tap", "32")
    assert "--clusters 1:" in refused(*start, "--tap", "16", "--clusters", "1")
    assert "--class 0" in refused(*start, "--class", "0")
    assert "no name for a pack" in refused("pack", "new", tmp_path / "New Pack", "--generator", snapshot, "--tap", "8")
    within = snapshot / "new"
    message = refused("pack", "new", within, "--generator", snapshot, "--tap", "8", "--proxy-samples", "4")
    assert f"{within}: cannot be written (Not a directory)" in message
    assert not new.exists() and [p.name for p in tmp_path.iterdir()] == ["snapshot.pt"]


def test_pack_add(folder, tmp_path):
    judge = load_pack(folder).judge()
    file = tmp_path / "judge.safetensors"
    classes = list(load_pack(folder).classes)
    description = {"kind": "unet", **judge.config, "classes": classes, "metrics": {"miou": 0.5}}
    state = {name: value * 0.5 if value.is_floating_point() else value for name, value in judge.state_dict().items()}
    file.write_bytes(encode_weights(state, description))
    for minutes in ("nan", "-1"):
        assert "--minutes" in refused("pack", "add", folder, "judge", file, "--minutes", minutes)
    works("pack", "add", folder, "judge", file, "--command", "train it", "--minutes", "2.5")
    made = load_pack(folder)
    assert torch.equal(made.judge().head.weight, judge.head.weight / 2)
    assert made.component_config(JUDGE)["args"] == judge.config
    note = made.info["provenance"][JUDGE]
    assert (note["command"], note["minutes"], note["metrics"]) == ("train it", 2.5, {"miou": 0.5})
    config, state = read_weights(folder / "generator.safetensors")
    assert "not a segmenter" in refused("pack", "add", folder, "judge", folder / "generator.safetensors")
    file.write_bytes(encode_weights(judge.state_dict(), {**description, "classes": ["cat", "dog"]}))
    assert "classes of pack" in refused("pack", "add", folder, "segmenter", file)


def test_pack_add_drawings(folder):
    pytest.importorskip("dicebear")
    works("pack", "add-drawings", folder, "--indices", "5,2")
    made = load_pack(folder)
    assert verify_pack(folder) == []
    note = made.info["provenance"]["drawings/sketch-2.png"]
    assert note["index"] == SPLITS["test"][2] and note["command"].endswith("--indices 5,2")
    for condition in ("segmentation", "sketch", "scribble"):
        with Image.open(made.file(f"drawings/{condition}-1.png")) as image:
            assert image.size == (256, 256)
    assert "0 to 999" in refused("pack", "add-drawings", folder, "--indices", "1000")


# ---------------------------------------------------------------- domains, scores


def test_domains(tmp_path):
    assert "toonhead: background, rear_hair" in works("domains", "list")
    pytest.importorskip("dicebear")
    out = tmp_path / "renders"
    render = ("domains", "render", "toonhead", "--split", "test", "--count", "3", "--size", "32", "--out")
    works(*render, out)
    names = [f"{index:07d}.png" for index in SPLITS["test"][:3]]
    assert sorted(p.name for p in (out / "images").iterdir()) == names
    assert sorted(p.name for p in (out / "masks").iterdir()) == names
    palette = json.loads((out / "palette.json").read_text())
    assert [row["name"] for row in palette][:2] == ["background", "rear_hair"]
    with Image.open(out / "masks" / names[0]) as mask:
        assert mask.mode == "P" and mask.getpalette()[:3] == palette[0]["colour"]
        assert 3 < len(np.unique(np.asarray(mask))) <= 10
    with Image.open(out / "images" / names[0]) as picture:
        assert picture.size == (32, 32) and "Johan Melin" in picture.info["Credit"]
    assert (out / "contact_sheet.png").exists()
    assert "unknown split" in refused(*render[:3], "--split", "tset", "--out", tmp_path / "x")
    assert "resolution 5" in refused(*render[:3], "--size", "5", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_evaluate(folder, tmp_path, monkeypatch):
    pytest.importorskip("dicebear")
    from sis_rearrange.evaluation import protocol

    few = protocol.Protocol("quick", samples=4, drawings=2, pictures=4, timed=1, drawing_side=64)
    monkeypatch.setattr(protocol, "QUICK", few)
    text = works("evaluate", folder, "--quick", "--out", tmp_path / "scores.json", "--record")
    report = json.loads((tmp_path / "scores.json").read_text())
    assert "psnr_self_db_4" in text and "psnr_self_db_4" in report["metrics"]
    recorded = load_pack(folder).info["scores"]["quick"]
    assert recorded["metrics"] == report["metrics"] and recorded["hash"] == load_pack(folder).hash
    assert "quick: psnr_self_db_4 = " in works("pack", "info", folder)
    text = works("evaluate", folder, "--quick", "--out", tmp_path / "report")
    assert f"wrote {tmp_path / 'report' / 'results.md'}" in text
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert {"split", "seeds", "preprocessing", "extractors", "hash", "bounds"} <= set(results)
    assert results["metrics"].keys() == report["metrics"].keys()


def test_evaluate_protocols(folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sis_rearrange.evaluation.reliability.QUICK_SAMPLES", 3)
    command = ["evaluate", folder, "--protocol", "reliability", "--quick", "--out"]
    works(*command, tmp_path / "report")
    with Image.open(tmp_path / "report" / "reliability.png") as plot:
        assert plot.width > plot.height
    page = (tmp_path / "report" / "results.md").read_text()
    assert "![reliability](reliability.png)" in page and "sis pack calibrate" in page
    metrics = json.loads((tmp_path / "report" / "results.json").read_text())["metrics"]
    assert metrics["ece_calibrated_sketch_3"] == metrics["ece_uncalibrated_sketch_3"]  # no mapper is calibrated yet
    assert "did you mean 'reliability'" in refused("evaluate", folder, "--protocol", "reliabilty")
    assert "--record" in refused("evaluate", folder, "--protocol", "reliability", "--record")
    assert "--only: is for protocol few-shot" in refused(*command, tmp_path / "x", "--only", "ours")
    assert "--inception: is for protocol quality" in refused("evaluate", folder, "--quick", "--inception", "a.pth")
    assert "is a file" in refused(*command, tmp_path / "report" / "results.md")


def test_a_mask_that_domains_render_wrote_is_a_segmentation(tiny_pack, tmp_path):
    _, labels = tiny_head(64)
    tiny_pack.palette().to_image(labels).save(tmp_path / "mask.png")
    works("synthesize", tiny_pack.path, "--condition", "segmentation", tmp_path / "mask.png", "--out", tmp_path / "o")


# ---------------------------------------------------------------- the shipped pack

SHIPPED = ROOT / "pretrained" / "toonhead"


def test_the_demo_of_the_shipped_pack(tmp_path):
    """As a user starts it, offline and without the rendering packages: under 30 s, of processors, and 2 GB."""
    code = (
        "import re, sys, time\n"
        "sys.modules.update(dict.fromkeys(['dicebear', 'dicebear_styles', 'resvg_py']))\n"
        "from sis_rearrange.cli import main\n"
        "try: main(sys.argv[1:], prog_name='sis')\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(time.process_time(), peak)\n"
    )
    command = [sys.executable, "-c", code, "demo", "--out", str(tmp_path / "demo.png")]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    seconds, kilobytes = map(float, run.stdout.splitlines()[-1].split())
    assert seconds < 30 and kilobytes < 2e6
    with Image.open(tmp_path / "demo.png") as image:
        assert image.info["pack"] == "toonhead"
