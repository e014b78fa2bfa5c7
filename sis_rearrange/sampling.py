"""Plain samples of a pack's generator, and what goes with every picture: seeds, truncation, device, metadata."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from sis_rearrange import __version__
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.inference import accelerate, resolve
from sis_rearrange.pack import Pack
from sis_rearrange.tensors import to_uint8

DEFAULT_PSI = 0.9
MAX_PSI = 2.0  # beyond it there is nothing but noise
MAX_SEED = 2**63 - 1

Module = TypeVar("Module", bound=torch.nn.Module)


def metadata(
    pack: Pack,
    seed: int | None = None,
    psi: float | None = None,
    condition: str | None = None,
    backend: str | None = None,  # what ran the networks
) -> dict[str, str]:
    """Text entries for PNG files: how to make the picture again, and whom to credit. None leaves an entry out."""
    credits = dict.fromkeys(licence.get("credit", "") for licence in pack.info["licences"])
    entries = {
        "Software": f"sis_rearrange {__version__}",
        "torch": str(torch.__version__),
        "backend": backend,
        "pack": pack.name,
        "pack_hash": pack.short_hash,
        "seed": seed,
        "psi": psi,
        "condition": condition,
        "Credit": "; ".join(credit for credit in credits if credit) or None,
    }
    return {key: str(value) for key, value in entries.items() if value is not None}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is the accelerator where torch finds one, otherwise the CPU. InputError for one that cannot be used."""
    if device == "auto":
        accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
        found = accelerator.current_accelerator() if accelerator is not None and accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"device {str(device)!r} cannot be used ({reason}); 'auto' and 'cpu' always work") from None


def check_psi(psi: float) -> float:
    """Raise InputError unless the truncation is a number that gives pictures."""
    if not (math.isfinite(psi) and abs(psi) <= MAX_PSI):
        raise InputError(f"psi {psi}: the truncation is a number from -{MAX_PSI:g} to {MAX_PSI:g}, usually 0.5 to 1")
    return float(psi)


def check_seed(seed: int) -> int:
    """Raise InputError unless the seed is a whole number that the generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {seed!r}: give a whole number, 0 or more")
    return int(seed)


def sample_images(
    pack: Pack,
    seeds: Sequence[int],
    psi: float = DEFAULT_PSI,
    device: str | torch.device = "auto",
    backend: str = "auto",  # as `inference.accelerate`
) -> Iterator[Image.Image]:
    """Plain samples of the generator, one at a time: a seed's picture is the same whichever others are asked for."""
    chosen = pick_device(device)
    generator = on_device(pack.generator(), chosen)
    if resolve(generator, backend)[0] != "torch":  # the pack's own stays as it was built
        generator = accelerate(copy.deepcopy(generator), backend)
    psi = check_psi(psi)
    for seed in seeds:
        with torch.inference_mode():
            image = generator.synthesis(sample_ws(generator, [check_seed(seed)], psi))
        yield Image.fromarray(to_uint8(image)[0])


def on_device(network: Module, device: torch.device) -> Module:
    """The pack's own network on the CPU, a copy elsewhere."""
    return network if device.type == "cpu" else copy.deepcopy(network).to(device)
