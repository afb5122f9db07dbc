from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from resprout.runner import Runner, Step, Worker
from stream.spec import Waiting


@dataclass(frozen=True)
class Stepped:
    count: int
    events: int = 1
    waiting_for: Waiting | None = None
    done: bool = False


@dataclass
class Counter:
    """Counts its steps to ``last``; raises on the way where told to."""

    last: int
    fails_at: int | None = None
    count: int = 0
    closed_at: list[int] = field(default_factory=list)

    def step(self) -> Step:
        self.count += 1
        if self.count == self.fails_at:
            raise ArithmeticError(f"fault at {self.count}")
        return Stepped(self.count, done=self.count == self.last)

    def close(self) -> None:
        self.closed_at.append(self.count)

    def worker(self, name: str) -> Worker:
        return Worker(name, self.step, self.close)


def test_every_worker_is_stepped_to_its_end_and_closed() -> None:
    one, two = Counter(5), Counter(9)
    assert Runner([one.worker("one"), two.worker("two")]).run()
    assert (one.closed_at, two.closed_at) == ([5], [9])


def test_every_step_is_observed_under_its_workers_name() -> None:
    seen: list[tuple[str, int]] = []
    Runner([Counter(3).worker("one")], lambda name, step: seen.append((name, step.count))).run()
    assert seen == [("one", 1), ("one", 2), ("one", 3)]


def test_a_fault_stops_all_and_names_its_worker() -> None:
    endless, faulty = Counter(-1), Counter(-1, fails_at=3)
    with pytest.raises(ArithmeticError, match="fault at 3") as caught:
        Runner([endless.worker("endless"), faulty.worker("faulty")]).run()
    assert caught.value.__notes__ == ["in worker 'faulty'"]
    assert endless.closed_at == [endless.count]


def test_a_worker_that_failed_is_not_closed() -> None:
    faulty = Counter(-1, fails_at=1)
    with pytest.raises(ArithmeticError, match="fault at 1"):
        Runner([faulty.worker("faulty")]).run()
    assert faulty.closed_at == []


def test_what_an_observer_raises_ends_the_run() -> None:
    def refuse(_: str, step: Step) -> None:
        if step.count == 4:
            raise RuntimeError("seen enough")

    endless = Counter(-1)
    with pytest.raises(RuntimeError, match="seen enough"):
        Runner([endless.worker("endless")], refuse).run()
    assert endless.count == 4


def test_a_stop_lets_the_step_finish_and_is_not_the_end_of_the_work() -> None:
    stop, endless = threading.Event(), Counter(-1)

    def stop_at_seven(_: str, step: Step) -> None:
        if step.count == 7:
            stop.set()

    assert not Runner([endless.worker("endless")], stop_at_seven, stop).run()
    assert endless.closed_at == [7]


def test_a_worker_with_nothing_to_do_is_asked_again() -> None:
    idle = iter([Stepped(0, events=0), Stepped(0, events=0), Stepped(1, done=True)])
    assert Runner([Worker("idle", lambda: next(idle), lambda: None)]).run()
