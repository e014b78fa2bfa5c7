"""Inversion of real pictures: the ws, and changes of the generator, that show a given picture.

    inversion = invert(load_pack("toonhead"), "photo.png")
    inversion.save("photo.safetensors")

W, then W+ by optimisation from the nearest of many samples, then pivotal tuning; see `invert`.
"""

from sis_rearrange.inversion.crops import Crop
from sis_rearrange.inversion.finding import InversionConfig, error_picture, invert, work
from sis_rearrange.inversion.optimise import Weights
from sis_rearrange.inversion.result import Inversion, tuned_generator

__all__ = ["Crop", "Inversion", "InversionConfig", "Weights", "error_picture", "invert", "tuned_generator", "work"]
