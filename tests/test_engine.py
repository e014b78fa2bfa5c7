from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from sis_rearrange import engine
from sis_rearrange.errors import InputError

pytest.importorskip("openvino")


class Net(nn.Module):
    """A convolution and an index look-up: two inputs, two outputs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.table = nn.Embedding(5, 4)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x) + self.table(labels).permute(0, 3, 1, 2)
        return y, y.argmax(dim=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


def inputs(n: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 6, 5, generator=generator), torch.randint(0, 5, (n, 6, 5), generator=generator)


def same(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> bool:
    assert [x.dtype for x in found] == [x.dtype for x in wanted]
    return all(torch.allclose(a.double(), b.double(), atol=1e-5) for a, b in zip(found, wanted, strict=True))


# ---------------------------------------------------------------- which backend


def test_backends_on_the_cpu():
    assert engine.resolve("auto", "cpu")[0] == engine.resolve("openvino", torch.device("cpu"))[0] == "openvino"
    assert engine.resolve("torch") == ("torch", "asked for")


def test_other_devices_have_torch():
    name, why = engine.resolve("auto", "meta")
    assert name == "torch" and "meta" in why
    with pytest.raises(InputError, match="CPU only.*'torch'"):
        engine.resolve("openvino", "meta")


def test_without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    name, why = engine.resolve("auto")
    assert name == "torch" and "not installed" in why
    with pytest.raises(InputError, match="pip install openvino"):
        engine.resolve("openvino")
    with pytest.raises(InputError, match="pip install openvino"):
        engine.compile_graph(Net(), inputs(), "key", "net")


def test_unknown_backends_are_named():
    with pytest.raises(InputError, match="'openvno'; did you mean 'openvino'"):
        engine.resolve("openvno")


# ---------------------------------------------------------------- graphs


def test_a_graph_gives_what_the_module_gives(folder):
    net = Net()
    run = engine.compile_graph(net, inputs(), "key", "net")
    assert same(run(*inputs()), net(*inputs())) and net.training  # its mode is its own affair


def test_results_belong_to_the_caller(folder):
    run = engine.compile_graph(Net(), inputs(), "key", "net")
    x, labels = inputs()
    first = run(x, labels)
    kept = [y.clone() for y in first]
    run(-x, labels)
    assert same(first, tuple(kept))


def test_strided_inputs_and_inference_mode(folder):
    net = Net()
    with torch.inference_mode():
        x, labels = inputs()
        strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        assert not strided.is_contiguous()
        run = engine.compile_graph(net, (strided, labels), "key", "net")
        assert same(run(strided, labels), net(x, labels))


def test_a_graph_keeps_its_weights(folder):
    net = Net()
    run = engine.compile_graph(net, inputs(), "key", "net")
    before = run(*inputs())
    with torch.no_grad():
        net.conv.weight.add_(1)
    assert same(run(*inputs()), before) and not same(net(*inputs()), before)


def test_other_shapes_and_types_are_refused(folder):
    run = engine.compile_graph(Net(), inputs(), "key", "net")
    with pytest.raises(ValueError, match=r"net: compiled for float32 \[1, 3, 6, 5\].*called with float32 \[2"):
        run(*inputs(2))
    with pytest.raises(ValueError, match="called with float64"):
        run(inputs()[0].double(), inputs()[1])


def test_what_cannot_be_traced_is_said(folder):
    class Odd(nn.Module):
        def forward(self, x):
            raise KeyError("nothing here")

    with pytest.raises(RuntimeError, match="odd: OpenVINO cannot run this graph.*nothing here"):
        engine.compile_graph(Odd(), inputs()[:1], "key", "odd")


def test_threads_take_turns(folder):
    net = Net()
    run = engine.compile_graph(net, inputs(), "key", "net")
    x, labels = inputs()
    wanted = [net(x * k, labels) for k in range(8)]
    found: dict[int, tuple[torch.Tensor, ...]] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: run(x * k, labels)})) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[k], wanted[k]) for k in range(8))


# ---------------------------------------------------------------- the cache


def test_the_second_time_nothing_is_traced(folder):
    wanted = engine.compile_graph(Net(0), inputs(), "key", "net")(*inputs())
    again = engine.compile_graph(Net(1), inputs(), "key", "net")  # same key: the other weights are never looked at
    assert same(again(*inputs()), wanted) and len(list(folder.iterdir())) == 1


def test_key_and_shape_name_an_entry(folder):
    engine.compile_graph(Net(0), inputs(), "key", "net")
    assert same(engine.compile_graph(Net(1), inputs(), "other", "net")(*inputs()), Net(1)(*inputs()))
    assert same(engine.compile_graph(Net(1), inputs(2), "key", "net")(*inputs(2)), Net(1)(*inputs(2)))
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("file", ["graph.xml", "graph.bin", "sha256"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_entries_are_made_anew(folder, file, damage):
    engine.compile_graph(Net(0), inputs(), "key", "net")
    (entry,) = folder.iterdir()
    data = (entry / file).read_bytes()
    if damage == "gone":
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(data[: len(data) // 2] if damage == "cut" else data[:-8] + b"\xff" * 8)
    assert same(engine.compile_graph(Net(1), inputs(), "key", "net")(*inputs()), Net(1)(*inputs()))
    assert (entry / "graph.bin").stat().st_size > 0 and len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SIS_CACHE", str(tmp_path / "file"))
    assert same(engine.compile_graph(Net(), inputs(), "key", "net")(*inputs()), Net()(*inputs()))


def test_without_a_home(monkeypatch):
    monkeypatch.delenv("SIS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home(path):
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert engine.cache_folder() is None
    assert same(engine.compile_graph(Net(), inputs(), "key", "net")(*inputs()), Net()(*inputs()))


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SIS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert engine.cache_folder() == tmp_path / ".cache" / "sis_rearrange"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert engine.cache_folder() == tmp_path / "x" / "sis_rearrange"
    monkeypatch.setenv("SIS_CACHE", str(tmp_path / "own"))
    assert engine.cache_folder() == tmp_path / "own"


def test_the_cache_is_bounded(folder, monkeypatch):
    for number in range(3):
        engine.compile_graph(Net(), inputs(), f"key {number}", f"net{number}")
        (entry,) = folder.glob(f"net{number}-*")
        os.utime(entry, (number, number))  # used in this order
    size = sum(file.stat().st_size for file in entry.iterdir())
    monkeypatch.setattr(engine, "CACHE_BYTES", int(2.5 * size))
    engine.compile_graph(Net(), inputs(), "key 0", "net0")  # read: now the one used last
    engine.compile_graph(Net(), inputs(), "key 3", "net3")
    assert sorted(entry.name[:4] for entry in folder.iterdir()) == ["net0", "net3"]


def test_two_processes_at_once(folder, tmp_path):
    script = """
        import sys
        sys.path.insert(0, {tests!r})
        from test_engine import Net, engine, inputs, same
        assert same(engine.compile_graph(Net(), inputs(), "key", "net")(*inputs()), Net()(*inputs()))
    """
    text = textwrap.dedent(script).format(tests=str(Path(__file__).parent))
    children = [subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE) for _ in range(2)]
    errors = [child.communicate()[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert len(list(folder.iterdir())) == 1
