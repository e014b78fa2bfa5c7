"""What the texts tell people to do works: commands parse, links lead somewhere, the Python example runs."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from sis_rearrange.cli import main

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EACH_TEXT = pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())


def commands(path: Path) -> list[list[str]]:
    """The lines of a text's code blocks that call `sis` or a training script, split into words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(sis|python train_\w+\.py) ", line)]


def check(command: click.Command, name: str, words: list[str]) -> None:
    while isinstance(command, click.Group):
        name, words, command = words[0], words[1:], command.commands[words[0]]
    command.make_context(name, words)


@EACH_TEXT
def test_commands_parse(path):
    for words in commands(path):
        if words[0] == "sis":
            check(main, "sis", words[1:])
        else:
            check(runpy.run_path(str(ROOT / words[1]))["main"], words[1], words[2:])


def test_the_texts_hold_commands():
    found = [words for path in TEXTS for words in commands(path)]
    assert len(found) > 8 and {words[0] for words in found} == {"sis", "python"}


@EACH_TEXT
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [t for t in targets if not re.match(r"[a-z]+:", t) and not (path.parent / t).exists()]
    assert missing == []


def test_the_python_example_runs(tiny_pack, tmp_path, monkeypatch):
    """The README's, on the tiny pack instead of the shipped one."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    code = code.replace('"toonhead"', repr(str(tiny_pack.path))).replace("pretrained/toonhead", str(tiny_pack.path))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "picture.png").stat().st_size > 0
