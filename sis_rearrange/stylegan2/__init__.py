"""StyleGAN2 generator and discriminator (Karras et al. 2020), with the official PyTorch parameter names.

Skip generator, residual discriminator, class labels. An official state dict loads with ``strict=True``. Modulation is
applied to the activations rather than to the weights (equation 1 and 3 of the paper, reordered): the same picture up to
rounding, and no grouped convolution; for a single sample to the weights where they are the smaller of the two. Layers
run on the native ops where there are any; `set_impl` chooses otherwise.
"""

from sis_rearrange.stylegan2.discriminator import Discriminator, DiscriminatorBlock, DiscriminatorEpilogue
from sis_rearrange.stylegan2.generator import (
    NOISE_MODES,
    Generator,
    SynthesisBlock,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGBLayer,
)
from sis_rearrange.stylegan2.layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    channels_at,
    clamped,
    normalize_2nd_moment,
    set_impl,
)

__all__ = [
    "NOISE_MODES",
    "Conv2dLayer",
    "Discriminator",
    "DiscriminatorBlock",
    "DiscriminatorEpilogue",
    "FullyConnectedLayer",
    "Generator",
    "MappingNetwork",
    "SynthesisBlock",
    "SynthesisLayer",
    "SynthesisNetwork",
    "ToRGBLayer",
    "channels_at",
    "clamped",
    "normalize_2nd_moment",
    "set_impl",
]
