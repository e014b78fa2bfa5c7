"""The domain pack: written, read back, and every way in which a folder can be no sound pack."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import sis_rearrange.pack_files as pack_files
from sis_rearrange.errors import InputError
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.pack import (
    DISCRIMINATOR,
    GENERATOR,
    JUDGE,
    PROXY,
    REARRANGER,
    SEGMENTER,
    add_file,
    copy_pack,
    create_pack,
    load_pack,
    mapper_file,
    pack_names,
    update_info,
    verify_pack,
    write_component,
    write_manifest,
)
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.unet import UNet

CLASSES = ("background", "skin", "hair")
COLOURS = ((0, 0, 0), (255, 200, 160), (90, 50, 20))
DRAWING = "drawings/000_sketch.png"


def tiny_networks() -> dict[str, tuple[str, nn.Module]]:
    """Every component, as small as the real classes go: relative path -> (kind, network)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        proxy = ProxyClusters(num_clusters=3, channels=8, resolution=8)
        proxy.centroids.normal_()
        return {
            GENERATOR: ("generator", Generator(8, 0, 8, 16, channel_base=128, channel_max=8, num_layers=2)),
            DISCRIMINATOR: ("discriminator", Discriminator(0, 16, channel_base=128, channel_max=8)),
            PROXY: ("proxy", proxy),
            REARRANGER: ("rearranger", Rearranger(8, 3, 8, width=8, refine_width=4)),
            mapper_file("sketch"): ("mapper", SemanticMapper("sketch", 1, 3, 16, 8, widths=(4, 8))),
            mapper_file("scribble"): ("mapper", SemanticMapper("scribble", 4, 3, 16, 8, widths=(4, 8))),
            SEGMENTER: ("unet", UNet(3, 3, widths=(4, 8))),
            JUDGE: ("unet", UNet(3, 3, widths=(4, 4))),
        }


