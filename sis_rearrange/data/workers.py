"""Work spread over processes, with results in the order of the jobs and a bounded number of bytes under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from sis_rearrange.data.decoding import Refused
from sis_rearrange.errors import InputError

AHEAD = 4  # jobs under way per worker
MAX_BYTES = 2**29  # of all jobs under way

Tag = TypeVar("Tag")
Result = TypeVar("Result")


def in_order(
    function: Callable[[bytes], Result],  # of a module, so that processes find it
    jobs: Iterable[tuple[Tag, bytes | Refused]],  # refused ones come out as they are
    workers: int,  # processes; 0 or 1: this one
) -> Generator[tuple[Tag, Result | Refused], None, None]:
    """(tag, result) of every job, in the jobs' order. Raises InputError where a process was killed."""
    if workers <= 1:
        for tag, job in jobs:
            yield tag, job if isinstance(job, Refused) else function(job)
        return
    waiting: deque[tuple[Tag, Future[Result] | Refused, int]] = deque()  # and the bytes of the job
    held = 0
    pool = _pool(workers)
    try:
        for tag, job in jobs:
            while waiting and (len(waiting) >= AHEAD * workers or held > MAX_BYTES):
                first, made, size = waiting.popleft()
                held -= size
                yield first, made if isinstance(made, Refused) else made.result()
            if isinstance(job, Refused):
                waiting.append((tag, job, 0))
            else:
                waiting.append((tag, _submit(pool, function, job), len(job)))
                held += len(job)
        for first, made, _ in waiting:
            yield first, made if isinstance(made, Refused) else made.result()
    except BrokenProcessPool:
        raise InputError("a worker process was killed, perhaps for want of memory; give fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # as in domains.base: fork starts at once, and the workers touch neither torch nor OpenMP
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),))


def _submit(pool: ProcessPoolExecutor, function: Callable[[bytes], Result], job: bytes) -> Future[Result]:
    with warnings.catch_warnings():  # the first one forks
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return pool.submit(function, job)


def _begin(parent: int) -> None:
    """Ctrl-C is the parent's to handle; a worker ends with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
