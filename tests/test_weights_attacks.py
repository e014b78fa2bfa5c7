"""Weight files made to run code: each is refused in one line, nothing runs and nothing is imported."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from official_pickles import dumps, persistent, pytorch_payload, tf_network, write_pytorch
from refusals import MAGIC, START, Calls, refuses, text

from sis_rearrange.errors import InputError
from sis_rearrange.weights import decode_networks, read_networks
from sis_rearrange.weights.allowed import ALLOWED

STATE = {"mapping.fc0.weight": torch.ones(2, 3), "mapping.fc0.bias": torch.zeros(2)}


def plain(evil: object, mark: Path) -> bytes:
    return pickle.dumps(evil)


def beside_networks(evil: object, mark: Path) -> bytes:
    return dumps({**pytorch_payload({"G_ema": STATE}), "stats": evil})


def in_a_persistent_state(evil: object, mark: Path) -> bytes:
    return dumps(pytorch_payload({"G_ema": STATE}, attributes={"note": [{"deep": (evil,)}]}))


def in_the_arguments(evil: object, mark: Path) -> bytes:
    return dumps({"G": persistent("Generator", STATE, {"z_dim": evil})}, protocol=2)


def as_a_parameter(evil: object, mark: Path) -> bytes:
    network = persistent("Generator", STATE)
    network._parameters["evil"] = evil  # type: ignore[assignment]
    return dumps({"G": network}, protocol=3)


def as_a_tf_variable(evil: object, mark: Path) -> bytes:
    network = tf_network("Gs", {"a": np.zeros(2)}, {})
    network.state["variables"].append(("evil", evil))
    return dumps(network, protocol=3)


def in_legacy_storage_bytes(evil: object, mark: Path) -> bytes:
    inner = MAGIC + pickle.dumps(evil, 2) + pickle.dumps([], 2)
    return pickle.dumps({"w": Calls(torch.storage._load_from_bytes, inner)})


def in_the_system_part_of_storage_bytes(evil: object, mark: Path) -> bytes:
    inner = START + pickle.dumps(evil, 2) + pickle.dumps([], 2)
    return pickle.dumps({"w": Calls(torch.storage._load_from_bytes, inner)})


def in_zip_storage_bytes(evil: object, mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(evil, stream)
    return pickle.dumps({"w": Calls(torch.storage._load_from_bytes, stream.getvalue())})


def in_a_torch_zip(evil: object, mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"g_ema": STATE, "args": evil}, stream)
    return stream.getvalue()


def in_a_legacy_torch_file(evil: object, mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"g_ema": STATE, "args": evil}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("function", ["mkdir", "system", "exec", "eval"])
@pytest.mark.parametrize(
    "hide",
    [
        plain,
        beside_networks,
        in_a_persistent_state,
        in_the_arguments,
        as_a_parameter,
        as_a_tf_variable,
        in_legacy_storage_bytes,
        in_the_system_part_of_storage_bytes,
        in_zip_storage_bytes,
        in_a_torch_zip,
        in_a_legacy_torch_file,
    ],
)
def test_calls_are_refused_wherever_they_hide(tmp_path: Path, hide, function: str) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('os').mkdir({str(mark)!r})"
    calls = {
        "mkdir": Calls(os.mkdir, str(mark)),
        "system": Calls(os.system, f"mkdir {mark}"),
        "exec": Calls(exec, code),
        "eval": Calls(eval, code),
    }
    data = hide(calls[function], mark)
    modules = set(sys.modules)
    message = refuses(data, function)
    assert not mark.exists() and set(sys.modules) == modules
    assert "asks for" in message


def test_the_trap_works(tmp_path: Path) -> None:
    """What is refused above does create the folder when Python's own unpickler reads it."""
    pickle.loads(plain(Calls(os.mkdir, str(tmp_path / "a")), tmp_path))
    pickle.loads(plain(Calls(exec, f"__import__('os').mkdir({str(tmp_path / 'b')!r})"), tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_source_code_of_a_snapshot_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"import os\nos.mkdir({str(mark)!r})\n"
    records = decode_networks(dumps(pytorch_payload({"G_ema": STATE}, source=source)), "net.pkl")
    assert torch.equal(records["G_ema"].state["mapping.fc0.weight"], STATE["mapping.fc0.weight"])
    assert source not in repr(records) and not mark.exists()


def test_no_module_is_imported(tmp_path: Path) -> None:
    """A module that waits to be imported by name is not, whether its name is refused or known."""
    (tmp_path / "waiting_module.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    (tmp_path / "dnnlib.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    sys.path.insert(0, str(tmp_path))
    try:
        refuses(b"\x80\x04" + text("waiting_module") + text("thing") + b"\x93.", "waiting_module.thing")
        refuses(b"\x80\x02cwaiting_module\nthing\n.", "waiting_module.thing")
        decode_networks(dumps(pytorch_payload({"G_ema": STATE})), "net.pkl")
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "mark").exists()
    assert not {"waiting_module", "dnnlib", "torch_utils", "training"} & set(sys.modules)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.modules", "os.system"),
        ("torch.serialization", "os.system"),
        ("torch", "nn.modules.os.system"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "torch.hub.load"),
        ("torch_utils.persistence", "exec"),
        ("dnnlib.util", "call_func_by_name"),
        ("dnnlib.tflib.network", "import_module"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("builtins", "set.__class__"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("torch", "load"),
        ("torch.jit", "load"),
        ("torch.hub", "load_state_dict_from_url"),
        ("copyreg", "_reconstructor"),
        ("importlib", "import_module"),
        ("", ""),
        ("os", "system\u200b"),
    ],
)
def test_names_off_the_list(module: str, name: str) -> None:
    assert (module, name) not in ALLOWED
    shown = f"{module}.{name}".replace("\u200b", "\\u200b")
    encoded = name.encode()
    pushed = b"\x8c" + bytes([len(encoded)]) + encoded
    refuses(b"\x80\x04" + text(module) + pushed + b"\x93)R.", shown, "could run code")
    refuses(b"\x80\x02c" + module.encode() + b"\n" + encoded + b"\n)R.", shown)


def test_names_put_together_on_the_stack(tmp_path: Path) -> None:
    # the name comes out of the memo, so that no text "os system" stands in the file
    memo = b"\x80\x04" + text("os") + b"\x940" + text("system") + b"\x940"
    refuses(memo + b"h\x00h\x01\x93" + text(f"mkdir {tmp_path / 'mark'}") + b"\x85R.", "os.system")
    for wrong in (b"K\x01", b"N", b"]", b")", b"\x8f", b"\x80\x04}"):
        refuses(b"\x80\x04" + wrong + text("system") + b"\x93.", "asks for")
        refuses(b"\x80\x04" + text("os") + wrong + b"\x93.", "asks for")
    assert not list(tmp_path.iterdir())


def test_extension_codes(tmp_path: Path) -> None:
    copyreg.add_extension("os", "mkdir", 240)
    try:
        data = b"\x80\x02\x82\xf0" + b"X" + struct.pack("<I", len(str(tmp_path / "a"))) + str(tmp_path / "a").encode()
        pickle.loads(data + b"\x85R.")
        assert (tmp_path / "a").exists()  # the trap works
        data = data.replace(str(tmp_path / "a").encode(), str(tmp_path / "b").encode())
        refuses(data + b"\x85R.", "opcode EXT1")
    finally:
        copyreg.remove_extension("os", "mkdir", 240)
    refuses(b"\x80\x02\x83\xf0\x00)R.", "EXT2")
    refuses(b"\x80\x02\x84\xf0\x00\x00\x00)R.", "EXT4")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"(S'mkdir x'\nios\nsystem\n.", "STRING"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(o.", "OBJ"),
        (b"))}\x92.", "NEWOBJ_EX"),
        (b"Ppid\n.", "PERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"N\x98.", "READONLY_BUFFER"),
        (b"I01\n.", "INT"),
    ],
)
def test_opcodes_that_weights_do_not_need(data: bytes, opcode: str) -> None:
    refuses(b"\x80\x02" + data, f"opcode {opcode}")


@pytest.mark.parametrize(
    "data",
    [
        b"ctorch\nFloatStorage\n)R.",  # called
        b"cnumpy\nndarray\n)R.",
        b"ctorch\nFloatStorage\n)\x81.",  # instantiated
        b"ccollections\nOrderedDict\nK\x01\x85\x81.",
        b"ccollections\nOrderedDict\n}b.",  # its class gets a state
        b"cargparse\nNamespace\n}b.",
        b"c__builtin__\nset\n]NK\x01\x86b.",
        b"K\x01)R.",
        b"N)R.",
        b"}]R.",
        b"]}b.",
        b"K\x01Q.",
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}\x85R.",
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n)R.",
        b"ctorch.storage\n_load_from_bytes\nN\x85R.",
        b"ctorch.storage\n_load_from_bytes\nC\x02N.\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89Nt\x85R.",
        b"ctorch._utils\n_rebuild_parameter\nN\x85R.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",  # objects in an array
        b"cnumpy\ndtype\n}\x85R.",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
        b"c_codecs\nencode\nC\x01aX\x06\x00\x00\x00latin1\x86R.",
        b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",  # two gigabytes of zeros
        b"}]K\x01s.",  # keys that cannot be hashed, or whose hashes can be forged
        b"}G?\xf0\x00\x00\x00\x00\x00\x00K\x01s.",
        b"})K\x01s.",
        b"0.",
        b"1.",
        b"2.",
        b"h\x07.",
        b"(.",
        b"}(K\x01u.",
        b"\x85.",
        b"c",
        b"cos",
        b"\x80\x09N.",
    ],
)
def test_senseless_pickles(data: bytes) -> None:
    refuses(b"\x80\x02" + data)


