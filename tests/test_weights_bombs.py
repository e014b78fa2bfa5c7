"""Weight files made to fill the memory, never to end, or to read beyond their bytes: each is refused, and soon."""

from __future__ import annotations

import copy
import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from official_pickles import dumps, persistent, without_checksums
from refusals import MAGIC, refuses, text

from sis_rearrange.weights import decode_networks

STATE = {"mapping.fc0.weight": torch.ones(2, 3), "mapping.fc0.bias": torch.zeros(2)}


def doubled(times: int, first: bytes, pair: bytes) -> bytes:
    """A value that holds the one before twice, ``times`` times over."""
    return first + b"q\x00" + b"".join(b"0h\x00" + pair + b"q\x00" for _ in range(times))


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_a_value_doubled_over_and_over(kind: str) -> None:
    wrap = {"tuple": b"h\x00\x86", "list": b"h\0\x86q\x010]h\x01a", "dict": b"h\0\x86q\x010}X\1\0\0\0kh\x01s"}
    bomb = doubled(3000, b"K\x07", wrap[kind])
    refuses(b"\x80\x04" + bomb + b".", "save a state_dict")
    refuses(b"\x80\x04}" + text("config") + bomb + b"s.", "config")
    refuses(b"\x80\x04" + bomb + text("x") + b"\x93.", "asks for")
    refuses(b"\x80\x04" + text("x") + bomb + b"\x93.", "asks for")
    refuses(b"\x80\x04cnumpy\ndtype\n" + bomb + b"\x85R.")
    refuses(b"\x80\x04}" + bomb + b"Ns.", "key" if kind != "tuple" else "")


def test_values_in_themselves() -> None:
    refuses(b"\x80\x04]q\x00h\x00a.")
    refuses(b"\x80\x04}q\x00" + text("config") + b"h\x00s.", "config")
    refuses(b"\x80\x04}" + text("config") + b"}q\x00(" + b"".join(text(f"k{i}") + b"h\x00" for i in range(9)) + b"us.")


def test_modules_in_themselves() -> None:
    inner = persistent("Generator", STATE)
    inner._modules["again"] = inner
    data = dumps({"G": inner})  # a reference cycle: Python cannot pickle it as it is, so the memo closes it
    refuses(data)
    shared = persistent("Generator", {"w": torch.ones(1)})
    for _ in range(10):  # 4 ** 10 paths lead to the tensor
        outer = persistent("Generator", {})
        outer._modules.update({str(i): shared for i in range(4)})
        shared = outer
    refuses(dumps({"G": shared}))


def test_a_state_used_in_very_many_networks() -> None:
    meta = b"}(" + text("type") + text("class") + text("version") + b"K\x06" + text("class_name") + text("G")
    entries = b"".join(text(f"n{i}") + b"N" for i in range(2000))
    state = text("_parameters") + b"}(" + entries + b"u" + text("_buffers") + b"}" + text("_modules") + b"}"
    network = meta + text("state") + b"}(" + state + b"uu\x85q\x00"
    call = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\nq\x01"
    many = b"".join(b"X" + struct.pack("<I", 5) + b"%05d" % i + b"h\x01h\x00R" for i in range(20_000))
    refuses(b"\x80\x04" + network + b"0" + call + b"0}(" + many + b"u.", "steps of unpacking", megabytes=None)


def test_deep_nesting() -> None:
    deep = b"]" * 50_000 + b"a" * 49_999
    refuses(b"\x80\x04" + deep + b".", "list", megabytes=None)
    refuses(b"\x80\x04}" + text("config") + deep + b"s.", "config", megabytes=None)
    refuses(b"\x80\x04N" + b"\x85" * 100_000 + b".", "tuple", megabytes=None)
    refuses(b"\x80\x04" + b"(" * 100_000, megabytes=None)


def test_very_many_operations() -> None:
    # the costliest opcode: one byte makes an empty set of 216
    refuses(b"\x80\x04" + b"\x8f" * 1_000_000 + b".", "steps of unpacking", seconds=20, megabytes=150)
    refuses(b"\x80\x04}" + b"\x94" * 1_000_000, "steps of unpacking", megabytes=None)
    refuses(b"\x80\x04" + text("a" * 200) + b"q\x00" + b"h\x00" * 600_000, "steps of unpacking", megabytes=None)


