"""Picture against picture: how different two pictures look to a network.

LPIPS where its backbone's weights are on this machine; otherwise the same distance without weights fitted to people's
judgement, in the feature maps of the edge detector's VGG, under its own name. Nothing is ever downloaded.

LPIPS takes [-1, 1], and says nothing of a picture in [0, 1] but gives a smaller number. So pictures come as uint8 here,
whose range is no question.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.outcome import hash_of
from sis_rearrange.hed import HEDFeatures
from sis_rearrange.weights import read_weights

BACKBONE_FILE = "alexnet-owt-7be5be79.pth"  # as torchvision names it in torch's cache
PREPROCESSING = "uint8 at the generator's resolution, no resizing; to [-1, 1]"
BATCH = 16
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Perceptual:
    """A distance of pictures, with the name its numbers go by."""

    name: str  # "lpips_alex" or "hed_vgg_distance"
    sha256: str  # of the network's weights
    preprocessing: str
    distance: Distance  # float32 [N, 3, H, W] in [-1, 1], twice -> [N]

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distance per pair, float32 ``[N]``, of pictures uint8 ``[N, 3, H, W]``.

        Raises TypeError for pictures of another type, ValueError for other shapes.
        """
        for images in (a, b):
            if images.dtype != torch.uint8:
                raise TypeError(f"pictures are uint8 here, so that their range is no question; got {images.dtype}")
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
            raise ValueError(f"expected twice uint8 [N, 3, H, W], got {list(a.shape)} and {list(b.shape)}")
        found = []
        with torch.inference_mode():
            for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True):
                found.append(self.distance(*(each.float() / 127.5 - 1 for each in (x, y))))
        return torch.cat(found) if found else torch.zeros(0)


def perceptual() -> tuple[Perceptual, str | None]:
    """The best distance there is on this machine, and in one line why it is not LPIPS (None: it is)."""
    found = lpips_distance()
    return (found, None) if isinstance(found, Perceptual) else (hed_distance(), f"{found}; hed_vgg_distance instead")


def hed_distance() -> Perceptual:
    """Distance in the five blocks of the edge detector's VGG16."""
    network = HEDFeatures()
    return Perceptual("hed_vgg_distance", hash_of(network.hed), PREPROCESSING, network.distance)


def lpips_distance() -> Perceptual | str:
    """LPIPS 0.1 with AlexNet; or, in one line, why it cannot be had."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILE
    if not path.is_file():
        return f"lpips_alex: torchvision's {BACKBONE_FILE} is not in torch's cache (nothing is downloaded)"
    try:
        import lpips
    except ImportError:
        return "lpips_alex: the package lpips is not installed (pip install 'sis_rearrange[eval]')"
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of an argument that lpips still uses
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    _, state = read_weights(path)  # the backbone, without running code of the file
    wanted = network.net.state_dict()
    layers = {name: state.get(f"features.{name.split('.', 1)[1]}") for name in wanted}
    if any(value is None or value.shape != wanted[name].shape for name, value in layers.items()):
        raise InputError(f"{path}: is not torchvision's AlexNet; delete it, or put {BACKBONE_FILE} there")
    network.net.load_state_dict(layers)
    network.eval().requires_grad_(False)

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return network(a, b).flatten()

    return Perceptual("lpips_alex", hash_of(network), PREPROCESSING, distance)
