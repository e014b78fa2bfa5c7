"""How a training ends before its time: signals, a folder in use, numbers that are none."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from sis_rearrange.errors import InputError

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Diverged(InputError):
    """A loss or a gradient is not finite. The message says where, and what usually helps."""


class Elsewhere(InputError):
    """Another process of this training failed or is gone; nothing is wrong with this one."""


class Lost(Elsewhere):
    """Another process does not answer, and may not have told anybody why."""


class Stopped(Exception):
    """A signal ended the training after its state was saved; ``exit_code`` is the shell's for that signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = _EXIT_CODES.get(signal.Signals(signum), 1)


class Signals:
    """While open, SIGTERM and Ctrl-C are noted in ``caught`` instead of obeyed; a second Ctrl-C is obeyed at once."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = signum

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for signum in _EXIT_CODES:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def sole_user(run: Path) -> Iterator[None]:
    """Hold the run folder for this process; InputError where another training writes into it.

    The lock goes with the process, however that ends. Files that a killed process was writing are removed.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with open(run / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run}: another training writes into it; stop that or choose another folder") from None
        for rest in run.rglob(".*.tmp"):
            with contextlib.suppress(OSError):
                rest.unlink()
        yield
