"""Low-level operations of StyleGAN2 as plain-torch references (the native paths will stand beside them)."""

from sis_rearrange.ops.bias_act import bias_act
from sis_rearrange.ops.upfirdn2d import downsample2d, fir_kernel, upfirdn2d, upsample2d

__all__ = ["bias_act", "downsample2d", "fir_kernel", "upfirdn2d", "upsample2d"]
