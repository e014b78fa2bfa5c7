"""Ship the domain packs of top-level pretrained/ inside the wheel; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPacks(build_py):
    """Copy pretrained/ to sis_rearrange/pretrained in the build tree, so that an installed wheel finds its packs."""

    def run(self) -> None:
        """Build the package, then add the packs; an editable install finds them in the checkout instead."""
        super().run()
        packs = Path(__file__).resolve().parent / "pretrained"
        if self.editable_mode or not packs.is_dir():
            return
        target = Path(self.build_lib) / "sis_rearrange" / "pretrained"
        shutil.rmtree(target, ignore_errors=True)  # an older build's packs must not travel along
        shutil.copytree(packs, target)


setup(cmdclass={"build_py": BuildWithPacks})