@pytest.mark.parametrize(
    "declares",
    [
        b"\x8e" + struct.pack("<Q", 1 << 62),
        b"\x8d" + struct.pack("<Q", 1 << 62),
        b"\x96" + struct.pack("<Q", (1 << 64) - 1),
        b"\x95" + struct.pack("<Q", 1 << 40),
        b"B" + struct.pack("<I", 1 << 31),
        b"X" + struct.pack("<I", (1 << 32) - 1),
        b"T" + struct.pack("<I", 1 << 31),
        b"\x8b" + struct.pack("<I", 1 << 31),
    ],
)
def test_declared_lengths_beyond_the_file(declares: bytes) -> None:
    message = refuses(b"\x80\x04" + declares + b"abc.", "damaged or truncated", megabytes=1)
    assert "declares" in message


def test_integers_and_texts_that_would_swell() -> None:
    refuses(b"\x80\x04\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".", "integer", megabytes=4)
    wide = b"a" * (8 << 20) + "\U0001f355".encode()
    refuses(b"\x80\x04X" + struct.pack("<I", len(wide)) + wide + b".", "Latin-1", megabytes=12)


def test_a_text_turned_into_bytes_over_and_over() -> None:
    long = b"a" * 1_000_000
    start = b"\x80\x04X" + struct.pack("<I", len(long)) + long + text("latin1") + b"\x86q\x00c_codecs\nencode\nq\x01"
    refuses(start + b"]q\x02(" + b"h\x01h\x00R" * 1000 + b"e.", "more memory", megabytes=8)


def test_a_list_turned_into_sets_over_and_over() -> None:
    start = b"\x80\x04](" + b"".join(b"M" + struct.pack("<H", i) for i in range(10_000)) + b"e\x85q\x00"
    refuses(start + b"cbuiltins\nset\nq\x01](" + b"h\x01h\x00R" * 1000 + b"e.", "steps of unpacking", megabytes=60)


def storage_bytes(numel: int, data: bytes, declared: int | None = None) -> bytes:
    """A legacy torch file of one storage, whose length in the pickle and before the data may differ."""
    pid = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    pid += b"\x8a\x08" + struct.pack("<q", numel) + b"NtQ."
    return MAGIC + pid + pickle.dumps(["0"], 2) + struct.pack("<q", numel if declared is None else declared) + data


def tensor(storage: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle of ``{"w": tensor}``."""
    load = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(storage)) + storage + b"\x85R"
    rest = b"".join(pickle.dumps(part, 3)[2:-1] for part in (offset, size, stride))
    return b"\x80\x03}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + load + rest + b"\x89NtRs."


def test_tensors_by_hand() -> None:
    good = tensor(storage_bytes(4, np.arange(4, dtype=np.float32).tobytes()), 1, (3,), (1,))
    assert decode_networks(good, "net.pkl")[""].state["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("offset", "size", "stride", "word"),
    [
        (0, (5,), (1,), "beyond its storage"),
        (2, (3,), (1,), "beyond its storage"),
        (4, (1,), (1,), "beyond its storage"),
        (0, (2, 2), (1, 3), "beyond its storage"),
        (0, (2,), (1 << 39,), "beyond its storage"),
        (-1, (2,), (1,), "shape"),
        (0, (2,), (-1,), "shape"),
        (0, (-2,), (1,), "shape"),
        (0, (2,), (1, 1), "shape"),
        (0, (1 << 62,), (0,), "shape"),
        (0, (1,) * 9, (1,) * 9, "shape"),
        (0, (1 << 30, 1 << 30), (0, 0), "more memory"),
        (0, (1 << 20,), (0,), "more memory"),
        (0, (1 << 40, 1 << 40, 0), (0, 0, 0), "shape"),
    ],
)
def test_tensors_beyond_their_storage(offset: int, size: tuple[int, ...], stride: tuple[int, ...], word: str) -> None:
    refuses(tensor(storage_bytes(4, bytes(16)), offset, size, stride), word, megabytes=2)


def test_storages_that_are_not_what_they_declare() -> None:
    for numel, declared in ((4, 5), (4, 3), (1 << 39, 4), (-1, -1), (4, -4)):
        refuses(tensor(storage_bytes(numel, bytes(16), declared), 0, (4,), (1,)), megabytes=2)
    refuses(tensor(storage_bytes(1 << 39, bytes(16)), 0, (4,), (1,)), "declares", megabytes=2)
    refuses(tensor(pickle.dumps(1), 0, (4,), (1,)), "no torch file")


def test_torch_files_in_torch_files() -> None:
    inner = storage_bytes(1, bytes(4))
    for _ in range(50):  # a storage whose bytes hold a storage whose bytes...
        call = b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R."
        inner = MAGIC + call + pickle.dumps([], 2)
    refuses(tensor(inner, 0, (1,), (1,)), "asks for torch.storage._load_from_bytes")


# ---------------------------------------------------------------- zip files


def torch_zip(**changes: bytes) -> bytes:
    """A torch zip file of one tensor, with members replaced."""
    stream = io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, changes.get(name.rsplit("/", 1)[-1].replace(".", "_"), data))
    return stream.getvalue()


def test_zip_rewritten_is_still_read() -> None:
    assert decode_networks(torch_zip(), "net.pkl")[""].state["w"].tolist() == [0, 1, 2, 3]


def flipped(data: bytes, within: bytes, value: int = 1) -> bytes:
    """One bit changed in the middle of what is found in the data."""
    changed = bytearray(data)
    changed[data.index(within) + len(within) // 2] ^= value
    return bytes(changed)


NUMBERS = np.arange(100, 164, dtype=np.float32).tobytes()


@pytest.mark.parametrize("kind", ["plain", "official, zip storages"])
def test_a_changed_byte_is_noticed(kind: str) -> None:
    state = {"b4.weight": torch.arange(100.0, 164.0)}
    stream = io.BytesIO()
    torch.save(state, stream)
    data = stream.getvalue() if kind == "plain" else dumps({"G": persistent("Generator", state)}, 4, "zip")
    assert len(decode_networks(data, "net.pt")) == 1
    refuses(flipped(data, NUMBERS), "damaged or truncated torch file", "the checksum of its part data/0 is another")
    refuses(flipped(data, b"FloatStorage"), "the checksum of its part data.pkl is another")


def test_files_whose_writer_left_checksums_out_are_read() -> None:
    data = without_checksums(torch_zip())
    assert decode_networks(data, "net.pt")[""].state["w"].tolist() == [0, 1, 2, 3]
    changed = decode_networks(flipped(data, struct.pack("<4f", 0, 1, 2, 3)), "net.pt")
    assert changed[""].state["w"].tolist() != [0, 1, 2, 3]


def test_very_many_names_of_the_same_bytes_are_not_checked_again_and_again() -> None:
    stream = io.BytesIO()
    torch.save({str(n): torch.zeros(1 << 18) for n in range(100)}, stream)
    with zipfile.ZipFile(stream) as archive:
        program = archive.read("archive/data.pkl")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(1 << 20))
        for n in range(1, 100):
            other = copy.copy(archive.filelist[1])
            other.filename = f"archive/data/{n}"
            archive.filelist.append(other)
    refuses(stream.getvalue(), "claim more", megabytes=8)


def test_compressed_members_are_never_inflated() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 << 20))
    refuses(stream.getvalue(), "not one that torch.save wrote", megabytes=4)
    assert len(zlib.compress(bytes(1 << 20))) < 2000  # what a bomb makes of its bytes


def test_zip_directories_that_lie() -> None:
    data = torch_zip()
    entry = data.index(b"PK\x01\x02")
    for offset, value in ((20, 1 << 30), (24, 1 << 30), (42, 1 << 30), (28, 0xFFFF), (42, 3)):
        forged = bytearray(data)
        forged[entry + offset : entry + offset + 2 + 2 * (offset != 28)] = struct.pack("<I", value)[
            : 2 + 2 * (offset != 28)
        ]
        refuses(bytes(forged), megabytes=2)
    end = data.index(b"PK\x05\x06")
    for offset, size, value in ((10, 2, 0xFFF0), (10, 2, 0xFFFF), (12, 4, 1 << 31), (16, 4, 1 << 31), (12, 4, 7)):
        forged = bytearray(data)
        forged[end + offset : end + offset + size] = value.to_bytes(size, "little")
        refuses(bytes(forged), "zip", megabytes=2)
    encrypted = bytearray(data)
    encrypted[entry + 8] |= 1
    refuses(bytes(encrypted), "zip archive", megabytes=2)


def test_zip_members_too_short_or_foreign() -> None:
    refuses(torch_zip(**{"0": bytes(8)}), "too short")
    refuses(torch_zip(byteorder=b"big"), "big-endian")
    refuses(torch_zip(data_pkl=b"\x80\x02cos\nsystem\n."), "os.system")
    refuses(torch_zip(data_pkl=b""), "damaged")
    stream = io.BytesIO(torch_zip())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    refuses(stream.getvalue(), "twice")
