"""Throughput of trainings and the arithmetic of the estimates, at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import scale_estimates
import throughput
import torch
import torch.nn as nn
from pairs import row_cells
from scale_estimates import Cost
from torch._subclasses.fake_tensor import FakeTensorMode
from works import WORKS

from sis_rearrange.training.run import Training

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"


class Sleeps(Training):
    """Takes as long as it is told, a share of it waiting."""

    name, batch, device = "sleeps", 4, torch.device("cpu")

    def __init__(self, seconds: float, log: list) -> None:
        self.seconds_each, self.log = seconds, log

    def settings(self):
        return {}

    def parts(self):
        return {}, {}

    def train_step(self):
        import time

        time.sleep(self.seconds_each)
        self.log.append(self.seconds_each)
        return {"waiting": 0.25}


def test_half_the_time_is_twice_the_images():
    log: list[float] = []
    row = throughput.speed_row("w", {"slow": Sleeps(0.04, log), "fast": Sleeps(0.02, log)}, steps=4)
    assert row.ratio == pytest.approx(2, rel=0.35) and row.low <= row.ratio <= row.high and row.rounds == 4
    assert row.baseline_value <= 100 and row.ours_value <= 200 and row_cells(row)[1].endswith("images/s")
    assert log[:4] == [0.04, 0.02, 0.02, 0.04] and len(log) == 2 * (4 + throughput.WARM_UP)


def test_every_training_has_a_row():
    assert {"train-rearranger", "train-mapper", "train-generator"} <= set(WORKS)


def test_arithmetic_and_activations_are_counted():
    with FakeTensorMode():
        layer, x = nn.Linear(8, 16, bias=False), torch.empty(32, 8)
        flops, kept = scale_estimates.counted(lambda: layer(x).square().sum())
    forward = 2 * 32 * 8 * 16
    assert flops == 2 * forward  # and the gradient of the weights; the input needs none
    assert kept == 4 * (32 * 8 + 32 * 16)


def test_more_processes_take_less_time_and_memory():
    cost = Cost(flops=1e12, kept=4 * 2**30, fixed=2**30, gradients=2e8)
    one, eight = (scale_estimates.days("generator", cost, 32, gpus) for gpus in (1, 8))
    assert one == pytest.approx(25_000_000 / 60 / 86_400) and one / 8 < eight < one / 5
    assert scale_estimates.memory(cost, 32, 8, 1) == pytest.approx(1 + 8)
    assert scale_estimates.accumulation(cost, 32, 8) == 1
    pieces = scale_estimates.accumulation(cost, 64, 1)
    assert pieces == 2 and scale_estimates.memory(cost, 64, 1, pieces) < 70


def test_the_page_has_an_estimate_for_every_size_and_says_that_it_is_one():
    text = PAGE.read_text()
    assert "**estimates**" in text and "nothing on this page has been measured" in " ".join(text.split())
    for training in scale_estimates.COSTS:
        for resolution in scale_estimates.TAPS:
            for gpus in scale_estimates.GPUS:
                assert f"| {training} | {resolution} | {gpus} |" in text
