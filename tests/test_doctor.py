"""`sis doctor`: says what runs, and why."""

from __future__ import annotations

from click.testing import CliRunner

from sis_rearrange import ops
from sis_rearrange.cli import main


def report() -> dict[str, str]:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    return {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in result.output.splitlines()}


def test_it_names_the_active_path_and_the_machine():
    found = report()
    name, why = ops.backend()
    assert (
        found["ops on CPU"].startswith("native" if name == "native" else "plain torch") and why in found["ops on CPU"]
    )
    for what in ("inference on CPU", "CPU features", "threads", "nvcc", "cache folder", "torch", "openvino"):
        assert found[what]


def test_it_says_what_switched_the_ops_off(monkeypatch):
    monkeypatch.setenv("SIS_NATIVE", "0")
    assert report()["ops on CPU"] == "plain torch: switched off by SIS_NATIVE=0"
