"""How a step is spread: in which precision it computes, over how many micro-batches, processes and machines.

A step's batch is cut into pieces. Every process works through its own, one after the other, and multiplies each loss by
the piece's *share* of what the whole batch averages over; gradients are added up, over pieces and over processes, and
everyone makes the same update. What a step sees and does so follows from its number alone, whoever computes it.

`Scale` is one process, and exchanges nothing. `Launched` is one of several that ``accelerate launch`` started.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.sampling import pick_device
from sis_rearrange.training.stopping import Diverged

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEAST_SCALE = 2.0**-10  # of the losses in float16: where gradients overflow even then, nothing will help


def check_precision(precision: str, accumulate: int) -> None:
    """InputError for settings that make no sense, in the words of the command line."""
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if accumulate < 1:
        raise InputError(f"--accumulate {accumulate}: must be at least 1")


def largest_group(count: int, group: int) -> int:
    """The size of the groups that ``count`` pictures are in for the minibatch standard deviation: at most ``group``."""
    return next(size for size in range(min(group, count), 0, -1) if count % size == 0)


def cut(count: int, pieces: int, group: int = 1, option: str = "--batch") -> list[np.ndarray]:
    """Positions 0 to ``count - 1`` in equal ``pieces``, each ascending; InputError where they do not come out even.

    Position i forms a group with those ``count / group`` before and after it, as the discriminator has it; groups stay
    whole, and a piece of n positions is in the same groups when it stands alone. With groups of one: consecutive runs.
    """
    group = largest_group(count, group)
    columns = count // group
    if columns % pieces:
        why = f" of whole groups of {group} (minibatch standard deviation)" if group > 1 else ""
        raise InputError(
            f"{option} {count}: cannot be cut into {pieces} equal pieces{why} for so many processes and micro-batches; "
            f"use a multiple of {pieces * group}, or a smaller --accumulate"
        )
    grid = np.arange(count).reshape(group, pieces, columns // pieces)
    return [grid[:, piece].ravel() for piece in range(pieces)]


class Scale:
    """One process that does everything itself."""

    rank = 0
    processes = 1
    scaler: torch.amp.GradScaler | None = None  # of losses in float16, whose gradients would vanish

    def __init__(self, device: torch.device | None = None, precision: str = "float32", accumulate: int = 1) -> None:
        check_precision(precision, accumulate)
        self.device, self.precision, self.accumulate = device or torch.device("cpu"), precision, accumulate
        if precision == "float16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    @property
    def main(self) -> bool:
        """Whether this process writes, logs and speaks."""
        return self.rank == 0

    # ---- a batch in pieces -------------------------------------------------------------------------------------------

    def pieces(self, count: int, group: int = 1) -> list[np.ndarray]:
        """Positions in the batch of each piece of this process, see `cut`."""
        every = cut(count, self.processes * self.accumulate, group)
        return every[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]

    # ---- precision and steps -----------------------------------------------------------------------------------------

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """Convolutions and products in the chosen precision, as torch's autocast has it."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if enabled and dtype is not None else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those of the pieces before."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: torch.optim.Optimizer, number: int, clip: float | None = None) -> float | None:
        """Add the gradients of all processes up, clip their norm, and make a step; returns the norm before clipping.

        In float16 a step whose gradients overflow is left out, and the next losses are scaled less; None then, and
        where nothing is clipped. Raises Diverged, with the step's ``number``, where gradients are not finite otherwise.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        norm = None if clip is None else float(nn.utils.clip_grad_norm_(parameters, clip))
        sound = norm is None or math.isfinite(norm)
        if self.scaler is None:
            if sound:
                optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        if not sound and (self.scaler is None or self.scaler.get_scale() < LEAST_SCALE):
            raise Diverged(f"training diverged at step {number}: the gradient is not finite; lower --lr")
        return norm if sound else None

    def state(self) -> dict[str, Any]:
        """JSON-able: the scale of losses, where there is one."""
        return {} if self.scaler is None else dict(self.scaler.state_dict())

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))

    # ---- what processes tell each other ------------------------------------------------------------------------------

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over processes into each of the tensors, which have the same shapes everywhere."""

    def gather(self, rows: torch.Tensor, positions: np.ndarray, count: int) -> torch.Tensor:
        """Rows of the whole batch ``[count, ...]`` in order, from those at the ``positions`` of each process."""
        whole = rows.new_zeros(count, *rows.shape[1:])
        whole[torch.from_numpy(positions).to(rows.device)] = rows
        self.add_up([whole])
        return whole

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over processes of named numbers; every process has the same names."""
        return dict(values)

    def agree(self, numbers: Sequence[int]) -> list[int]:
        """The largest of every number over all processes."""
        return list(numbers)

    def on_main(self, work: Callable[[], bytes | None]) -> bytes:
        """Do something in the main process alone, while the others wait; all get what it returns, or its failure."""
        return work() or b""

    def tell(self, error: BaseException) -> None:
        """Let the other processes know why this one ends."""

    def synchronised(self, network: nn.Module) -> nn.Module:
        """The network, its batch normalisation made over the batches of all processes."""
        return network


ALONE = Scale()


def launched() -> bool:
    """Whether this is one of several processes. Raises InputError where several were asked for and one was started."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return True
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and "LOCAL_RANK" not in os.environ:
        raise InputError(
            "accelerate launch --cpu starts one process, whatever --num_processes says; on CPUs use "
            "accelerate launch --multi_gpu --num_processes N SCRIPT ... --device cpu"
        )
    return False


def is_main() -> bool:
    """Whether this process speaks, before there is a `Scale`."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def make_scale(device: str, precision: str, accumulate: int) -> Scale:
    """The scale of this process. ``device``: see `pick_device`; launched processes get one each, unless it is "cpu"."""
    check_precision(precision, accumulate)
    if not launched():
        return Scale(pick_device(device), precision, accumulate)
    from sis_rearrange.training.processes import Launched

    return Launched(device, precision, accumulate)


def shares(parts: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    """What the means over a piece count for in the means over the whole batch, from what each averages over."""
    return {name: count / whole[name] if whole[name] > 0 else 0.0 for name, count in parts.items()}


def added(dicts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of named numbers."""
    sums: dict[str, float] = {}
    for each in dicts:
        for name, value in each.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