def test_the_allow_list_is_short_and_harmless() -> None:
    assert len(ALLOWED) < 50
    for module, name in ALLOWED:
        assert "." not in name and not hasattr(builtins, name) or name in ("set", "bytes")
        assert module.split(".")[0] not in ("os", "sys", "subprocess", "importlib", "posix", "nt", "runpy", "shutil")


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "a JPEG image"),
        (b"<!DOCTYPE html><html>too many downloads</html>", "web page"),
        (b"", "empty"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"(lp0\n.", "text file"),
        (b"PK\x05\x06" + bytes(18), "empty zip archive"),
        (b"\x80", "a Python pickle"),
    ],
)
def test_disguises(tmp_path: Path, content: bytes, phrase: str) -> None:
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_networks(path)
    assert phrase in str(error.value) and "ffhq.pkl" in str(error.value)


def test_what_follows_the_pickle_is_not_read(tmp_path: Path) -> None:
    path = write_pytorch(tmp_path / "a.pkl", {"G": STATE})
    path.write_bytes(path.read_bytes() + pickle.dumps(Calls(os.mkdir, str(tmp_path / "mark"))))
    assert list(read_networks(path)) == ["G"] and not (tmp_path / "mark").exists()


def test_messages_do_not_carry_the_files_control_characters() -> None:
    refuses(b"\x80\x04" + text("o\x1b[31ms\n") + text("sys\rtem") + b"\x93.", "asks for o?[31ms?.sys?tem")
    header = b'{"w":{"dtype":"F\xc2\x9b1","shape":[1],"data_offsets":[0,4]}}'  # the library quotes the name of the type
    refuses(len(header).to_bytes(8, "little") + header + bytes(4), "safetensors")
