"""Several layouts from one drawing: what a mapper is sure of stays, what it leaves open is taken from real layouts.

Drawing every cell at random from the mapper's probabilities gives salt and pepper, and smooth noise gives faces whose
two halves do not belong together. The generator knows which layouts hang together: its own samples have them. So from
a bank of the samples' proxy masks those are picked at random that the drawing does not contradict, the likelier the
oftener, and each one pulls the mapper's logits towards itself. Clusters that the mapper thinks unlikely at a cell
cannot be had there, so sure places do not change at all.
"""

from __future__ import annotations

import math

import torch

from sis_rearrange.tensors import assert_shape, one_hot, seeded_normal

BANK = 64  # samples whose layouts are tried
UNLIKELY = 0.05  # of the likeliest cluster's probability: what is below cannot be had (sure from 1 / 1.05 on)
NEVER = 1e3  # taken off the logits of such clusters: below all that can be had, above clusters that a look lacks
PULL = 2.0  # what a picked layout adds to the logits, at temperature 1
EVIDENCE = 20.0  # independent cells that a drawing is taken for, at temperature 1: neighbours say the same


def variations(
    logits: torch.Tensor,  # [1, K, r, r]: of a mapper
    bank: torch.Tensor,  # [B, r, r] int64: proxy masks of samples
    count: int,
    seed: int,
    temperature: float = 1.0,  # 0: no variation; more: stronger, and layouts that fit the drawing less well
    calibration: float = 1.0,  # the mapper's temperature: its probabilities are softmax(logits / calibration)
) -> torch.Tensor:
    """What to add to the logits for each of ``count`` layouts, ``[count, K, r, r]``: the arg-max of the sum is one.

    Row n does not depend on the count. Cells whose likeliest cluster has a probability of 1 / 1.05 or more keep it at
    any temperature. Raises ValueError for a negative temperature and more layouts than the bank has.
    """
    K, r = logits.shape[1], logits.shape[-1]
    assert_shape(logits, [1, None, r, r])
    assert_shape(bank, [None, r, r])
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature {temperature}: must be 0 or more")
    if not 0 <= count <= len(bank):
        raise ValueError(f"{count} layouts from a bank of {len(bank)}")
    log_probability = (logits / calibration).log_softmax(dim=1)
    if temperature == 0:
        return torch.zeros_like(logits).expand(count, -1, -1, -1)
    fit = log_probability.expand(len(bank), -1, -1, -1).gather(1, bank[:, None]).mean(dim=(1, 2, 3))
    order = (fit * (EVIDENCE / temperature) + _gumbel(seed, len(bank)).to(fit)).argsort(descending=True)
    best = log_probability.amax(dim=1, keepdim=True)
    unlikely = log_probability < best + math.log(UNLIKELY)
    pull = one_hot(bank[order[:count]], K) * (PULL * temperature * calibration)
    return pull.masked_fill(unlikely, -NEVER)


def _gumbel(seed: int, count: int) -> torch.Tensor:
    """Gumbel noise ``[count]``: scores plus it, in descending order, are drawn by softmax without replacement."""
    share = torch.special.ndtr(seeded_normal([seed], [count])[0].double()).clamp(1e-12, 1 - 1e-12)
    return -(-share.log()).log()
