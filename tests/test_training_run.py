"""The loop that all trainings share: resume, rotation, damage, signals, divergence, memory, logs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.training.dry_run import describe
from sis_rearrange.training.memory import out_of_memory, saved_bytes
from sis_rearrange.training.run import Training, resume, run_training, save
from sis_rearrange.training.states import KEEP, stored_states
from sis_rearrange.training.stopping import Diverged, Signals, Stopped, sole_user

ROOT = Path(__file__).resolve().parent.parent


class Line(Training):
    """Fits a line by Adam; step ``n`` sees points that follow from ``n``."""

    name, batch, save_every = "line", 8, 2
    shown = ("loss", "score/slope")
    device = torch.device("cpu")

    def __init__(self, steps: int = 7, lr: float = 0.1) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.steps, self.lr, self.turns = steps, lr, 0.0

    def settings(self):
        return {"lr": self.lr}

    def parts(self):
        return {"net": self.net}, {"net": self.optimizer}

    def counters(self):
        return {"turns": self.turns}

    def set_counters(self, counters):
        self.turns = counters["turns"]

    def train_step(self):
        x = torch.randn(self.batch, 1, generator=torch.Generator().manual_seed(self.step))
        loss = (self.net(x) - 3 * x - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.turns += loss.item() / 3
        self.step += 1
        return {"loss": loss.item()}

    def score(self):
        return {"score/slope": self.net.weight.item()}

    def grid(self):
        return torch.full((3, 4, 6), 0.5)

    def first_batch(self):
        return torch.zeros(3, 4, 4)


class Ends(Line):
    """Does something once at a step."""

    def __init__(self, at: int, what) -> None:
        super().__init__()
        self.at, self.what = at, what

    def train_step(self):
        if self.step == self.at:
            self.what()
        return super().train_step()


def same(one: Line, two: Line) -> bool:
    parts = zip(one.net.state_dict().values(), two.net.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in parts) and one.counters() == two.counters()


def logged(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "stats.jsonl").read_text().splitlines()]


def test_states_are_rotated_and_named_by_what_they_hold(tmp_path):
    run_training(Line(steps=20), tmp_path)
    states = stored_states(tmp_path)
    assert [state.step for state in states] == [20, 18, 16] and len(states) == KEEP
    assert sorted(path.name for path in tmp_path.rglob("*.png"))[0] == "step-000000002.png"
    assert logged(tmp_path) == list(range(2, 21, 2))


def test_a_run_in_two_halves_is_the_whole_run(tmp_path):
    whole = Line()
    run_training(whole, tmp_path / "whole")
    run_training(Line(steps=3), tmp_path / "halves")
    second = Line()
    scores = run_training(second, tmp_path / "halves")
    assert same(whole, second) and scores["score/slope"] == whole.net.weight.item()
    assert second.seconds > 0 and scores["minutes"] == second.seconds / 60


def test_a_finished_run_is_left_as_it_is(tmp_path):
    scores = run_training(Line(), tmp_path)
    before = stored_states(tmp_path)
    assert run_training(Line(), tmp_path) == scores and stored_states(tmp_path) == before


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"!", lambda data: b""]
)
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, damage):
    run_training(Line(), tmp_path)
    newest, before = stored_states(tmp_path)[:2]
    newest.path.write_bytes(damage(newest.path.read_bytes()))
    again = Line()
    assert resume(again, tmp_path) and again.step == before.step
    said = capsys.readouterr().err
    assert newest.path.name in said and "is damaged" in said and before.path.name in said
    whole = Line()
    run_training(whole, tmp_path / "whole")
    run_training(again, tmp_path)
    assert same(whole, again) and len(set(logged(tmp_path))) == len(logged(tmp_path))
    assert list(tmp_path.rglob("*.damaged")) == [newest.path.with_suffix(".damaged")]


def test_nothing_is_started_over_where_every_state_is_damaged(tmp_path):
    run_training(Line(), tmp_path)
    for state in stored_states(tmp_path):
        state.path.write_bytes(b"x")
    for _ in range(2):  # the second time too
        with pytest.raises(InputError, match="every other state"):
            run_training(Line(), tmp_path)


def test_another_machine_is_told(tmp_path, capsys, monkeypatch):
    save(Line(), tmp_path)
    resume(Line(), tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch, "__version__", "9.9")
    resume(Line(), tmp_path)
    assert "torch " in (said := capsys.readouterr().err) and "9.9 now" in said and "no longer to the bit" in said


def test_other_settings_and_old_folders_are_refused(tmp_path):
    save(Line(), tmp_path)
    with pytest.raises(InputError, match=r"other settings \(lr\)"):
        resume(Line(lr=0.2), tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"version 0\.1"):
        resume(Line(), tmp_path / "old")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(tmp_path, signum, code):
    with pytest.raises(Stopped, match=r"stopped at step 4 of 7, saved in .*step-000000004") as stopped:
        run_training(Ends(3, lambda: os.kill(os.getpid(), signum)), tmp_path)
    assert stopped.value.exit_code == code and "\n" not in str(stopped.value)
    whole, rest = Line(), Line()
    run_training(whole, tmp_path / "whole")
    run_training(rest, tmp_path)
    assert same(whole, rest)


def test_a_second_interrupt_is_obeyed_at_once_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_divergence_names_the_last_good_state(tmp_path):
    training = Ends(5, lambda: training.net.weight.data.fill_(float("nan")))
    with pytest.raises(Diverged, match=r"loss not finite; lower --lr .*last good state is .*step-000000004"):
        run_training(training, tmp_path)
    assert stored_states(tmp_path)[0].step == 4
    training = Ends(0, lambda: training.net.weight.data.fill_(float("nan")))
    with pytest.raises(Diverged, match="no state was saved"):
        run_training(training, tmp_path / "other")


def test_lack_of_memory_names_the_option_that_helps(tmp_path):
    with pytest.raises(InputError, match=r"out of memory at step 1, batch 8: lower --batch") as error:
        run_training(Ends(1, lambda: torch.empty(2**60)), tmp_path)
    assert out_of_memory(error.value.__cause__) and not out_of_memory(RuntimeError("shapes differ"))


def test_other_errors_keep_their_traceback(tmp_path):
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_training(Ends(1, fail), tmp_path)


def test_a_run_folder_has_one_user(tmp_path):
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / ".0123.tmp").write_bytes(b"half a state")
    with sole_user(tmp_path):
        assert not list(tmp_path.rglob("*.tmp"))
        with pytest.raises(InputError, match="another training writes into it"):
            run_training(Line(), tmp_path)
    with sole_user(tmp_path):
        pass


def test_what_a_killed_run_logged_too_far_is_taken_back(tmp_path):
    run_training(Line(steps=4), tmp_path)
    with open(tmp_path / "stats.jsonl", "a") as log:
        log.write('{"step": 6, "loss": 1}\n{"step": 6, "lo')
    run_training(Line(), tmp_path)
    assert logged(tmp_path) == [2, 4, 6, 7]


def test_console_lines_tell_how_far_and_how_fast(tmp_path, capsys):
    run_training(Line(), tmp_path, tick=0)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert len(lines) == 7
    pattern = (
        r"step 4 of 7  kimg 0\.03 of 0\.06  [\d.]+ images/s  \d\d:\d\d to go  [\d.]+ GiB  loss [\d.e-]+  slope [\d.-]+"
    )
    assert re.fullmatch(pattern, lines[3]), lines[3]


def test_tensorboard_gets_curves_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(Line(), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 7]
    assert [event.step for event in events.Images("samples")] == [2, 4, 6, 7]


def test_a_dry_run_tells_sizes_and_trains_nothing(tmp_path):
    lines = describe(Line(), tmp_path)
    assert json.loads(lines[0]) == {"lr": 0.1}
    text = "\n".join(lines[1:])
    assert "steps: 7 of 8 images" in text and "net: 2 parameters" in text and "memory: " in text
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch.png"]
    with Image.open(tmp_path / "first_batch.png") as picture:
        assert picture.size == (4, 4)


def test_activations_are_counted():
    layer, x = nn.Linear(16, 8), torch.randn(4, 16)
    assert saved_bytes(lambda: layer(x).exp().sum().backward(), [layer]) == 4 * (x.numel() + 4 * 8)


def test_random_kills_lose_nothing(tmp_path):
    """A few; ``python tests/kill_training.py`` does more."""
    script = [sys.executable, str(ROOT / "tests" / "kill_training.py"), "--kills", "4"]
    done = subprocess.run(
        script, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0 and "all equal to the bit" in done.stdout, done.stdout + done.stderr
