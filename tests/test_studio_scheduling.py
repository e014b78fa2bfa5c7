"""The thread that draws: order, latest wins, bounds, time limits."""

from __future__ import annotations

import threading
import time

import pytest

from sis_rearrange.studio.refusals import Busy, Late
from sis_rearrange.studio.replies import Stale
from sis_rearrange.studio.scheduling import Scheduler


class Desk:
    """A scheduler whose thread can be held up, and what its steps did."""

    def __init__(self, waiting=10, waiting_of_one=5, seconds=20.0):
        self.scheduler = Scheduler(waiting, waiting_of_one, seconds)
        self.done: list[str] = []
        self.gate, self.held = threading.Event(), threading.Event()

    def hold(self):
        """Occupy the thread until `free`."""

        def steps():
            self.held.set()
            assert self.gate.wait(20)
            return "held"
            yield

        future = self.scheduler.submit(steps, "holder")
        assert self.held.wait(20)
        return future

    def free(self):
        self.gate.set()

    def work(self, name, count=1, wait=0.0):
        def steps():
            for number in range(count):
                self.done.append(f"{name}{number}" if count > 1 else name)
                time.sleep(wait)
                if number < count - 1:
                    yield
            return name

        return steps


@pytest.fixture
def desk():
    found = Desk()
    yield found
    found.free()
    found.scheduler.close()


def test_a_reply_comes_back(desk):
    assert desk.scheduler.submit(desk.work("a", 3)).result(20) == "a"
    assert desk.done == ["a0", "a1", "a2"]


def test_an_error_comes_back_and_the_next_goes_on(desk):
    def broken():
        raise ValueError("no")
        yield

    with pytest.raises(ValueError, match="no"):
        desk.scheduler.submit(broken).result(20)
    assert desk.scheduler.submit(desk.work("a")).result(20) == "a"


def test_the_latest_drawing_wins(desk):
    desk.hold()
    submit = desk.scheduler.submit
    old = [submit(desk.work(f"old{n}"), "me", n, True) for n in (1, 2)]
    other = submit(desk.work("other"), "you", 1, True)
    new = submit(desk.work("new"), "me", 3, True)
    assert all(future.result(0) == Stale() for future in old), "at once, while the thread is still busy"
    desk.free()
    assert new.result(20) == "new" and other.result(20) == "other"
    assert sorted(desk.done) == ["new", "other"]


def test_one_that_comes_after_a_newer_is_stale(desk):
    submit = desk.scheduler.submit
    assert submit(desk.work("new"), "me", 5, True).result(20) == "new"
    assert submit(desk.work("late"), "me", 4, True).result(20) == Stale()
    assert submit(desk.work("next"), "me", 6, True).result(20) == "next"


def test_what_does_not_supersede_stays(desk):
    desk.hold()
    submit = desk.scheduler.submit
    gallery = submit(desk.work("gallery"), "me", 1)
    drawing = submit(desk.work("drawing"), "me", 2, True)
    desk.free()
    assert gallery.result(20) == "gallery" and drawing.result(20) == "drawing"


def test_requests_without_a_client_never_supersede(desk):
    desk.hold()
    futures = [desk.scheduler.submit(desk.work(f"{n}"), "", n, True) for n in range(4)]
    desk.free()
    assert [future.result(20) for future in futures] == ["0", "1", "2", "3"]


def test_between_its_steps_a_newer_one_ends_an_older(desk):
    started = threading.Event()

    def steps():
        started.set()
        for _ in range(1000):
            time.sleep(0.005)
            yield
        return "old"

    old = desk.scheduler.submit(steps, "me", 1, True)
    assert started.wait(20)
    assert desk.scheduler.submit(desk.work("new"), "me", 2, True).result(20) == "new"
    assert old.result(20) == Stale()


def test_clients_take_turns(desk):
    desk.hold()
    gallery = desk.scheduler.submit(desk.work("gallery", 5), "slow")
    second = desk.scheduler.submit(desk.work("second"), "slow")
    quick = desk.scheduler.submit(desk.work("quick"), "quick")
    desk.free()
    for future in (gallery, second, quick):
        future.result(20)
    assert desk.done[:2] == ["gallery0", "quick"], "nobody waits for another one's gallery"
    assert desk.done[-1] == "second", "one client's own requests come in order"


def test_the_queue_is_bounded():
    desk = Desk(waiting=4, waiting_of_one=3)
    try:
        desk.hold()
        futures = [desk.scheduler.submit(desk.work(f"{n}"), "a") for n in range(3)]
        with pytest.raises(Busy, match="busy: 3 requests are waiting, try again in a moment"):
            desk.scheduler.submit(desk.work("more"), "a")
        futures.append(desk.scheduler.submit(desk.work("b"), "b"))
        with pytest.raises(Busy, match="busy: 4 requests"):
            desk.scheduler.submit(desk.work("c"), "c")
        desk.free()
        assert [future.result(20) for future in futures] == ["0", "1", "2", "b"]
        assert desk.scheduler.waiting == 0
    finally:
        desk.free()
        desk.scheduler.close()


def test_drawing_on_needs_no_second_place_in_the_queue():
    desk = Desk(waiting=2, waiting_of_one=1)
    try:
        desk.hold()
        futures = [desk.scheduler.submit(desk.work(f"{n}"), "me", n, True) for n in range(50)]
        desk.free()
        assert futures[-1].result(20) == "49" and all(f.result(0) == Stale() for f in futures[:-1])
    finally:
        desk.free()
        desk.scheduler.close()


def test_what_waited_too_long_is_refused():
    desk = Desk(seconds=0.05)
    try:
        desk.hold()
        late = desk.scheduler.submit(desk.work("late"), "a")
        time.sleep(0.1)
        desk.free()
        with pytest.raises(Late, match=r"longer than 0.05 seconds"):
            late.result(20)
        assert desk.done == []
    finally:
        desk.free()
        desk.scheduler.close()


def test_a_long_one_ends_between_steps():
    desk = Desk(seconds=0.1)
    try:
        with pytest.raises(Late):
            desk.scheduler.submit(desk.work("long", 1000, wait=0.01), "a").result(20)
        assert len(desk.done) < 100
    finally:
        desk.scheduler.close()


def test_one_that_nobody_waits_for_is_left_out(desk):
    desk.hold()
    abandoned = desk.scheduler.submit(desk.work("abandoned"), "a")
    assert abandoned.cancel()
    desk.free()
    assert desk.scheduler.submit(desk.work("next"), "b").result(20) == "next"
    assert desk.done == ["next"]


def test_closing_refuses_what_waits():
    desk = Desk()
    holder = desk.hold()
    waiting = desk.scheduler.submit(desk.work("a"), "a")
    closing = threading.Thread(target=desk.scheduler.close)
    closing.start()
    with pytest.raises(Busy, match="closing"):
        waiting.result(20)
    desk.free()
    closing.join(20)
    assert holder.result(20) == "held"
    with pytest.raises(Busy):
        desk.scheduler.submit(desk.work("b"), "b")
