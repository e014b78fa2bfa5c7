"""Long jobs, one after the other, in a process of their own: its memory is its own, and it can be ended at any moment.

The process starts with the first job, stays for the next ones, and goes when there is nothing to do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sis_rearrange.studio.refusals import Busy, Gone
from sis_rearrange.studio.replies import JobState
from sis_rearrange.studio.store import Entry, Store

IDLE_SECONDS = 120.0  # after which the process goes
FINISHED = 32  # jobs that can still be asked about
PER_PROCESS = 20  # jobs, then a new process: whatever a library keeps does not add up
BUG = "this job failed by a mistake of the program's; its log says more"

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """One job from the request to the reply."""

    entry: Entry  # its token, and a folder for its files
    task: dict[str, Any]
    finish: Callable[[dict[str, Any]], Any]  # what the worker returned -> reply; keeps what is to be kept
    state: str = "queued"
    fraction: float = 0.0
    message: str = "waiting"
    started: float = 0.0
    reply: Any = None
    ended: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The queue of jobs, and the thread that minds the process."""

    def __init__(self, store: Store, most: int, seconds: float) -> None:
        self._store, self._most, self._seconds = store, most, seconds
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}  # in the order in which they came
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._served = 0
        self._thread = threading.Thread(target=self._work, name="studio-jobs", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """Raise `Busy` where no further job is taken."""
        waiting = sum(job.state in ("queued", "running") for job in self._jobs.values())
        if waiting >= self._most:
            raise Busy(f"busy: {waiting} jobs are waiting, try again in some minutes")

    def add(self, entry: Entry, task: dict[str, Any], finish: Callable[[dict[str, Any]], Any]) -> str:
        """Queue a job whose files lie in the folder of ``entry``; returns its id. Raises `Busy`."""
        job = Job(entry, task, finish)
        with self._lock:
            try:
                self.check_room()
            except Busy:
                self._store.remove(entry.token)
                raise
            for old in [job for job in self._jobs.values() if job.ended.is_set()][: -FINISHED or None]:
                self._forget(old)
            self._jobs[entry.token] = job
        self._queue.put(job)
        return entry.token

    def state(self, token: str) -> JobState:
        """How far a job is. `Gone` for an unknown one."""
        job = self._find(token)
        self._store.get(token, "job")
        elapsed, eta = time.monotonic() - job.started, None
        if job.state == "running" and job.fraction > 0.02 and elapsed > 2:
            eta = round(elapsed * (1 - job.fraction) / job.fraction, 1)
        ids = list(self._jobs.values())
        before = sum(other.state in ("queued", "running") for other in ids[: ids.index(job)])
        return JobState(token, job.state, round(job.fraction, 4), job.message, eta, before, job.reply)

    def cancel(self, token: str) -> JobState:
        """End a job, whether it runs or waits; one that has ended stays as it is."""
        job = self._find(token)
        with self._lock:
            if not job.ended.is_set():
                running, job.state, job.message = job.state == "running", "cancelled", "cancelled"
                if running:
                    self._kill()
        if job.started:
            job.ended.wait(timeout=10)
        return self.state(token)

    def close(self) -> None:
        """End everything."""
        with self._lock:
            for job in self._jobs.values():
                if not job.ended.is_set():
                    job.state, job.message = "cancelled", "the server is closing"
            self._kill()
        self._queue.put(None)
        self._thread.join(timeout=20)

    def _find(self, token: str) -> Job:
        job = self._jobs.get(token)
        if job is None:
            raise Gone("this job is not known here, or has expired")
        return job

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.entry.token, None)
        self._store.remove(job.entry.token)

    # ---- the thread ----

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    self._kill()
                continue
            if job is None:
                return
            if job.state == "queued":
                self._run(job)
            job.task = {}
            shutil.rmtree(job.entry.folder, ignore_errors=True)
            job.ended.set()

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.state != "queued":
                return
            job.state, job.message, job.started = "running", "starting", time.monotonic()
            process = self._ready()
        late = threading.Timer(self._seconds, self._time_out, [job, process])
        late.daemon = True
        late.start()
        try:
            last = self._talk(job, process)
            if job.state == "running":
                self._end(job, last)
        except Busy as error:  # no room for what was made
            job.state, job.message = "failed", str(error)
        except Exception:
            _log.exception("studio job %s", job.task.get("kind"))
            if job.state == "running":
                job.state, job.message = "failed", BUG
        finally:
            late.cancel()
            if process.poll() is not None:
                _close_pipes(process)

    def _talk(self, job: Job, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Hand the task over and follow its progress; the last line, {} where the process ended before it."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job.task) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                said: dict[str, Any] = json.loads(line)
                if "fraction" not in said:
                    return said
                if job.state == "running":
                    job.fraction, job.message = float(said["fraction"]), str(said["message"])
        except (BrokenPipeError, ValueError):
            pass
        return {}

    def _end(self, job: Job, last: dict[str, Any]) -> None:
        if "done" in last:
            reply = job.finish(last["done"])
            job.reply, job.fraction, job.message, job.state = reply, 1.0, "done", "done"
            return
        job.message = last.get("failed") or BUG
        job.state = "failed"
        if not last:
            with self._lock:
                self._kill()

    def _time_out(self, job: Job, process: subprocess.Popen[str]) -> None:
        with self._lock:
            if job.state == "running" and self._process is process:
                job.state, job.message = "failed", f"this job took longer than {self._seconds / 60:.0f} minutes"
                self._kill()

    # ---- the process, under the lock ----

    def _ready(self) -> subprocess.Popen[str]:
        if self._process is not None and (self._process.poll() is not None or self._served >= PER_PROCESS):
            self._kill()
        if self._process is None:
            self._served = 0
            command = [sys.executable, "-m", "sis_rearrange.studio.worker"]
            # threads that wait for each other must not keep the cores from the thread that draws
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            self._process = subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is the server's alone
            )
        self._served += 1
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()


def _close_pipes(process: subprocess.Popen[str]) -> None:
    """Of a process that has ended, in the thread that reads them."""
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, AttributeError):
            stream.close()  # type: ignore[union-attr]
