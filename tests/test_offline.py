"""Nothing phones home, and nothing is written outside the cache folder: a process of its own, watched."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("openvino")

ROOT = Path(__file__).resolve().parent.parent

# Runs before anything else in the child: the network is shut, and a look at it is an error that cannot be swallowed.
WATCH = """
    import os, sys

    def watch(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            with open(os.environ["TRIPPED"], "a") as file:
                file.write(f"{event} {arguments}\\n")
            raise OSError("the network is shut")

    sys.addaudithook(watch)
"""
# Stands in for the package that OpenVINO's tools report through, whether that is installed or not.
REPORTER = """
    import os
    with open(os.environ["TRIPPED"], "a") as file:
        file.write("openvino_telemetry was imported\\n")
    raise ImportError("a trap")
"""
SYNTHESISE = """
    import sys, torch
    from sis_rearrange.inference import accelerate
    from sis_rearrange.stylegan2 import Generator

    generator = Generator(16, 0, 16, 16, channel_base=256, channel_max=16, num_layers=1).eval()
    with torch.no_grad():
        z = torch.randn(1, 16)
        plain = generator(z)
        picture = accelerate(generator, "openvino")(z)
    assert generator.synthesis.fast is not None and (plain - picture).abs().max() < 1e-4
    assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules
"""


def run(tmp_path: Path, script: str) -> tuple[list[str], list[str]]:
    """Run a script in an empty home without network: (what it tripped over, the files it left)."""
    home, paths = tmp_path / "home", tmp_path / "paths"
    home.mkdir()
    paths.mkdir()
    (paths / "sitecustomize.py").write_text(textwrap.dedent(WATCH))
    (paths / "openvino_telemetry").mkdir()
    (paths / "openvino_telemetry" / "__init__.py").write_text(textwrap.dedent(REPORTER))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "SIS_", "CI"))}
    tripped = tmp_path / "tripped"
    places = {"HOME": str(home), "TMPDIR": str(home), "TRIPPED": str(tripped), "PYTHONDONTWRITEBYTECODE": "1"}
    places["SIS_NATIVE"] = "0"  # building the native ops takes seconds and is tested elsewhere
    path = os.pathsep.join([str(paths), str(ROOT)])
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**kept, **places, "PYTHONPATH": path},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    files = [file.relative_to(home).as_posix() for file in home.rglob("*") if file.is_file()]
    return tripped.read_text().splitlines() if tripped.exists() else [], files


def test_the_engine_stays_at_home(tmp_path):
    tripped, files = run(tmp_path, SYNTHESISE)
    assert tripped == []
    assert any(file.endswith("graph.bin") for file in files)
    assert [file for file in files if not file.startswith(".cache/sis_rearrange/")] == []


LOOK_UP = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('localhost', 1)"
CONNECT = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.socket().connect(('127.0.0.1', 1))"
IMPORT = "import openvino"


@pytest.mark.parametrize(
    ("script", "event"), [(IMPORT, "openvino_telemetry"), (LOOK_UP, "getaddrinfo"), (CONNECT, "connect")]
)
def test_the_watch_sees(tmp_path, script, event):
    tripped, _ = run(tmp_path, script)
    assert any(event in line for line in tripped)
