"""Valid weight files, changed at random: reading one ends cleanly or in one ``InputError``, soon and in little memory.

More rounds than in a test run: ``python tests/test_weights_fuzz.py 100000 SEED``.
"""

from __future__ import annotations

import io
import os
import pickletools
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_pickles import (
    augment_pipe,
    dumps,
    persistent,
    rosinality_bytes,
    tf_network,
    without_checksums,
)

from sis_rearrange.errors import InputError
from sis_rearrange.weights import decode_networks, encode_weights

ROUNDS = 400  # per kind of file
SECONDS, MEGABYTES = 2.0, 4  # of processor and memory that reading one of these files of a few kB may take
STATE = {"mapping.w_avg": torch.ones(3), "b4.weight": torch.arange(6.0).reshape(2, 3), "b4.bias": torch.zeros(2)}
# Pieces that forged files are made of
PIECES = [
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"\x85R",
    b"\x81",
    b"b",
    b"}",
    b"]",
    b"(",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"ccollections\nOrderedDict\n)R",
    b"ctorch\nFloatStorage\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
    b"PK\x05\x06",
    b"PK\x01\x02",
    b".",
]


def samples() -> dict[str, bytes]:
    """A small valid file of every kind."""
    network = persistent("Generator", STATE, {"z_dim": 3, "img_resolution": 4})
    snapshot = {"G_ema": network, "augment_pipe": augment_pipe(), "training_set_kwargs": {"path": "faces.zip"}}
    variables = {"G_mapping/Dense0/weight": np.ones((2, 3), np.float32), "dlatent_avg": np.zeros(3, np.float32)}
    rosinality = {"style.1.weight": torch.ones(3, 3), "convs.0.conv.weight": torch.ones(1, 2, 2, 3, 3)}
    found = {
        "pytorch": dumps(snapshot, 4),
        "pytorch, zip storages": dumps({"G": network}, 3, "zip"),
        "pytorch, protocol 2": dumps({"G": network}, 2),
        "tensorflow": dumps(tf_network("Gs", variables, {"resolution": 4}), 3),
        "tensorflow, protocol 2": dumps((tf_network("Gs", variables, {"resolution": 4}),), 2),
        "tensorflow, protocol 5": dumps(tf_network("Gs", variables, {"resolution": 4}), 5),
        "safetensors": encode_weights(STATE, {"kind": "generator", "args": {"z_dim": 3}}),
    }
    for name, legacy in (("rosinality", False), ("rosinality, legacy", True)):
        found[name] = rosinality_bytes({"g_ema": rosinality}, torch.ones(3), legacy)
    # with checksums most changes end there
    found["rosinality, no checksums"] = without_checksums(found["rosinality"])
    return found


def bit_flip(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def any_byte(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    for _ in range(chance.choice([1, 1, 4])):
        data[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])


def truncation(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def splice(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    other = chance.choice([*others, bytes(data)])
    begin = chance.randrange(len(other))
    end, at = begin + chance.choice([1, 8, 64, 512, len(other)]), chance.randrange(len(data))
    data[at : at + chance.choice([0, end - begin])] = other[begin:end]


def piece(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice(PIECES) * chance.choice([1, 1, 1, 50])


def deletion(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice([1, 2, 8, 64])]


def opcodes(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Swap, repeat, drop, replace or renumber whole opcodes, of the file itself or of a pickle inside it."""
    starts = [i for i in range(len(data) - 1) if data[i] == 0x80 and data[i + 1] in (2, 3, 4, 5)]
    at = chance.choice(starts or [0])
    places: list[int] = []
    try:
        for _, _, position in pickletools.genops(io.BytesIO(bytes(data[at:]))):
            places.append(at + (position or 0))
    except (ValueError, IndexError, UnicodeDecodeError):
        pass
    if len(places) < 4:
        return
    for _ in range(chance.choice([1, 2, 5])):
        i, j = sorted(chance.sample(range(len(places) - 1), 2))
        if places[j] + 1 >= len(data):  # an edit before has made it shorter
            continue
        one, two = data[places[i] : places[i + 1]], data[places[j] : places[j + 1]]
        what = chance.randrange(6)
        if what == 0:  # sizes of what lies behind stay as they were: later edits then hit other places, which is fine
            data[places[i] : places[i + 1]] = two
        elif what == 1:
            data[places[j] : places[j]] = one
        elif what == 2:
            del data[places[i] : places[i + 1]]
        elif what == 3:
            data[places[i]] = chance.choice(b"()]}.012abehjqrstuRQ\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94")
        elif what == 4 and len(one) > 1:
            data[places[i] + 1] = chance.choice([0, 1, 2, 0xFF])
        else:
            data[places[i] : places[i]] = bytes(data[places[i] : places[j]]) * chance.choice([1, 1, 20])


CHANGES: list[Callable[[bytearray, random.Random, list[bytes]], None]] = [
    bit_flip,
    any_byte,
    truncation,
    splice,
    piece,
    deletion,
    opcodes,
    opcodes,
]


def changed(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """``data`` after a few changes."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if made:
            chance.choice(CHANGES)(made, chance, others)
    return bytes(made)


def survives(data: bytes) -> bool:
    """Whether ``data`` is read; asserts that otherwise one clean line says why, and that it costs next to nothing."""
    modules = len(sys.modules)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    begin = time.process_time()
    try:
        records = decode_networks(data, "net.pkl")
    except InputError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 600, message
        assert "net.pkl" in message
        return False
    finally:
        taken, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1] - before
        assert taken < SECONDS, f"{taken:.1f} s"
        assert len(sys.modules) == modules, list(sys.modules)[modules:]
        assert peak < MEGABYTES * 2**20 + 8 * len(data), f"{peak:,} bytes"
    for record in records.values():
        assert sum(t.numel() * t.element_size() for t in record.state.values()) <= 8 * len(data)
        assert all(type(name) is str and t.is_contiguous() for name, t in record.state.items())
    return True


def fuzz(name: str, rounds: int, seed: int) -> int:
    """The number of changed files that were read nevertheless. A failing file is left in the temporary folder."""
    files = samples()
    data, others = files[name], list(files.values())
    chance = random.Random(f"{name} {seed}")
    read = 0
    tracemalloc.start()
    try:
        assert survives(data)
        for number in range(rounds):
            forged = changed(data, chance, others)
            try:
                read += survives(forged)
            except BaseException:
                left = Path(os.environ.get("TMPDIR", "/tmp")) / "fuzz-failure.bin"
                left.write_bytes(forged)
                print(f"round {number} of {name!r}, seed {seed}: see {left}")
                raise
    finally:
        tracemalloc.stop()
    return read


@pytest.mark.parametrize("name", list(samples()))
@pytest.mark.filterwarnings("error")
def test_changed_files_end_cleanly(name: str) -> None:
    read = fuzz(name, ROUNDS, seed=0)
    assert 0 < read < ROUNDS  # some changes hit numbers of a tensor or what nobody reads


if __name__ == "__main__":
    for kind in samples():
        begun = time.process_time()
        count = fuzz(kind, int(sys.argv[1]) // len(samples()), int(sys.argv[2]))
        print(f"{kind}: {count} read, {time.process_time() - begun:.0f} s", flush=True)
