"""Reading and writing weights: round trips, and every kind of file that is not weights."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from sis_rearrange.errors import InputError
from sis_rearrange.weights import describe_content, encode_weights, read_weights, sha256, write_weights


def small_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


class TouchesFile:
    """A pickle that would create a file when it is loaded with code allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"


@pytest.mark.parametrize("half", [True, False])
def test_round_trip(tmp_path: Path, half: bool) -> None:
    network = small_network()
    config = {"kind": "tiny", "args": {"widths": [3, 4], "name": "é"}}
    write_weights(tmp_path / "w.safetensors", network.state_dict(), config, half=half)
    read_config, state = read_weights(tmp_path / "w.safetensors")
    assert read_config == config
    other = small_network(seed=1)
    other.load_state_dict(state, strict=True)
    for name, tensor in network.state_dict().items():
        assert state[name].dtype == tensor.dtype and state[name].is_contiguous()
        torch.testing.assert_close(state[name], tensor, rtol=5e-4 if half else 0, atol=1e-6 if half else 0)
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_bytes_do_not_depend_on_order(tmp_path: Path) -> None:
    state = small_network().state_dict()
    turned = OrderedDict(reversed(list(state.items())))
    first = encode_weights(state, {"b": 1, "a": {"y": 2, "x": 3}})
    assert first == encode_weights(turned, {"a": {"x": 3, "y": 2}, "b": 1})
    write_weights(tmp_path / "w.safetensors", state, {"b": 1, "a": {"y": 2, "x": 3}})
    assert (tmp_path / "w.safetensors").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_fp16_is_used_only_where_it_keeps_the_values(tmp_path: Path) -> None:
    state = {
        "plain": torch.linspace(-2, 2, 1000),
        "large": torch.tensor([1e6, 1.0]),
        "variance": torch.full((8,), 1e-9),
        "zero": torch.zeros(3),
    }
    path = tmp_path / "w.safetensors"
    write_weights(path, state, {})
    _, read = read_weights(path)
    assert torch.equal(read["large"], state["large"])
    assert torch.equal(read["variance"], state["variance"])
    assert torch.equal(read["plain"], state["plain"].half().float())
    assert path.stat().st_size < 3000  # 1000 values in float32 alone would be 4000 bytes


def test_tied_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    write_weights(tmp_path / "w.safetensors", {"a": base, "b": base, "t": base.t()}, {})
    _, state = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["b"], base) and torch.equal(state["t"], base.t())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    state = {"w": torch.tensor([1.0, value])}
    with pytest.raises(InputError) as error:
        write_weights(tmp_path / "w.safetensors", state, {})
    one_line(error, "w", "NaN or infinite")
    assert not list(tmp_path.iterdir())
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "w.pt")
    one_line(error, "w.pt", "NaN or infinite")


def test_torch_file_with_several_networks(tmp_path: Path) -> None:
    a, b = small_network(0).state_dict(), small_network(1).state_dict()
    path = tmp_path / "snapshot.safetensors"  # the wrong extension: content decides
    torch.save({"G_ema": a, "D": b, "config": {"z_dim": 4}, "images_seen": 12}, path)
    config, state = read_weights(path, key="D")
    assert config == {"z_dim": 4} and torch.equal(state["0.weight"], b["0.weight"])
    with pytest.raises(InputError) as error:
        read_weights(path)
    one_line(error, "D, G_ema")
    with pytest.raises(InputError) as error:
        read_weights(path, key="G_emma")
    one_line(error, "did you mean 'G_ema'")


def test_flat_torch_file(tmp_path: Path) -> None:
    state = small_network().half().state_dict()
    torch.save(state, tmp_path / "w.pt")
    config, read = read_weights(tmp_path / "w.pt")
    assert config == {} and read["0.weight"].dtype == torch.float32
    assert torch.equal(read["0.weight"], state["0.weight"].float())


def test_pickles_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    payload = {"w": torch.zeros(2), "evil": TouchesFile(mark)}
    torch.save(payload, tmp_path / "zip.pt")
    torch.save(payload, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(payload))
    for name, word in (("zip.pt", "code"), ("legacy.pt", "pickle"), ("plain.pkl", "pickle")):
        with pytest.raises(InputError) as error:
            read_weights(tmp_path / name)
        one_line(error, name, word)
        assert not mark.exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert mark.exists()  # the trap itself works


def test_torchscript_and_foreign_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:  # what torch.jit.save writes, as far as it matters
        for name in ("script/data.pkl", "script/code/__torch__.py", "script/constants.pkl"):
            archive.writestr(name, "x")
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "script.pt")
    one_line(error, "TorchScript")
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "photos.pt")
    one_line(error, "zip archive", "torch.save")


def test_tensor_that_claims_more_than_the_file(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**9, 10**6)}, tmp_path / "bomb.pt")
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "bomb.pt")
    one_line(error, "more memory")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(small_network().state_dict(), path)
    else:
        write_weights(path, small_network().state_dict(), {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError) as error:
        read_weights(path)
    one_line(error, path.name, "bytes")


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"x" * 40, "a PNG image"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs pointer"),
        (b"just some words\n", "a text file"),
        (b"\x00" * 64, "unknown kind"),
    ],
)
def test_message_says_what_the_file_is(tmp_path: Path, content: bytes, phrase: str) -> None:
    path = tmp_path / "generator.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_weights(path)
    one_line(error, "generator.safetensors", phrase, f"({len(content)} bytes)")


def test_jpeg_named_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    Image.new("RGB", (16, 16)).save(path, format="JPEG")
    with pytest.raises(InputError) as error:
        read_weights(path)
    one_line(error, "a JPEG image")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "no.pt")
    one_line(error, "no.pt", "no such file")
    with pytest.raises(InputError) as error:
        read_weights(tmp_path)
    one_line(error, "is not a file")
    with pytest.raises(InputError):
        sha256(tmp_path / "no.pt")


def test_safetensors_header_that_begins_like_a_pickle() -> None:
    # a header of 0x..80 bytes starts with the byte of a pickle protocol
    assert describe_content(b'\x80\x02\x00\x00\x00\x00\x00\x00{"w"') == "a safetensors file"
    assert describe_content(pickle.dumps({"w": 1}, protocol=2)) == "a Python pickle"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
