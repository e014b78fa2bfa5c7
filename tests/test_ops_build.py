"""Finding, building and loading the native libraries: in fresh processes with a cache of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sis_rearrange.ops import build

ROOT = Path(__file__).resolve().parent.parent
REPORT = "from sis_rearrange import ops; print('\\n'.join(ops.backend()))"


def has_compiler() -> bool:
    try:
        build.find_compiler("cpu")
    except build.BuildError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


def start(code: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith("SIS_")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**keep, "SIS_CACHE": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, cache: Path, **environment: str) -> tuple[str, str]:
    process = start(code, cache, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def test_import_builds_nothing(tmp_path):
    run("import sis_rearrange.ops, sis_rearrange.stylegan2", tmp_path / "cache", PATH="")
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_two_processes_build_one_library_between_them(tmp_path):
    processes = [start(REPORT, tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [answer[0] for answer in answers] == ["native", "native"]
    assert answers[0] == answers[1]
    left = sorted(path.name for path in (tmp_path / "ops").iterdir())
    assert len(left) == 2 and left[0].endswith(".so") and left[1] == "cpu.lock", left
    library = tmp_path / "ops" / left[0]
    before = library.stat().st_mtime_ns
    run(REPORT, tmp_path)
    assert library.stat().st_mtime_ns == before


def test_without_a_compiler_one_line_says_so_and_everything_works(tmp_path):
    code = """
import torch
from sis_rearrange import ops
x = torch.randn(2, 8, 32, 32)
for _ in range(2):
    y = ops.upfirdn2d(ops.bias_act(x, act="swish"), ops.fir_kernel(), padding=2)
assert torch.equal(y, ops.upfirdn2d(ops.bias_act(x, act="swish", impl="ref"), ops.fir_kernel(), padding=2, impl="ref"))
try:
    ops.bias_act(x, impl="native")
except RuntimeError as error:
    print(error)
print(ops.backend()[0])
"""
    out, err = run(code, tmp_path, PATH="", CXX="")
    assert out.splitlines()[-1] == "ref" and "no C++ compiler found" in out
    assert err.count("native ops are off") == 1 and len(err.strip().splitlines()) == 1, err


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    fake = tmp_path / "c++"
    fake.write_text(
        "#!/bin/sh\ncase $1 in --version) echo fake 1;; *) echo 'x.cpp:1: error: no such thing' >&2; exit 1;; esac\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(build.BuildError, match="error: no such thing"):
        build.build("cpu", tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["cpu.lock"]


@pytest.mark.parametrize("value", ["0", "off"])
def test_the_environment_switches_native_ops_off(tmp_path, value):
    out, err = run(REPORT, tmp_path, SIS_NATIVE=value)
    assert out.splitlines() == ["ref", "switched off by SIS_NATIVE=0"] and err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_reason_not_a_crash(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    out, _ = run(REPORT, tmp_path / "file" / "cache")
    name, why = out.splitlines()
    assert name == "ref" and ("cannot write" in why or "compiler" in why)


@needs_compiler
def test_a_damaged_library_is_a_reason_not_a_crash(tmp_path):
    (tmp_path / "ops").mkdir()
    for openmp in (True, False):
        build.library_path("cpu", tmp_path / "ops", openmp).write_bytes(b"not a library")
    out, _ = run(REPORT, tmp_path)
    assert out.splitlines()[0] == "ref"


@needs_compiler
def test_the_key_follows_sources_compiler_and_command(tmp_path):
    folder, compiler = build.source_folder(), build.find_compiler("cpu")
    copy = tmp_path / "ops"
    copy.mkdir()
    for name in (*build.HEADERS, *build.SOURCES["cpu"]):
        (copy / name).write_bytes((folder / name).read_bytes())
    key = build.library_key("cpu", compiler, ["c++", "-O2"], folder)
    assert key == build.library_key("cpu", compiler, ["c++", "-O2"], copy)
    assert key != build.library_key("cpu", compiler, ["c++", "-O3"], folder)
    (copy / "pixel.h").write_text("// other\n")
    assert key != build.library_key("cpu", compiler, ["c++", "-O2"], copy)


def test_both_libraries_include_the_same_arithmetic():
    folder = build.source_folder()
    kernels = ("epilogue_kernels.h", "filter_kernels.h")
    for name, parts in (("the CPU library", kernels), ("the CUDA library", ("cuda.cu",))):
        texts = [(folder / part).read_text() for part in parts]
        assert all('#include "pixel.h"' in text for text in texts)
        text = "".join(texts)
        for function in (
            "taps_at(",
            "filter_pixel(",
            "curve_value(",
            "curve_first(",
            "curve_second(",
            "epilogue_input(",
        ):
            assert function in text, f"{name} does not use {function}"
