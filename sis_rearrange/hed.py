"""Holistically-nested edge detection (Xie and Tu, ICCV 2015) with the weights that ship in ``pretrained/hed``.

A VGG16 without its last pooling; each of the five blocks gives an edge map through a 1x1 convolution, upsampled to the
picture, and a last 1x1 convolution fuses the five (section 3 of the paper). The blocks serve as a perceptual feature
extractor too. It is *not* LPIPS: other weights, and no calibration on human judgements. Give such a distance its own
name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.errors import InputError
from sis_rearrange.tensors import assert_shape, is_traced
from sis_rearrange.weights import decode_weights

FILE = "hed/hed_bsds500_fp16.safetensors"  # in pretrained/
SHA256 = "c7f4c16a7459e5a5b8694d62a4238b7d20d0a6ae863d88ded5808dfbd528c769"
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and 3x3 convolutions of each VGG block
BGR_MEAN = (104.00699, 116.66877, 122.67892)  # in 0-255, subtracted from the input
CHUNK_BYTES = 256 * 2**20  # of the first block's feature maps computed at a time, where no gradient is wanted


class Block(nn.Module):
    """The convolutions of one VGG block: 3x3, padding 1, each followed by ReLU."""

    def __init__(self, in_channels: int, channels: int, count: int) -> None:
        super().__init__()
        self.count = count
        for n in range(count):
            self.add_module(f"conv{n + 1}", nn.Conv2d(channels if n else in_channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in_channels, h, w]`` -> ``[N, channels, h, w]``."""
        for n in range(self.count):
            x = getattr(self, f"conv{n + 1}")(x).relu_()
        return x


class HED(nn.Module):
    """Edge probabilities of pictures of any size, and the feature maps they come from."""

    def __init__(self) -> None:
        super().__init__()
        before = 3
        for n, (channels, count) in enumerate(BLOCKS, 1):
            self.add_module(f"block{n}", Block(before, channels, count))
            self.add_module(f"side{n}", nn.Conv2d(channels, 1, 1))
            before = channels
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)

    def features(self, images: torch.Tensor, blocks: int = len(BLOCKS)) -> list[torch.Tensor]:
        """Outputs of the first ``blocks`` VGG blocks, block n ``[N, 64..512, ceil(H / 2^n-1), ceil(W / 2^n-1)]``.

        Images float32 ``[N, 3, H, W]`` RGB in [-1, 1]. Gradients pass; memory grows with N, H and W.
        """
        assert_shape(images, [None, 3, None, None])
        mean = torch.tensor(BGR_MEAN, device=images.device, dtype=images.dtype)
        x = (images.flip(1) + 1) * 127.5 - mean[:, None, None]
        found = []
        for n in range(blocks):
            if n:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = getattr(self, f"block{n + 1}")(x)
            found.append(x)
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float32 ``[N, 3, H, W]`` RGB in [-1, 1] -> edge probabilities ``[N, 1, H, W]`` in [0, 1].

        Without gradients a few samples are computed at a time, so that memory does not grow with N; it does with the
        pixels of one, about 0.6 GB a million. The condition "hed" never asks for more than 512 x 512.
        """
        count = max(1, CHUNK_BYTES // (4 * BLOCKS[0][0] * images.shape[-2] * images.shape[-1]))
        if torch.is_grad_enabled() or is_traced() or len(images) <= count:
            return self._edges(images)
        return torch.cat([self._edges(part) for part in images.split(count)])

    def _edges(self, images: torch.Tensor) -> torch.Tensor:
        size = images.shape[-2:]
        sides = [
            F.interpolate(getattr(self, f"side{n}")(x), size=size, mode="bilinear", align_corners=False)
            for n, x in enumerate(self.features(images), 1)
        ]
        return self.fuse(torch.cat(sides, dim=1)).sigmoid()


class HEDFeatures(nn.Module):
    """HED's VGG blocks as a perceptual distance between pictures; say "HED-VGG distance", never LPIPS."""

    def __init__(self, hed: HED | None = None, blocks: int = len(BLOCKS)) -> None:
        super().__init__()
        self.hed = load_hed() if hed is None else hed
        self.blocks = blocks

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `HED.features`."""
        return self.hed.features(images, self.blocks)

    def distance(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances ``[N]`` >= 0 of images ``[N, 3, H, W]`` in [-1, 1], 0 for equal ones; gradients pass.

        Feature vectors get unit length, and their squared differences are averaged over cells, then over blocks.
        """
        pairs = zip(self(first), self(second), strict=True)
        each = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]
        return torch.stack(each).mean(dim=0)


def hed_file() -> Path:
    """Where the weights are: beside the modules in an installed wheel, above them in a checkout.

    Raises InputError where they are missing.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "pretrained", package.parent / "pretrained"):
        if (root / FILE).is_file():
            return root / FILE
    raise InputError(f"pretrained/{FILE}: missing; install the package again, the weights come with it")


def load_hed(path: str | Path | None = None) -> HED:
    """The network with its weights, frozen, in eval mode, on the CPU: a new object at each call.

    ``path`` is another copy of the same file; None finds the one that came with the package. Raises InputError where
    the file is missing or is not, byte for byte, the one that this version knows (sha256).
    """
    file = hed_file() if path is None else Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{file}: was changed (sha256 {digest[:8]} instead of {SHA256[:8]}); install the package again"
        )
    with torch.device("meta"):  # no initial values: they would be overwritten
        network = HED()
    network.load_state_dict(decode_weights(data, str(file))[1], strict=True, assign=True)
    return network.eval().requires_grad_(False)
