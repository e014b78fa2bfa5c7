"""What an inversion leaves: ws, changes of the generator's weights, and how well they show the picture; on disk, too.

The file is safetensors with a JSON header (`weights.own_format`): nothing in it runs. It names the generator by hash.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sis_rearrange import __version__
from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes
from sis_rearrange.inversion.crops import Crop
from sis_rearrange.pack import GENERATOR, Pack
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.weights import decode_weights, encode_weights, read_weights

KIND = "inversion"
SUFFIX = ".safetensors"
_DELTA = "delta."
_NUMBERS = ("psnr", "psnr_latent", "distance", "nearest", "limit", "prior_distance", "seconds")


@dataclass(frozen=True, eq=False)
class Inversion:
    """One picture in terms of one generator."""

    ws: torch.Tensor  # [num_ws, w_dim]
    delta: dict[str, torch.Tensor]  # change of the generator's weights by parameter name; empty where not tuned
    error_map: np.ndarray  # [H, W] float32 in [0, 1]: mean absolute difference of the channels, of what they can be
    scores: dict[str, float]  # see `describe`
    crop: Crop  # of the picture
    picture: dict[str, Any]  # its "name", "width", "height" and "sha256" of its pixels
    pack: dict[str, str]  # "name" of the pack and "generator": sha256 of the weights, "" for a bare generator
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def psnr(self) -> float:
        """Of the whole inversion, in dB over [-1, 1]."""
        return self.scores["psnr"]

    @property
    def distance(self) -> float:
        """Perceptual distance of the whole inversion; the features are named in ``settings``."""
        return self.scores["distance"]

    @property
    def tuned(self) -> bool:
        """Whether the generator was tuned."""
        return bool(self.delta)

    @property
    def outside(self) -> bool:
        """Whether the picture is outside the generator's domain: farther from it than its own samples from theirs."""
        return self.scores["nearest"] > self.scores["limit"]

    def describe(self) -> str:
        """The scores in one line."""
        tuned = f", {self.scores['psnr_latent']:.1f} dB before tuning" if self.tuned else ""
        return f"PSNR {self.psnr:.1f} dB{tuned}, {self.settings.get('features', '')} distance {self.distance:.3f}"

    # ---- disk ----

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all. InputError for a name that does not end in .safetensors, and a full disk."""
        if Path(path).suffix != SUFFIX:
            raise InputError(f"{path}: an inversion is a safetensors file; let the name end in {SUFFIX}")
        write_bytes(path, self.encode())

    def encode(self) -> bytes:
        """The bytes of its file."""
        state = {"ws": self.ws, "error_map": torch.from_numpy(self.error_map)}
        state |= {_DELTA + name: tensor for name, tensor in self.delta.items()}
        config = {
            "kind": KIND,
            "scores": self.scores,
            "crop": [self.crop.x, self.crop.y, self.crop.size],
            "picture": self.picture,
            "pack": self.pack,
            "settings": self.settings,
            "sis_rearrange": __version__,
        }
        return encode_weights(state, config, half=True)

    @staticmethod
    def load(path: str | Path, pack: Pack | None = None) -> Inversion:
        """Read a file that `save` wrote; InputError for any other, and where it was made with another generator."""
        inversion = _decoded(*read_weights(path), str(path))
        if pack is not None:
            inversion.check(pack, str(path))
        return inversion

    def check(self, pack: Pack, where: str = "inversion") -> None:
        """Raise InputError unless it was made with this pack's generator."""
        own = str(pack.info["files"].get(GENERATOR, {}).get("sha256", ""))
        if self.pack.get("generator") != own:
            raise InputError(
                f"{where}: was made with another generator (pack {self.pack.get('name')!r}, sha256 "
                f"{self.pack['generator'][:8]} instead of {own[:8]}); invert the picture again with pack {pack.name!r}"
            )
        config = pack.component_config(GENERATOR)["args"]
        generator = pack.generator()
        sizes = {name: p.shape for name, p in generator.named_parameters()}
        sound = list(self.ws.shape) == [generator.num_ws, config["w_dim"]]
        sound &= all(sizes.get(name) == change.shape for name, change in self.delta.items())
        if not sound:
            raise InputError(f"{where}: does not fit the generator of pack {pack.name!r}; invert the picture again")

    # ---- use ----

    def generator(self, original: Generator) -> Generator:
        """The generator that shows the picture: ``original`` itself, or a tuned copy on the same device."""
        return tuned_generator(original, self.delta)

    def tuned_pack(self, pack: Pack) -> Pack:
        """The pack with the tuned generator in place of its own, under a hash of its own; all else is the pack's."""
        self.check(pack)
        if not self.delta:
            return pack
        generator = self.generator(pack.generator())
        digest = hashlib.sha256(pack.hash.encode() + self.encode()).hexdigest()
        return replace(pack, hash=digest, _built={**pack._built, GENERATOR: generator}, _configs=dict(pack._configs))


def rounded(inversion: Inversion) -> Inversion:
    """As its file has it: half precision."""
    return _decoded(*decode_weights(inversion.encode(), KIND), KIND)


@torch.no_grad()
def tuned_generator(original: Generator, delta: Mapping[str, torch.Tensor]) -> Generator:
    """``original``, or a copy with ``delta`` added to its weights."""
    if not delta:
        return original
    tuned = copy.deepcopy(original)
    parameters = dict(tuned.named_parameters())
    for name, change in delta.items():
        parameters[name].add_(change.to(parameters[name]))
    return tuned


def _decoded(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], where: str) -> Inversion:
    if config.get("kind") != KIND:
        raise InputError(
            f"{where}: holds a {config.get('kind') or 'set of weights'!r}, no inversion; make one with 'sis invert'"
        )
    try:
        scores = {name: float(config["scores"][name]) for name in _NUMBERS}
        x, y, size = (int(v) for v in config["crop"])
        picture, pack = dict(config["picture"]), {k: str(v) for k, v in dict(config["pack"]).items()}
        ws, error_map = state["ws"].float(), state["error_map"].float().numpy()
        if ws.ndim != 2 or error_map.ndim != 2 or "generator" not in pack:
            raise ValueError("its tensors have other shapes")
        delta = {name.removeprefix(_DELTA): t.float() for name, t in state.items() if name.startswith(_DELTA)}
        return Inversion(ws, delta, error_map, scores, Crop(x, y, size), picture, pack, dict(config["settings"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{where}: is not a whole inversion ({reason}); make it again with 'sis invert'") from None
