"""One of several processes of a training, started by ``accelerate launch``.

Accelerate starts the processes, gives each its device, and carries tensors between them. Before anything is exchanged
the processes meet: each says whether it is well. One that failed says so once, and all of them end with its reason
instead of waiting for it. One that is gone for good shows in a broken connection, or in `TIMEOUT`.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn

from sis_rearrange.errors import InputError, one_line
from sis_rearrange.training.scale import PRECISIONS, Scale, check_precision
from sis_rearrange.training.stopping import Elsewhere, Lost

TIMEOUT = timedelta(minutes=30)  # of waiting for the others: the main process scores and saves meanwhile
BUCKET = 25_000_000  # numbers of the gradients that travel together
_MESSAGE = 1000  # bytes of a failure's reason
_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # of precisions, in accelerate


class Launched(Scale):
    """A process that has others beside it; `main` is the first."""

    def __init__(
        self,
        device: str,  # "auto": the one that accelerate gives this process; "cpu": that
        precision: str = "float32",
        accumulate: int = 1,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        check_precision(precision, accumulate)
        _check_launch(device, precision)
        try:
            self._accelerator = Accelerator(
                cpu=device == "cpu",
                mixed_precision=_NAMES[precision],
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
            )
        except ValueError as error:  # float16 without a GPU, for one
            raise InputError(f"--precision {precision} --device {device}: {one_line(error)}") from None
        self.device, self.precision, self.accumulate = self._accelerator.device, precision, accumulate
        self.rank, self.processes = self._accelerator.process_index, self._accelerator.num_processes
        self.scaler = self._accelerator.scaler
        self._timeout, self._told = timeout, False
        # What processes say about themselves is on the host, and must arrive while a device is stuck
        self._talk: Any = dist.new_group(backend="gloo", timeout=timeout)
        atexit.register(_leave)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """As `Scale`, by accelerate."""
        low = enabled and PRECISIONS[self.precision] is not None
        return self._accelerator.autocast() if low else nullcontext()

    # ---- tensors -----------------------------------------------------------------------------------------------------

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """As `Scale`. All of one kind and device; they travel in buckets."""
        self._meet()
        with self._connected():
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                flat = self._accelerator.reduce(flat, reduction="sum")
                parts = flat.split([tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """As `Scale`, in double precision."""
        self._meet()
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        with self._connected():
            dist.all_reduce(sums, group=self._talk)
        return dict(zip(values, sums.tolist(), strict=True))

    # ---- words -------------------------------------------------------------------------------------------------------

    def agree(self, numbers: Sequence[int]) -> list[int]:
        """As `Scale`."""
        self._meet()
        largest = torch.tensor(list(numbers), dtype=torch.int64)
        with self._connected():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._talk)
        return [int(number) for number in largest]

    def on_main(self, work: Callable[[], bytes | None]) -> bytes:
        """As `Scale`."""
        data = b""
        if self.main:
            try:
                data = work() or b""
            except Exception as error:
                self.tell(error)
                raise
        self._meet()
        (size,) = self.agree([len(data)])
        if size == 0:
            return b""
        sent = torch.zeros(size, dtype=torch.uint8)
        if self.main:
            sent.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        with self._connected():
            dist.broadcast(sent, 0, group=self._talk)
        return sent.numpy().tobytes()

    def tell(self, error: BaseException) -> None:
        """As `Scale`; a process tells once, and nothing where the others know already."""
        if not self._told and not isinstance(error, Elsewhere):
            self._told = True
            self._meet(error)

    def _meet(self, error: BaseException | None = None) -> None:
        """Wait for the others; Elsewhere where one of them has failed."""
        failed = torch.tensor([0 if error is None else self.rank + 1])
        with self._connected():
            dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=self._talk)
            if not failed:
                return
            who, words = int(failed) - 1, torch.zeros(_MESSAGE, dtype=torch.uint8)
            if who == self.rank and error is not None:
                reason = one_line(error, _MESSAGE).encode()[:_MESSAGE]
                words[: len(reason)] = torch.frombuffer(bytearray(reason), dtype=torch.uint8)
            dist.broadcast(words, who, group=self._talk)
        if error is None:
            self._told = True
            reason = words.numpy().tobytes().rstrip(b"\0")
            raise Elsewhere(f"process {who + 1} of {self.processes} failed: {reason.decode(errors='replace')}")

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Exchange something; Lost where that fails. Who is lost then ends at once, which the next one notices."""
        try:
            yield
        except Elsewhere:
            raise
        except RuntimeError as error:
            self._told = True
            gone = f"process {2 - self.rank}" if self.processes == 2 else "another process"
            raise Lost(
                f"process {self.rank + 1} of {self.processes}: {gone} is gone or did not answer in {self._timeout} "
                f"({one_line(error, 200)}); the same command goes on from the last state"
            ) from None

    # ---- batch normalisation -----------------------------------------------------------------------------------------

    def synchronised(self, network: nn.Module) -> nn.Module:
        """As `Scale`; changes the network, whose state keeps its names."""
        for name, child in network.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(network, name, _GlobalBatchNorm(child, self))
            else:
                self.synchronised(child)
        return network


class _GlobalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the mean and variance over the batches of all processes; on any device."""

    def __init__(self, local: nn.BatchNorm2d, scale: Launched) -> None:
        super().__init__(local.num_features, local.eps, local.momentum, local.affine, local.track_running_stats)
        self.weight, self.bias = local.weight, local.bias
        self.running_mean, self.running_var = local.running_mean, local.running_var
        self.num_batches_tracked = local.num_batches_tracked
        self.train(local.training)
        self._scale = [scale]  # in a list: no part of the network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, C, H, W]``, N different in every process if need be."""
        if not self.training:
            return super().forward(x)
        (scale,) = self._scale
        wide = x.float()
        count = wide.new_tensor([x.numel() // x.shape[1]])
        *sums, count = _AddUp.apply(scale, torch.cat([wide.sum(dim=(0, 2, 3)), count])).split([x.shape[1], 1])
        mean = sums[0] / count
        centred = wide - mean[None, :, None, None]
        variance = _AddUp.apply(scale, centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), momentum)
            self.num_batches_tracked.add_(1)
        normal = centred * (variance + self.eps).rsqrt()[None, :, None, None]
        return (normal * self.weight[None, :, None, None] + self.bias[None, :, None, None]).to(x.dtype)


class _AddUp(torch.autograd.Function):
    """The sum over processes, of which every process uses the whole: its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, scale: Launched, part: torch.Tensor) -> torch.Tensor:
        context.scale = scale
        whole = part.clone()
        scale.add_up([whole])
        return whole

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        (gradient,) = gradients
        whole = gradient.clone()
        context.scale.add_up([whole])
        return None, whole


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _check_launch(device: str, precision: str) -> None:
    if device not in ("auto", "cpu"):
        raise InputError(f"--device {device}: accelerate gives every process its own; use auto, or cpu")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", _NAMES[precision]):
        raise InputError(f"accelerate launch --mixed_precision {asked}: give the precision to the script (--precision)")
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise InputError("accelerate launch --gradient_accumulation_steps: give --accumulate to the script")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
