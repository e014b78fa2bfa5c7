"""Trainings by two processes of which one meets with something; says how both ended. One line of JSON per case.

    python tests/two_processes.py FOLDER

The processes are forked, so that torch is imported once, with the environment that ``accelerate launch`` gives them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from sis_rearrange.errors import InputError
from sis_rearrange.training.run import Training, run_training
from sis_rearrange.training.scale import Scale
from sis_rearrange.training.states import stored_states
from sis_rearrange.training.stopping import Stopped

FAULT_AT = 3  # the step at which something happens to the second process
CASES = ("nothing", "an error", "SIGKILL", "SIGTERM", "NaN")


class Line(Training):
    """Fits a line; step ``n`` sees points that follow from ``n``, of which each process takes its share."""

    name, steps, batch, save_every, device = "line", 6, 8, 2, torch.device("cpu")

    def __init__(self, scale: Scale, fault: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.scale, self.fault = scale, fault

    def settings(self):
        return {}

    def parts(self):
        return {"net": self.net}, {"net": self.optimizer}

    def train_step(self):
        every = torch.randn(self.batch, 1, generator=torch.Generator().manual_seed(self.step))
        x = every[torch.from_numpy(np.concatenate(self.scale.pieces(self.batch)))]
        if self.scale.rank == 1 and self.step == FAULT_AT:
            if self.fault == "an error":
                raise InputError("picture 7 cannot be read")
            if self.fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.fault))
            x = x * float(self.fault) if self.fault == "NaN" else x
        loss = (self.net(x) - 3 * x - 1).square().mean() * (len(x) / self.batch)
        self.optimizer.zero_grad()
        self.scale.backward(loss)
        self.scale.step(self.optimizer, self.step, clip=5.0)
        self.step += 1
        return self.scale.total({"loss": loss.item()})


def process(rank: int, port: int, run: Path, fault: str, said: Path) -> int:
    """One of the two, in a process of its own; its exit code is the training script's."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        from sis_rearrange.training.processes import Launched

        run_training(Line(Launched("cpu", timeout=timedelta(seconds=60)), fault), run)
        code = 0
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        code = stopped.exit_code
    except InputError as error:
        print(error, file=sys.stderr)
        code = 2
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main(folder: Path) -> None:
    """Every case, in order."""
    import accelerate  # noqa: F401 (once here instead of in every process)
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    for case in CASES:
        run, port, started = folder / case.replace(" ", "-"), free_port(), time.monotonic()
        said = [folder / f"said-{rank}" for rank in range(2)]
        children = [process(rank, port, run, case, said[rank]) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        texts = [[line for line in path.read_text().splitlines() if line.strip()] for path in said]
        steps = [state.step for state in stored_states(run)]
        ended = {"case": case, "codes": codes, "said": texts, "steps": steps, "seconds": time.monotonic() - started}
        print(json.dumps(ended), flush=True)
        for path in said:
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
