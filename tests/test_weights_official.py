"""Every layout of weight file that people bring: read whole, and told apart by content."""

from __future__ import annotations

import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from official_pickles import (
    dumps,
    persistent,
    pytorch_payload,
    tf_network,
    write_pytorch,
    write_rosinality,
    write_tensorflow,
)
from torch import nn

from sis_rearrange.errors import InputError
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.weights import NetworkRecord, decode_networks, read_networks, read_weights, write_weights

KWARGS = {
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 8,
    "img_resolution": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 128, "channel_max": 8, "conv_clamp": 256.0},
}
CHANNELS = [6, 6, 4]


def states(c_dim: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Tiny G, D and G_ema under official names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(c_dim)
        made = {
            "G": Generator(8, c_dim, 8, 16, channel_base=128, channel_max=8, num_layers=2),
            "D": Discriminator(c_dim, 16, channel_base=128, channel_max=8),
            "G_ema": Generator(8, c_dim, 8, 16, channel_base=128, channel_max=8, num_layers=2),
        }
    return {name: network.state_dict() for name, network in made.items()}


def assert_holds(record: NetworkRecord, state: dict[str, torch.Tensor]) -> None:
    assert sorted(record.state) == sorted(state)
    for name, tensor in record.state.items():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
        assert tensor.data_ptr() % 4 == 0 and torch.equal(tensor, state[name])


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert text.isprintable()
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("storage", ["legacy", "zip"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_official_pytorch(tmp_path: Path, protocol: int, storage: str, c_dim: int) -> None:
    networks = states(c_dim)
    kwargs = {name: {**KWARGS, "c_dim": c_dim} for name in networks}
    path = write_pytorch(tmp_path / "snapshot.jpg", networks, kwargs, protocol=protocol, storage=storage)
    modules = set(sys.modules)
    records = read_networks(path)
    assert set(sys.modules) == modules
    assert list(records) == ["G", "D", "G_ema"]
    for name, record in records.items():
        assert (record.layout, record.name) == ("pytorch", name)
        assert record.class_name == ("Discriminator" if name == "D" else "Generator")
        assert_holds(record, networks[name])
        assert list(record.state) == list(networks[name])  # in the order of a state dict
        assert record.config == kwargs[name]
        assert record.extras["training_set_kwargs"]["path"] == "faces.zip"
        assert float(record.extras["augment_pipe"]["p"]) == 0.25
    network = Generator(8, c_dim, 8, 16, channel_base=128, channel_max=8, num_layers=2)
    network.load_state_dict(records["G_ema"].state, strict=True)


@pytest.mark.parametrize("version", range(1, 7))
def test_every_version_of_the_persistence_format(tmp_path: Path, version: int) -> None:
    networks = states()
    records = read_networks(write_pytorch(tmp_path / "a.pkl", networks, version=version))
    assert_holds(records["D"], networks["D"])


def test_unknown_version_of_the_persistence_format(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_networks(write_pytorch(tmp_path / "a.pkl", {"G": states()["G"]}, version=7))
    one_line(error, "a.pkl", "version 7")


def test_arguments_by_position_and_noted_attributes() -> None:
    state = states()["G"]
    by_position = persistent("Generator", state, {"img_channels": 1}, args=(8, 0, 8, 16))
    noted = persistent("Generator", state, attributes={"z_dim": 8, "img_resolution": 16, "w_dim": np.float64(8)})
    records = decode_networks(dumps({"a": by_position, "b": noted}), "x")
    assert records["a"].config == {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 1}
    assert records["b"].config == {"z_dim": 8, "img_resolution": 16, "w_dim": 8.0}


def test_a_single_persistent_network() -> None:
    state = states()["G"]
    records = decode_networks(dumps(persistent("Generator", state, KWARGS)), "x")
    assert list(records) == [""] and records[""].config == KWARGS
    assert_holds(records[""], state)


def test_half_double_and_tied_tensors() -> None:
    base = torch.linspace(-1, 1, 24)
    state = {"a": base.half(), "b": base.double(), "c": base.bfloat16(), "d": base.reshape(4, 6).t(), "e": base[3:7]}
    network = persistent("Generator", state)
    network.tied = network.a
    record = decode_networks(dumps({"G": network}), "x")["G"]
    assert record.state["a"].dtype == torch.float32 and torch.equal(record.state["a"], base.half().float())
    assert torch.equal(record.state["tied"], record.state["a"])
    assert torch.equal(record.state["b"], base.double().float())
    assert torch.equal(record.state["c"], base.bfloat16().float())
    assert torch.equal(record.state["d"], base.reshape(4, 6).t()) and record.state["d"].is_contiguous()
    assert torch.equal(record.state["e"], base[3:7])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("labels", [0, 3])
def test_official_tensorflow(tmp_path: Path, protocol: int, labels: int) -> None:
    networks = {
        "G": layouts.tensorflow_generator(0, CHANNELS, labels),
        "D": layouts.tensorflow_discriminator(1, CHANNELS, labels),
        "Gs": layouts.tensorflow_generator(2, CHANNELS, labels),
    }
    settings = {"num_channels": 3, "resolution": 16, "label_size": labels, "fmap_base": 64}
    for old_numpy in (False, True):
        path = write_tensorflow(tmp_path / "church.pkl", networks, settings, protocol, old_numpy)
        records = read_networks(path)
        assert list(records) == ["G", "D", "Gs"]
        for name, record in records.items():
            assert (record.layout, record.name, record.config) == ("tensorflow", name, settings)
            assert_holds(record, networks[name])
        assert records["Gs"].class_name == "G_main" and records["D"].class_name == "D_stylegan2"
        assert records["Gs"].extras["components"]["mapping"]["class_name"] == "G_mapping"
        assert records["Gs"].extras["components"]["synthesis"]["config"] == settings


def test_arrays_of_any_order_and_width(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    variables = {
        "fortran": np.asfortranarray(values, dtype=np.float32),
        "swapped": values.astype(">f4"),
        "double": values,
        "half": values.astype(np.float16),
        "scalar": np.float32(3.5),
        "step": np.int64(7),
        "empty": np.zeros((0, 3), np.float32),
        "count": np.arange(3, dtype=np.int64),
    }
    for protocol in (2, 3, 4, 5):
        record = read_networks(write_tensorflow(tmp_path / "a.pkl", {"Gs": variables}, {}, protocol))["Gs"]
        for name, array in variables.items():
            np.testing.assert_array_equal(record.state[name].numpy(), array, err_msg=f"{name}, protocol {protocol}")
        assert record.state["count"].dtype == torch.int64 and record.state["step"].dtype == torch.int64
        assert record.state["scalar"].dtype == torch.float32 and record.state["scalar"].shape == ()


def test_texts_as_python_2_wrote_them() -> None:
    # protocol 2 of Python 2: texts and data are byte strings, an array's bytes too
    data = np.arange(300, dtype="<f4").tobytes()

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value

    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"f4")
        + b"K\0K\1\x87R(K\3"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    for payload in (data, data[:400]):
        state = b"(K\1M" + struct.pack("<H", len(payload) // 4) + b"\x85" + dtype + b"\x89" + text(payload) + b"tb"
        record = decode_networks(b"\x80\x02}" + text(b"w") + array + state + b"s.", "x")[""]
        assert torch.equal(record.state["w"], torch.arange(len(payload) / 4))


@pytest.mark.parametrize("legacy", [False, True])
def test_rosinality(tmp_path: Path, legacy: bool) -> None:
    networks = {
        "g": layouts.rosinality_generator(0, CHANNELS),
        "d": layouts.rosinality_discriminator(1, CHANNELS),
        "g_ema": layouts.rosinality_generator(2, CHANNELS),
    }
    mean = torch.linspace(0, 1, 12)
    records = read_networks(write_rosinality(tmp_path / "550000.pt", networks, mean, legacy))
    assert list(records) == ["g", "d", "g_ema"]
    for name, record in records.items():
        assert (record.layout, record.name, record.config) == ("rosinality", name, {})
        assert_holds(record, networks[name])
        assert torch.equal(record.extras["latent_avg"], mean)
        assert record.extras["args"] == {"size": 64, "r1": 10.0} and "g_optim" not in record.extras


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_state_dicts(tmp_path: Path, legacy: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = network.state_dict()  # an ordered dictionary with a state of its own: versions of the modules
    assert isinstance(state, OrderedDict)
    torch.save(state, tmp_path / "flat.pt", _use_new_zipfile_serialization=not legacy)
    record = read_networks(tmp_path / "flat.pt")[""]
    assert record.layout == "plain" and record.name == "" and list(record.state) == list(state)
    assert record.state["1.num_batches_tracked"].dtype == torch.int64
    both = {"encoder": state, "decoder": state, "config": {"depth": 2}, "steps": 7}
    torch.save(both, tmp_path / "both.pt", _use_new_zipfile_serialization=not legacy)
    records = read_networks(tmp_path / "both.pt")
    assert list(records) == ["encoder", "decoder"] and records["decoder"].config == {"depth": 2}
    assert records["encoder"].extras == {"steps": 7}
    assert torch.equal(records["encoder"].state["0.weight"], state["0.weight"])
    assert torch.equal(read_weights(tmp_path / "both.pt", "decoder")[1]["0.weight"], state["0.weight"])


def test_plain_pickle_of_tensors() -> None:
    state = {"w": torch.arange(6.0).reshape(2, 3), "mask": torch.tensor([True, False])}
    read = decode_networks(pickle.dumps(state), "x")[""].state
    assert torch.equal(read["w"], state["w"]) and torch.equal(read["mask"], state["mask"])


def test_own_format(tmp_path: Path) -> None:
    config = {"kind": "generator", "args": {"z_dim": 8}}
    write_weights(tmp_path / "g.pkl", states()["G"], config, half=False)
    records = read_networks(tmp_path / "g.pkl")
    assert list(records) == [""] and records[""].layout == "safetensors" and records[""].config == config
    assert records[""].class_name == "generator"
    assert_holds(records[""], states()["G"])


def test_read_weights_picks_from_official_files(tmp_path: Path) -> None:
    path = write_pytorch(tmp_path / "a.pkl", states(), {"G_ema": KWARGS})
    config, state = read_weights(path, key="G_ema")
    assert config == KWARGS and torch.equal(state["synthesis.b4.const"], states()["G_ema"]["synthesis.b4.const"])
    with pytest.raises(InputError) as error:
        read_weights(path)
    one_line(error, "several", "G_ema")


def stylegan3() -> bytes:
    names = ["synthesis.input.freqs", "synthesis.L0_36_512.weight", "mapping.fc0.weight"]
    return dumps(pytorch_payload({"G_ema": {name: torch.zeros(2) for name in names}}))


def stylegan3_without_input() -> bytes:
    return pickle.dumps({"synthesis.L12_276_128.weight": torch.zeros(2)})


def stylegan1() -> bytes:
    variables = {"G_synthesis/4x4/Const/StyleMod/weight": np.zeros(3, np.float32), "dlatent_avg": np.zeros(2)}
    return dumps(tuple(tf_network(name, variables, {}, "G_style") for name in ("G", "D", "Gs")), protocol=3)


def stylegan1_discriminator() -> bytes:
    return dumps(tf_network("D", {"4x4/Dense0/weight": np.zeros((2, 2))}, {}, "D_basic", version=3), protocol=3)


def stylegan1_port() -> bytes:
    return pickle.dumps({"generator": {"progression.0.conv1.0.conv.weight_orig": torch.zeros(2)}})


@pytest.mark.parametrize(
    ("make", "which"),
    [
        (stylegan3, "StyleGAN3"),
        (stylegan3_without_input, "StyleGAN3"),
        (stylegan1, "StyleGAN1"),
        (stylegan1_discriminator, "StyleGAN1"),
        (stylegan1_port, "StyleGAN1"),
    ],
)
def test_other_generations_are_named(make, which: str) -> None:
    with pytest.raises(InputError) as error:
        decode_networks(make(), "net.pkl")
    one_line(error, "net.pkl", f"is a {which} network", "StyleGAN2")


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    for legacy in (False, True):
        torch.save(nn.Linear(2, 2), tmp_path / "whole.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError) as error:
            read_networks(tmp_path / "whole.pt")
        one_line(error, "torch.nn.modules.linear.Linear", "state_dict")


@pytest.mark.parametrize("payload", [[1, 2], {"a": 1}, 7, None, (), {}, "text"])
def test_a_pickle_without_networks(payload: object) -> None:
    with pytest.raises(InputError) as error:
        decode_networks(pickle.dumps(payload), "x.pkl")
    one_line(error, "x.pkl", "state_dict")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    networks = {"G": states()["G"]}
    networks["G"]["synthesis.b4.const"][0, 0, 0] = float("nan")
    with pytest.raises(InputError) as error:
        read_networks(write_pytorch(tmp_path / "a.pkl", networks))
    one_line(error, "synthesis.b4.const", "NaN")


@pytest.mark.parametrize("keep", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pytorch", "zip storages", "tensorflow", "rosinality", "legacy"])
def test_truncated(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "cut.pkl"
    if kind in ("pytorch", "zip storages"):
        write_pytorch(path, states(), storage="zip" if kind == "zip storages" else "legacy")
    elif kind == "tensorflow":
        write_tensorflow(path, {"Gs": layouts.tensorflow_generator(0, CHANNELS)})
    else:
        write_rosinality(path, {"g_ema": layouts.rosinality_generator(0, CHANNELS)}, legacy=kind == "legacy")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError) as error:
        read_networks(path)
    one_line(error, "cut.pkl", "damaged or truncated", "bytes")
