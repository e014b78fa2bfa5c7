"""Who comes next: one thread makes everything that is not a job, one step of one request at a time.

torch and the engine use all cores for one picture, so a second thread would only slow both down. Clients take turns by
step, so that nobody waits for another one's gallery. A newer request of a client that supersedes ends its older ones.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sis_rearrange.studio.refusals import Busy, Late
from sis_rearrange.studio.replies import Stale

Steps = Generator[None, None, Any]  # yields between steps, returns the reply
KNOWN_CLIENTS = 1000  # whose latest number is remembered

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Task:
    """A request that waits, or is between two of its steps."""

    client: str
    number: int
    supersedes: bool
    start: Callable[[], Steps]
    deadline: float  # on the monotonic clock
    future: Future[Any] = field(default_factory=Future)
    steps: Steps | None = None


class Scheduler:
    """A bounded queue, fair by client, and the thread that works it off."""

    def __init__(self, waiting: int, waiting_of_one: int, seconds: float) -> None:
        self._limits = waiting, waiting_of_one
        self._seconds = seconds
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[Task]] = OrderedDict()  # by client; the first one's turn
        self._running: Task | None = None
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._anonymous = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="studio-render", daemon=True)
        self._thread.start()

    def submit(
        self, start: Callable[[], Steps], client: str = "", number: int = 0, supersedes: bool = False
    ) -> Future[Any]:
        """Queue a request; the future gets its reply, its exception, `Late` or `Stale`.

        ``supersedes``: of the requests of this client that supersede, only the one with the highest number counts.
        Raises `Busy`.
        """
        client = client or f"\0{next(self._anonymous)}"
        task = Task(client, number, supersedes and client[0] != "\0", start, time.monotonic() + self._seconds)
        with self._changed:
            if task.supersedes and not self._is_newest(task):
                task.future.set_result(Stale())
                return task.future
            waiting, own = sum(map(len, self._queues.values())), len(self._queues.get(client, ()))
            if self._closed or waiting >= self._limits[0] or own >= self._limits[1]:
                raise Busy(f"busy: {waiting} requests are waiting, try again in a moment")
            self._queues.setdefault(client, deque()).append(task)
            self._changed.notify()
        return task.future

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def close(self) -> None:
        """End the thread after its present step; what waits is refused."""
        with self._changed:
            self._closed = True
            left = [task for queue in self._queues.values() for task in queue]
            self._queues.clear()
            self._changed.notify()
        for task in left:
            _finish(task, error=Busy("the server is closing"))
        self._thread.join(timeout=60)

    # ---- under the lock ----

    def _is_newest(self, task: Task) -> bool:
        """Note its number, and end older ones that wait; False where a newer one came before it."""
        if task.number < self._latest.get(task.client, 0):
            return False
        self._latest[task.client] = task.number
        self._latest.move_to_end(task.client)
        while len(self._latest) > KNOWN_CLIENTS:
            self._latest.popitem(last=False)
        queue = self._queues.get(task.client, deque())
        for old in [old for old in queue if old.supersedes]:
            queue.remove(old)
            _finish(old, Stale())
        if not queue:
            self._queues.pop(task.client, None)
        return True

    def _next(self) -> Task | None:
        """The first request of the client whose turn it is; None once closed."""
        while not self._queues:
            if self._closed:
                return None
            self._changed.wait()
        client, queue = next(iter(self._queues.items()))
        task = queue.popleft()
        self._queues.pop(client)
        if queue:
            self._queues[client] = queue  # at the end now
        return task

    def _back(self, task: Task) -> None:
        """Between two steps: to the end of the clients, before whatever else its client wants."""
        with self._changed:
            if self._closed:
                _finish(task, error=Busy("the server is closing"))
            elif task.supersedes and task.number < self._latest.get(task.client, 0):
                _finish(task, Stale())
            else:
                queue = self._queues.pop(task.client, deque())
                queue.appendleft(task)
                self._queues[task.client] = queue

    # ---- the thread ----

    def _work(self) -> None:
        while True:
            with self._changed:
                task = self._next()
            if task is None:
                return
            if task.future.cancelled():
                _end(task)
            elif time.monotonic() > task.deadline:
                _finish(task, error=Late(f"this took longer than {self._seconds:g} seconds; try again later"))
            elif self._step(task):
                self._back(task)

    def _step(self, task: Task) -> bool:
        """One step; True where more are to come."""
        try:
            if task.steps is None:
                task.steps = task.start()
            next(task.steps)
            return True
        except StopIteration as end:
            _finish(task, end.value)
        except Exception as error:  # whatever it is belongs to the one who asked
            _finish(task, error=error)
        return False


def _finish(task: Task, reply: Any = None, error: Exception | None = None) -> None:
    _end(task)
    if not task.future.set_running_or_notify_cancel():
        return
    if error is None:
        task.future.set_result(reply)
    else:
        task.future.set_exception(error)


def _end(task: Task) -> None:
    if task.steps is not None:
        task.steps.close()
