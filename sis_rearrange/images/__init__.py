"""Pictures at the file edge: careful reading, square fits that can be undone, writing whole or not at all, sheets.

Everything here is PIL images and uint8 arrays ``[H, W]`` or ``[H, W, 3]``; the tensor side lives in `tensors`.
"""

from __future__ import annotations

from sis_rearrange.images.fitting import FITS, Fit, fit_image
from sis_rearrange.images.reading import FORMATS, MAX_PIXELS, MIN_SIDE, Source, flatten, name_of, read_image
from sis_rearrange.images.sheets import contact_sheet, label_strip
from sis_rearrange.images.writing import Picture, check_writable, write_bytes, write_png, write_text

__all__ = [
    "FITS",
    "FORMATS",
    "MAX_PIXELS",
    "MIN_SIDE",
    "Fit",
    "Picture",
    "Source",
    "check_writable",
    "contact_sheet",
    "fit_image",
    "flatten",
    "label_strip",
    "name_of",
    "read_image",
    "write_bytes",
    "write_png",
    "write_text",
]
