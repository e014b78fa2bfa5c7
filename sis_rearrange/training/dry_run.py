"""What a training would do: settings, sizes, memory, and what its first step sees, as a picture."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from sis_rearrange.training.run import Training
from sis_rearrange.training.watching import write_grid

FIRST_BATCH = "first_batch.png"
_COPIES = 4  # of a trained number: itself, its gradient, two moments of Adam


def describe(training: Training, run: Path) -> list[str]:
    """Lines for people. Writes ``first_batch.png`` into the run folder; uses the training up.

    Memory is what the process will hold at least: networks, optimisers, and the activations that a step keeps for its
    gradients, counted while they are made.
    """
    with closing(training):  # also where a picture cannot be read: its workers would keep the process from ending
        return _lines(training, run)


def _lines(training: Training, run: Path) -> list[str]:
    lines = [json.dumps(training.settings(), indent=2, sort_keys=True)]
    lines += [f"steps: {training.steps:,} of {training.batch} images ({training.steps * training.batch / 1000:g} kimg)"]
    modules, optimizers = training.parts()
    for name, module in modules.items():
        lines.append(f"{name}: {sum(p.numel() for p in module.parameters()):,} parameters")
    picture = training.first_batch()
    if picture is not None:
        write_grid(run / FIRST_BATCH, picture)
        lines.append(f"first batch: {run / FIRST_BATCH}")
    trained = sum(p.numel() for each in optimizers.values() for group in each.param_groups for p in group["params"])
    held = {id(p): p.numel() for module in modules.values() for p in (*module.parameters(), *module.buffers())}
    weights = 4 * (sum(held.values()) + (_COPIES - 1) * trained)
    activations = training.activation_bytes()
    lines.append(f"memory: {weights / 2**20:.0f} MiB of networks and optimisers, about {activations / 2**20:.0f} MiB")
    lines[-1] += f" of activations at batch {training.batch}, and what torch itself takes"
    return lines
