"""Depth maps, near bright: of any depth-estimation model that the package transformers knows. None ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions.extracted import MapCondition
from sis_rearrange.errors import InputError
from sis_rearrange.tensors import to_uint8


class Depth(MapCondition):
    """See `MapCondition`. Depth maps that people hand in need no model; photos and training do."""

    def __init__(
        self,
        model: str | Path | None = None,  # folder with config.json and model.safetensors, or a name on the model hub
        inverse: bool = True,  # whether the model's numbers grow towards the viewer (disparity, as most do)
    ) -> None:
        super().__init__("depth", lines=False)
        self.model, self.inverse = model, inverse
        self._loaded: tuple[Any, Any] | None = None

    def maps(self, images: torch.Tensor, rng: np.random.Generator | None) -> np.ndarray:
        """Depth float32 [N, h, w] of images float32 [N, 3, H, W] in [-1, 1], in the model's own size; near is large."""
        processor, network = self._networks()
        pictures = [Image.fromarray(picture) for picture in to_uint8(images)]
        with torch.inference_mode():
            found = network(**processor(images=pictures, return_tensors="pt")).predicted_depth
        values: np.ndarray = found.float().cpu().numpy()
        return values if self.inverse else -values

    def _networks(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_depth_model(self.model)
        return self._loaded


def load_depth_model(model: str | Path | None) -> tuple[Any, Any]:
    """Image processor and network of a depth model: safetensors only, no code of the model's is ever run.

    A folder is read as it is; a name on the model hub is fetched by transformers, into its cache. Raises `InputError`
    where there is no model, the package is missing, or the model cannot be used.
    """
    if model is None:
        raise InputError(
            "condition 'depth': a depth model is needed to make depth maps of pictures; name one with --depth-model "
            "(a folder, or a name on the model hub), or hand in a depth map, near parts bright"
        )
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError:
        raise InputError(
            "condition 'depth' needs the package transformers: pip install 'sis_rearrange[depth]'"
        ) from None
    options = {"trust_remote_code": False, "local_files_only": Path(model).is_dir()}
    if not Path(model).is_dir() and (Path(model).is_absolute() or str(model).count("/") != 1):
        raise InputError(f"--depth-model {model}: no such folder, and not a name on the model hub such as OWNER/NAME")
    try:
        processor = AutoImageProcessor.from_pretrained(str(model), **options)
        network = AutoModelForDepthEstimation.from_pretrained(str(model), use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--depth-model {model}: cannot be used ({reason})") from error
    return processor, network.float().eval().requires_grad_(False)
