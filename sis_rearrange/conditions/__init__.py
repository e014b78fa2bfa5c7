"""Conditions: what people draw, turned into what a semantic mapper reads."""

from __future__ import annotations

from sis_rearrange.conditions.base import Condition
from sis_rearrange.conditions.clusters import cluster_palette, read_proxy_mask
from sis_rearrange.conditions.depth import Depth
from sis_rearrange.conditions.extracted import Extracted
from sis_rearrange.conditions.hed import Hed
from sis_rearrange.conditions.palette import LabelReading, Palette, as_palette
from sis_rearrange.conditions.palette_files import load_palette, palette_names
from sis_rearrange.conditions.registry import (
    CONDITIONS,
    EXTRACTED,
    OF_PARTS,
    condition_names,
    get_condition,
    load_plugin,
    register_condition,
)
from sis_rearrange.conditions.scribble import Scribble
from sis_rearrange.conditions.segmentation import Segmentation
from sis_rearrange.conditions.sketch import Sketch

__all__ = [
    "CONDITIONS",
    "EXTRACTED",
    "OF_PARTS",
    "Condition",
    "Depth",
    "Extracted",
    "Hed",
    "LabelReading",
    "Palette",
    "Scribble",
    "Segmentation",
    "Sketch",
    "as_palette",
    "cluster_palette",
    "condition_names",
    "get_condition",
    "load_palette",
    "load_plugin",
    "palette_names",
    "read_proxy_mask",
    "register_condition",
]
