"""Square fits of pictures that are not square, and how to undo them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from sis_rearrange.errors import InputError, nearest

FITS = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class Fit:
    """How an image of ``size`` (height, width) was made square; `undo` gives a square result its aspect ratio back."""

    mode: str
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.mode not in FITS:
            raise InputError(f"unknown fit '{self.mode}'{nearest(self.mode, FITS)} (one of {', '.join(FITS)})")

    def inner(self, side: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the drawing inside a padded square of ``side`` pixels."""
        height, width = (max(1, round(side * length / max(self.size))) for length in self.size)
        left, top = (side - width) // 2, (side - height) // 2
        return left, top, left + width, top + height

    def undo(self, result: Image.Image, resample: Image.Resampling | None = None) -> Image.Image:
        """A square result of any size -> the drawing's aspect ratio, the longer side as long as the result's.

        "pad": the bars are cut off; "stretch": un-stretched; "crop": the result as it is, since what was cut is gone.
        """
        if self.mode == "crop":
            return result
        left, top, right, bottom = self.inner(result.width)
        if self.mode == "pad":
            return result.crop((left, top, right, bottom))
        return result.resize((right - left, bottom - top), _resampling(result, resample))


def fit_image(
    image: Image.Image,
    size: int,  # side of the square to make, in pixels
    mode: str = "pad",  # "crop" the middle, "pad" with bars, or "stretch"
    fill: int | tuple[int, ...] | None = None,  # pixel value of the bars; None: white (index 0 in mode "P")
    resample: Image.Resampling | None = None,  # None: nearest in mode "P", otherwise Lanczos
) -> tuple[Image.Image, Fit]:
    """Make an image ``size`` x ``size``, same mode, and say how. Scales before it pads: long strips cost no memory."""
    fit = Fit(mode, (image.height, image.width))
    resample = _resampling(image, resample)
    if mode == "stretch":
        return image.resize((size, size), resample), fit
    if mode == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.resize((size, size), resample, box=(left, top, left + side, top + side)), fit
    left, top, right, bottom = fit.inner(size)
    inner = image.resize((right - left, bottom - top), resample)
    if fill is None:
        bands = len(image.getbands())
        fill = 0 if image.mode == "P" else 255 if bands == 1 else (255,) * bands
    square = Image.new(image.mode, (size, size), fill)
    if image.mode == "P":
        square.putpalette(image.getpalette("RGB") or [], "RGB")
    square.info.update(image.info)
    square.paste(inner, (left, top))
    return square, fit


def _resampling(image: Image.Image, wanted: Image.Resampling | None) -> Image.Resampling:
    if wanted is not None:
        return wanted
    return Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.LANCZOS