def write_tiny_pack(path: Path) -> Path:
    create_pack(path, path.name, "toonhead", CLASSES, COLOURS, 16, [{"what": "art", "licence": "CC0", "credit": "me"}])
    for relpath, (kind, network) in tiny_networks().items():
        config = {"kind": kind, "args": network.config, "note": relpath}
        write_component(path, relpath, network.state_dict(), config, {"command": "train", "seed": 3, "minutes": 1.5})
    png = io.BytesIO()
    Image.new("L", (16, 16), 255).save(png, format="PNG")
    add_file(path, DRAWING, png.getvalue())
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the pack that the test may damage."""
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def refused(path: str | Path, *words: str) -> None:
    """`load_pack` refuses in one line that says all the words, and `verify_pack` finds a problem too."""
    with pytest.raises(InputError) as error:
        load_pack(path)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"
    assert verify_pack(path)


def change_info(folder: Path, change: Callable[[dict], object]) -> None:
    """Change domain.json as an attacker who knows the format would: with a checksum that fits."""
    info = json.loads((folder / "domain.json").read_text())
    change(info)
    info["checksum"] = pack_files._checksum(info)
    (folder / "domain.json").write_text(json.dumps(info))


def test_round_trip_of_every_component(written: Path) -> None:
    pack = load_pack(written)
    assert verify_pack(written) == []
    built = {
        GENERATOR: pack.generator(),
        DISCRIMINATOR: pack.discriminator(),
        PROXY: pack.proxy(),
        REARRANGER: pack.rearranger(),
        mapper_file("sketch"): pack.mapper("sketch"),
        mapper_file("scribble"): pack.mapper("scribble"),
        SEGMENTER: pack.segmenter(),
        JUDGE: pack.judge(),
    }
    originals = tiny_networks()
    assert set(built) == set(originals)
    for relpath, network in built.items():
        original = originals[relpath][1]
        assert type(network) is type(original) and network.config == original.config
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        for name, tensor in original.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        assert pack.component_config(relpath)["note"] == relpath
    z = torch.ones(1, 8)
    expected = originals[GENERATOR][1](z)
    assert (pack.generator()(z) - expected).abs().max() < 0.02 * expected.abs().max()  # fp16 weights


def test_builders_are_cached_per_pack_and_leave_the_random_state(written: Path) -> None:
    pack, other = load_pack(written), load_pack(written)
    before = torch.random.get_rng_state()
    assert pack.generator() is pack.generator()
    assert pack.generator() is not other.generator()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_description(written: Path) -> None:
    pack = load_pack(str(written / "domain.json"))
    assert (pack.name, pack.classes, pack.resolution) == ("tiny", CLASSES, 16)
    palette = pack.palette()
    assert palette is not None and palette.colours == COLOURS
    assert pack.conditions() == ("scribble", "sketch")
    assert pack.drawings() == (DRAWING,)
    assert Image.open(pack.file(DRAWING)).size == (16, 16)
    assert pack.info["provenance"][GENERATOR] == {"command": "train", "seed": 3, "minutes": 1.5}
    assert pack.size == sum((written / name).stat().st_size for name in pack.info["files"])
    assert pack.short_hash == pack.hash[:12] and len(pack.hash) == 64
    for relpath, entry in pack.info["files"].items():
        assert entry["sha256"] == hashlib.sha256((written / relpath).read_bytes()).hexdigest()


def test_writing_is_deterministic(written: Path, tmp_path: Path) -> None:
    again = write_tiny_pack(tmp_path / "tiny")
    names = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in names:
        assert (written / name).read_bytes() == (again / name).read_bytes(), name
    assert load_pack(written).hash == load_pack(again).hash


def test_hash_follows_the_files_and_not_the_scores(folder: Path) -> None:
    before = load_pack(folder).hash
    update_info(folder, {"scores": {"rearranger": {"agreement": 0.9}}})
    update_info(folder, {"scores": {"rearranger": {"psnr": 30.0}, 7: 1}, "palette": COLOURS})
    pack = load_pack(folder)
    assert pack.hash == before
    assert pack.info["scores"] == {"rearranger": {"agreement": 0.9, "psnr": 30.0}, "7": 1}
    add_file(folder, DRAWING, b"other")
    assert load_pack(folder).hash != before


def test_one_changed_byte_in_any_file(folder: Path) -> None:
    names = [*load_pack(folder).info["files"], "domain.json"]
    for name in names:
        data = (folder / name).read_bytes()
        for place in (0, len(data) // 2, len(data) - 2):
            changed = bytearray(data)
            changed[place] ^= 1
            (folder / name).write_bytes(bytes(changed))
            refused(folder, Path(name).name)
        (folder / name).write_bytes(data)
    assert verify_pack(folder) == []


def test_message_of_a_changed_file_has_both_hashes(folder: Path) -> None:
    data = bytearray((folder / PROXY).read_bytes())
    data[-1] ^= 1
    (folder / PROXY).write_bytes(bytes(data))
    listed = json.loads((folder / "domain.json").read_text())["files"][PROXY]["sha256"]
    refused(folder, PROXY, "was changed", listed[:8], hashlib.sha256(data).hexdigest()[:8])


def test_file_changed_after_loading(folder: Path) -> None:
    pack, unverified = load_pack(folder), load_pack(folder, verify=False)
    data = bytearray((folder / JUDGE).read_bytes())
    data[-1] ^= 1
    (folder / JUDGE).write_bytes(bytes(data))
    for opened in (pack, unverified):
        with pytest.raises(InputError, match="was changed"):
            opened.judge()


def test_missing_and_truncated_files(folder: Path) -> None:
    data = (folder / GENERATOR).read_bytes()
    (folder / GENERATOR).write_bytes(data[:-7])
    refused(folder, GENERATOR, f"{len(data) - 7:,} bytes instead of {len(data):,}")
    (folder / GENERATOR).unlink()
    refused(folder, GENERATOR, "missing")
    (folder / GENERATOR).mkdir()
    refused(folder, GENERATOR, "missing")


def test_unlisted_weights_are_refused_but_notes_are_not(folder: Path) -> None:
    (folder / "notes.txt").write_text("trained on Monday")
    assert verify_pack(folder) == []
    (folder / "mappers" / "depth.safetensors").write_bytes(b"stray")
    refused(folder, "mappers/depth.safetensors", "not listed")


@pytest.mark.parametrize(
    "relpath",
    [
        "../secret.png",
        "/etc/hostname",
        "drawings/../../secret.png",
        "drawings//a.png",
        "C:secret.png",
        "..\\secret.png",
        "",
    ],
)
def test_paths_out_of_the_folder(folder: Path, relpath: str) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    change_info(folder, lambda info: info["files"].update({relpath: entry}))
    refused(folder, "leads out")
    with pytest.raises(InputError, match="leads out"):
        load_pack(folder, verify=False).read(relpath)
    with pytest.raises(InputError, match="leads out"):
        add_file(folder, relpath, b"overwritten")
    assert secret.read_bytes() == b"secret"


def test_symbolic_links_out_of_the_folder(folder: Path) -> None:
    outside = folder.parent / "outside"
    shutil.copytree(folder / "drawings", outside)
    shutil.rmtree(folder / "drawings")
    (folder / "drawings").symlink_to(outside, target_is_directory=True)
    refused(folder, "leads out")
    (folder / "drawings").unlink()
    (folder / "drawings").mkdir()
    (folder / DRAWING).symlink_to(outside / Path(DRAWING).name)
    refused(folder, "leads out")


def test_a_linked_pack_folder_is_fine(folder: Path) -> None:
    link = folder.parent / "linked"
    link.symlink_to(folder, target_is_directory=True)
    assert load_pack(link).hash == load_pack(folder).hash


def test_jpeg_listed_as_weights(folder: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16)).save(jpeg, format="JPEG")
    add_file(folder, GENERATOR, jpeg.getvalue())
    with pytest.raises(InputError, match="generator.safetensors: is a JPEG image"):
        load_pack(folder).generator()
    assert any("JPEG" in problem for problem in verify_pack(folder))


def test_unknown_format_and_broken_descriptions(folder: Path) -> None:
    change_info(folder, lambda info: info.update(format=2))
    refused(folder, "format 2", "reads 1")
    good = (folder / "domain.json").read_bytes()
    for key in ("name", "classes", "palette", "resolution", "files", "scores"):

        def without(info: dict[str, Any], key: str = key) -> None:
            info.update(format=1)
            info.pop(key)

        change_info(folder, without)
        refused(folder, "domain.json", repr(key))
        (folder / "domain.json").write_bytes(good)
    change_info(folder, lambda info: (info.update(format=1), info["palette"].pop()))
    refused(folder, "one RGB colour per class")
    for text in ("", "{", "[]", "[" * 100_000, "\xff"):
        (folder / "domain.json").write_bytes(text.encode("latin-1"))
        refused(folder, "domain.json")


def test_component_of_the_wrong_kind_or_shape(folder: Path) -> None:
    network = UNet(3, 3, widths=(4, 8))
    write_component(folder, PROXY, network.state_dict(), {"kind": "unet", "args": network.config}, {})
    with pytest.raises(InputError, match="holds a 'unet', where a 'proxy' belongs"):
        load_pack(folder).proxy()
    for args in ({**network.config, "widths": [4, 9]}, {**network.config, "depth": 3}, {"in_channels": 3}):
        write_component(folder, JUDGE, network.state_dict(), {"kind": "unet", "args": args}, {})
        with pytest.raises(InputError, match="do not fit this version") as error:
            load_pack(folder).judge()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="args"):
        write_component(folder, JUDGE, network.state_dict(), {"kind": "unet", **network.config}, {})


def test_configuration_that_asks_for_terabytes(folder: Path) -> None:
    network = UNet(3, 3, widths=(4, 8))
    for args in ({**network.config, "widths": [10**6, 10**6]}, {**network.config, "out_channels": 10**12}):
        write_component(folder, JUDGE, network.state_dict(), {"kind": "unet", "args": args}, {})
        with pytest.raises(InputError, match="far more than the file holds"):
            load_pack(folder).judge()


def test_description_that_is_too_large(folder: Path) -> None:
    with (folder / "domain.json").open("ab") as file:
        file.write(b" " * 5_000_000)
    refused(folder, "domain.json", "too many for a description")


def test_missing_component_and_nearest_mapper(folder: Path) -> None:
    pack = load_pack(folder)
    with pytest.raises(InputError, match="'sketsch'; did you mean 'sketch'"):
        pack.mapper("sketsch")
    create_pack(folder.parent / "empty", "empty", "toonhead", CLASSES, COLOURS, 16)
    with pytest.raises(InputError, match="'empty' has no rearranger.safetensors"):
        load_pack(folder.parent / "empty").rearranger()


def test_lookup_by_name(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_files, "pretrained_roots", lambda: [written.parent])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of that name that is no pack does not hide the name
    assert pack_names() == ["tiny"]
    assert load_pack("tiny").path == written
    refused("tinny", "unknown pack 'tinny'", "did you mean 'tiny'", "known names: tiny")
    for bad, word in (("", "unknown"), ("../tiny/nothing", "unknown"), ("x" * 300, "xxx"), (tmp_path, "is a folder")):
        refused(bad, word)
    (tmp_path / "file.png").write_bytes(b"x")
    refused("file.png", "is a file")


def test_pretrained_folder_is_found_in_a_checkout() -> None:
    package = Path(pack_files.__file__).resolve().parent
    for root in pack_files.pretrained_roots():
        assert root in (package / "pretrained", package.parent / "pretrained")


def test_create_pack_keeps_an_existing_one(folder: Path) -> None:
    before = (folder / "domain.json").read_bytes()
    with pytest.raises(InputError, match="another pack"):
        create_pack(folder, "tiny", "toonhead", CLASSES, COLOURS, 16)
    with pytest.raises(InputError, match="another pack"):
        create_pack(folder, "tiny", "critters", CLASSES, COLOURS, 16, exist_ok=True)
    create_pack(folder, "tiny", "toonhead", CLASSES, COLOURS, 16, exist_ok=True)
    assert (folder / "domain.json").read_bytes() == before
    with pytest.raises(InputError, match="no name"):
        create_pack(folder.parent / "x", "../x", "toonhead", CLASSES, COLOURS, 16)
    with pytest.raises(InputError, match="cannot be made"):
        create_pack(folder / GENERATOR / "x", "x", "toonhead", CLASSES, COLOURS, 16)
    with pytest.raises(ValueError, match="files"):
        update_info(folder, {"files": {}})


def test_manifest(folder: Path) -> None:
    assert write_manifest(folder.parent) == {"tiny": {"hash": load_pack(folder).hash, "bytes": load_pack(folder).size}}
    assert verify_pack(folder) == []
    add_file(folder, DRAWING, b"newer")
    problems = verify_pack(folder)
    assert len(problems) == 1 and "manifest.json" in problems[0]
    (folder.parent / "manifest.json").write_text("[")
    assert "not a readable manifest" in verify_pack(folder)[0]


def test_full_disk_leaves_the_pack_whole(folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a write beyond 100 bytes fails, as on a full disk
    try:
        with pytest.raises(InputError) as error:
            add_file(folder, DRAWING, b"n" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path(DRAWING).name in str(error.value) and "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_looking_at_a_pack_does_not_import_torch(written: Path) -> None:
    code = (
        "import sys; from sis_rearrange.pack import load_pack; "
        f"print(load_pack({str(written)!r}).short_hash, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(pack_files.__file__).parents[1],
    )
    assert done.stdout.split() == [load_pack(written).short_hash, "False"]


def test_a_copy_has_its_own_name_and_leaves_nothing_behind_where_it_fails(written: Path, tmp_path: Path) -> None:
    pack = load_pack(written)
    made = copy_pack(pack, tmp_path / "mine")
    assert made.name == "mine" and made.hash == pack.hash and made.classes == pack.classes
    assert made.info["provenance"] == pack.info["provenance"] and made.info["licences"] == pack.info["licences"]
    with pytest.raises(InputError, match="is there already"):
        copy_pack(pack, tmp_path / "mine")
    with pytest.raises(InputError, match="no name for a pack"):
        copy_pack(pack, tmp_path / "My Pack")
    assert [path.name for path in tmp_path.iterdir() if path.name.lower().strip(".").startswith("m")] == ["mine"]
