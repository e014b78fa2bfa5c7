"""Draw a layout, keep the look: semantic image synthesis by rearranging the features of a trained generator.

    import sis_rearrange as sis
    synth = sis.Synthesizer(sis.load_pack("toonhead"), device="auto")
    synth.set_source(seed=7)
    synth.synthesize("drawing.png", condition="sketch").image.save("picture.png")
    generator = sis.load_generator("ffhq.pkl")  # any StyleGAN2; no code of the file runs

Importing the package is cheap: torch is imported on first use of `load_pack`, `load_generator` or `Synthesizer`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sis_rearrange.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "Synthesizer", "__version__", "load_discriminator", "load_generator", "load_pack"]

_LAZY = {
    "Synthesizer": "sis_rearrange.synthesis",
    "load_discriminator": "sis_rearrange.loading",
    "load_generator": "sis_rearrange.loading",
    "load_pack": "sis_rearrange.pack",
}

if TYPE_CHECKING:
    from sis_rearrange.loading import load_discriminator, load_generator
    from sis_rearrange.pack import load_pack
    from sis_rearrange.synthesis import Synthesizer
else:  # hidden from the type checker, which would otherwise accept any misspelt attribute

    def __getattr__(name: str) -> object:
        """Import the facade's heavy half on first use."""
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)

    def __dir__() -> list[str]:
        """Names for completion, lazy ones included."""
        return sorted({*globals(), *_LAZY})
