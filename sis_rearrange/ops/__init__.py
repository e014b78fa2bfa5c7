"""Low-level operations of StyleGAN2: native ones for CPU and CUDA, and plain torch beside each of them."""

from sis_rearrange.ops.bias_act import bias_act
from sis_rearrange.ops.conv3x3 import conv3x3
from sis_rearrange.ops.epilogue import modulated_epilogue
from sis_rearrange.ops.native import backend
from sis_rearrange.ops.upfirdn2d import downsample2d, fir_kernel, upfirdn2d, upsample2d

__all__ = [
    "backend",
    "bias_act",
    "conv3x3",
    "downsample2d",
    "fir_kernel",
    "modulated_epilogue",
    "upfirdn2d",
    "upsample2d",
]
