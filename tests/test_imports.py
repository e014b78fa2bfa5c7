"""The layering: a module imports only modules of a lower rank, or siblings inside its own package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sis_rearrange"

RANKS = {
    **dict.fromkeys(["errors", "ops"], 0),
    **dict.fromkeys(["tensors", "images", "metrics"], 1),
    **dict.fromkeys(["weights", "domains", "correspondence", "architecture", "data", "variants"], 2),
    **dict.fromkeys(["stylegan2", "unet", "engine", "hed"], 3),
    **dict.fromkeys(["features", "conversion", "native_synthesis"], 4),
    **dict.fromkeys(["proxy", "inference", "extractor"], 5),
    **dict.fromkeys(["rearranger", "gpu_synthesis", "sample_parts"], 6),
    **dict.fromkeys(["mapper", "conditions", "pack_files"], 7),
    **dict.fromkeys(["pack", "losses", "critic"], 8),
    **dict.fromkeys(["sampling", "loading", "whole_graph", "calibration", "cycle"], 9),
    **dict.fromkeys(["targets", "sheets", "layouts", "export", "sources", "refinement"], 10),
    **{"encoder": 7, "inversion": 9, "editing": 10},
    **dict.fromkeys(["readers"], 11),
    **dict.fromkeys(["synthesis"], 12),
    **dict.fromkeys(["training", "demo"], 13),
    **dict.fromkeys(["evaluation", "studio"], 14),  # its baselines learn from the same few shots as ours
    **dict.fromkeys(["cli"], 15),
    "__init__": 14,  # the facade: not for the modules behind it, but for __version__
}

SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if "pretrained" not in p.parts)
FILES = pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())


def unit(path: Path) -> str:
    """The name in RANKS that a source file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    """Names in RANKS that a source file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "sis_rearrange":  # of a module, or of something that __init__ offers
                names |= {f"sis_rearrange.{a.name if a.name in RANKS else '__init__'}" for a in node.names}
                names -= {"sis_rearrange.__init__"} if [a.name for a in node.names] == ["__version__"] else set()
            else:
                names.add(node.module or "")
    ours = [name.split(".") + ["__init__"] for name in names if name.split(".")[0] == "sis_rearrange"]
    return {parts[1] for parts in ours}


@FILES
def test_imports_point_upwards(path):
    me = unit(path)
    for other in {me, *imported_units(path)}:
        assert other in RANKS, f"give {other} a rank in {Path(__file__).name}"
        assert other == me or RANKS[other] < RANKS[me], f"{me} (rank {RANKS[me]}) imports {other} (rank {RANKS[other]})"


def test_the_layering_test_sees_violations(tmp_path):
    source = tmp_path / "a.py"
    lines = {
        "from sis_rearrange.pack import load_pack": {"pack"},
        "def f():\n    import sis_rearrange.cli.main as m": {"cli"},
        "from sis_rearrange import images, load_pack": {"images", "__init__"},
        "from sis_rearrange import __version__": set(),
        "import sis_rearrange": {"__init__"},
        "import torch\nfrom numpy import linalg": set(),
    }
    for text, expected in lines.items():
        source.write_text(text)
        assert imported_units(source) == expected


@FILES
def test_habits(path):
    assert path.name != "utils.py", "name the module after what it holds"
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(r"cuda(:\d+)?", node.value), f"{where}: the device is an argument"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{where}: commands use click.echo"
            assert not called.endswith(".cuda"), f"{where}: the device is an argument"
            assert not re.match(r"pickle\.(load|Unpickler)", called), f"{where}: nothing is unpickled"
            assert called != "torch.load", f"{where}: weights.read_weights reads weights"


def run_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_is_cheap():
    heavy = ["torch", "sklearn", "scipy", "numpy", "PIL", "click"]
    code = f"import sys, sis_rearrange as sis; dir(sis); print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_every_module_imports_without_the_optional_packages():
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in SOURCES]
    code = f"""
import importlib, sys
optional = ["dicebear", "dicebear_styles", "lmdb", "lpips", "matplotlib", "resvg_py", "tensorboard", "torch_fidelity"]
optional += ["gradio", "fastapi", "starlette", "uvicorn"]
sys.modules.update(dict.fromkeys(optional))  # importing any of these now fails
for name in {[m for m in modules if not m.endswith("__main__")]}:
    importlib.import_module(name)
"""
    run_python(code)


def test_the_facade_is_lazy_but_complete():
    import sis_rearrange as sis

    assert callable(sis.load_pack) and callable(sis.Synthesizer)
    assert issubclass(sis.InputError, ValueError)
    assert set(sis.__all__) <= set(dir(sis))
    with pytest.raises(AttributeError, match="Synthesiser"):
        _ = sis.Synthesiser
