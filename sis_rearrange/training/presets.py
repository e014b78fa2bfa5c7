"""Settings for known kinds of pictures, one row each. ``--preset NAME`` takes them where an option is not given.

The rows of photos follow published StyleGAN2 trainings; nothing on photos was measured here. The score is the judge
feature distance of plain samples to held-out renders, `judge_frechet_plain_1000` of `sis evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from sis_rearrange.errors import InputError, nearest

NOT_MEASURED = "not measured here"


@dataclass(frozen=True)
class Preset:
    """One row: the generator, then what is trained on it."""

    resolution: int
    channel_base: int
    channel_max: int
    latent: int  # z_dim and w_dim
    layers: int  # of the mapping network
    batch: int
    gamma: float
    kimg: float
    mirror: bool
    noise: bool
    path_weight: float
    tap: int  # resolution of the feature map to rearrange
    clusters: int  # K
    rearranger_batch: int
    rearranger_kimg: float
    mapper_kimg: float
    score: str  # expected


# Columns are the fields of `Preset` in order; "-": not measured here.
_TABLE = """
                 pixels  base  max latent layers batch gamma   kimg mirror noise path tap  K  batch  kimg mapper  score
toonhead64           64  2048  128    128      4     8   0.1    100     no    no    0  32 24      8    16     20   0.77
toonhead128         128  2048  128    128      4     8   1.0    100     no    no    0  32 24      8    16     20      -
ffhq256             256 16384  512    512      8    64   1.0  25000    yes   yes    2  32 24     16   200    200      -
ffhq1024           1024 32768  512    512      8    32  10.0  25000    yes   yes    2  64 24     16   200    200      -
afhqcat512          512 32768  512    512      8    32   2.0  25000    yes   yes    2  32 16     16   200    200      -
lsun-church256      256 16384  512    512      8    64  10.0  48000     no   yes    2  32 32     16   200    200      -
lsun-bedroom256     256 16384  512    512      8    64  10.0  70000     no   yes    2  32 32     16   200    200      -
"""


def _parsed(table: str) -> dict[str, Preset]:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": lambda cell: cell == "yes"}
    presets = {}
    for row in table.strip("\n").splitlines()[1:]:
        name, *cells = row.split()
        columns = list(zip(fields(Preset), cells, strict=True))
        values = {each.name: kinds[str(each.type)](cell) for each, cell in columns[:-1]}
        presets[name] = Preset(**values, score=cells[-1].replace("-", NOT_MEASURED))
    return presets


PRESETS = _parsed(_TABLE)


def get_preset(name: str) -> Preset:
    """The row of that name; InputError with the nearest one where there is none."""
    if name not in PRESETS:
        raise InputError(f"--preset {name}: unknown{nearest(name, PRESETS)} (known: {', '.join(PRESETS)})")
    return PRESETS[name]


def generator_options(preset: Preset) -> dict[str, Any]:
    """Defaults of `train_generator.py`."""
    same = ("resolution", "channel_base", "channel_max", "batch", "gamma", "kimg", "mirror", "noise", "path_weight")
    latent = {"z_dim": preset.latent, "w_dim": preset.latent, "num_layers": preset.layers}
    return {name: getattr(preset, name) for name in same} | latent


def rearranger_options(preset: Preset) -> dict[str, Any]:
    """Defaults of `train_rearranger.py`."""
    sizes = {"batch": preset.rearranger_batch, "kimg": preset.rearranger_kimg}
    return {"tap": preset.tap, "clusters": preset.clusters} | sizes


def mapper_options(preset: Preset) -> dict[str, Any]:
    """Defaults of `train_mapper.py`."""
    return {"kimg": preset.mapper_kimg}
