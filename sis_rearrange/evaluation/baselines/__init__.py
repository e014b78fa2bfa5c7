"""What the method is compared with, under one interface: same pack, shots, masks, seeds and judge for all."""

from __future__ import annotations

from sis_rearrange.evaluation.baselines.base import Baseline, Ignoring
from sis_rearrange.evaluation.baselines.conditional_gan import ConditionalGAN
from sis_rearrange.evaluation.baselines.linear_gan import LinearGAN
from sis_rearrange.evaluation.baselines.ours import Ours, Refined
from sis_rearrange.evaluation.baselines.vote import ClassVote
from sis_rearrange.training.distil import DistilConfig

__all__ = ["Baseline", "ClassVote", "ConditionalGAN", "Ignoring", "LinearGAN", "Ours", "Refined", "methods_for"]


def methods_for(quick: bool, psi: float) -> dict[str, Baseline]:
    """All methods of the table by name, ours last, plain and refined; ``quick``: those that train take less time."""
    ours = Ours(psi, DistilConfig(steps=240), {"kimg": 1.3}) if quick else Ours(psi)
    methods: list[Baseline] = [
        Ignoring(psi),
        ClassVote(psi),
        ConditionalGAN(psi, steps=500, pool=1000) if quick else ConditionalGAN(psi),
        LinearGAN(psi),
        ours,
        Refined(ours),
    ]
    return {method.name: method for method in methods}
