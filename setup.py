"""What pyproject.toml cannot say: the domain packs and the native ops inside the wheel.

The native libraries are compiled where there is a compiler. Where there is none, or it fails, the installation goes on
without them: the package then builds them on first use, or does without.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LIBRARIES = ("cpu", "winograd")


def load_builder() -> ModuleType:
    """sis_rearrange/ops/build.py by itself: the package around it needs torch, which is not there yet."""
    spec = importlib.util.spec_from_file_location("sis_ops_build", ROOT / "sis_rearrange" / "ops" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def can_compile() -> bool:
    """Whether there is a C++ compiler."""
    builder = load_builder()
    try:
        builder.find_compiler("cpu")
    except builder.BuildError:
        return False
    return True


class BuildWithPacksAndOps(build_py):
    """Add pretrained/, the sources of ops/ and what they compile to. Editable installs find the first two in place."""

    def run(self) -> None:
        """Build the package, then what stands beside it."""
        super().run()
        package = Path(self.build_lib) / "sis_rearrange"
        if self.editable_mode:
            self.compile_ops(None)
            return
        for source, target in ((ROOT / "pretrained", package / "pretrained"), (ROOT / "ops", package / "ops" / "src")):
            shutil.rmtree(target, ignore_errors=True)  # an older build's files must not travel along
            if source.is_dir():
                shutil.copytree(source, target)
        self.compile_ops(package / "ops" / "lib")

    def compile_ops(self, target: Path | None) -> None:
        """Compile into `target`, or (None) into the user's cache, where the first use will look. Never fails."""
        builder = load_builder()
        for name in LIBRARIES:
            try:
                made = builder.build(name, target or builder.cache_folder() / "ops")
                if target is not None:
                    made.replace(target / f"{name}.so")
                    (target / f"{name}.lock").unlink(missing_ok=True)
            except (builder.BuildError, OSError) as error:
                self.warn(f"native ops ({name}) not built: {error}; the package works without them")


class PlatformDistribution(Distribution):
    """Compiled ops are for one platform."""

    def has_ext_modules(self) -> bool:
        """Whether the wheel is for one platform: where there is a compiler."""
        return can_compile()


class AnyPythonWheel(bdist_wheel):
    """For one platform, yet for any Python and any torch: the libraries know nothing of either."""

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's tag."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(distclass=PlatformDistribution, cmdclass={"build_py": BuildWithPacksAndOps, "bdist_wheel": AnyPythonWheel})
