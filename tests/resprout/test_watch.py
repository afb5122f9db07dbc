from __future__ import annotations

from dataclasses import dataclass

import pytest

from learner import LearnerStep
from resprout.monitoring.progress import Waits, Watch, name_writer
from resprout.runner import Step
from stream.spec import Waiting


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """A worker whose steps are told to the log."""

    waits: Waits
    clock: Clock
    caplog: pytest.LogCaptureFixture

    def step(self, waiting_for: str | None, at: float, events: int = 0) -> list[str]:
        """Return what the log says of a step."""
        self.clock.now = at
        self.caplog.clear()
        self.waits(
            "sparse", LearnerStep(7_000, events, Waiting(waiting_for) if waiting_for else None)
        )
        return [record.getMessage() for record in self.caplog.records]


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level("INFO")
    clock = Clock()
    return World(Waits(say_seconds=5, clock=clock), clock, caplog)


def test_a_wait_is_told_once_when_it_has_lasted_and_again_when_it_is_over(world: World) -> None:
    verdict = "the verdict on rebuild 3"
    assert world.step(verdict, 0) == world.step(verdict, 4.9) == []
    assert world.step(verdict, 5) == [f"sparse waits for {verdict}, after 7,000 events"]
    assert world.step(verdict, 60) == []
    assert world.step(None, 61, events=500) == ["sparse continues after 61 s"]
    assert world.step(None, 62, events=500) == []


def test_a_wait_for_a_moment_is_not_told(world: World) -> None:
    for second in range(100):
        assert world.step("clicks", second) == []
        assert world.step(None, second + 0.5, events=500) == []


def test_a_wait_for_something_else_is_told_too(world: World) -> None:
    world.step("clicks", 0)
    assert len(world.step("clicks", 5)) == 1
    assert world.step("the decision on the window ending at 8000", 6) == []
    assert len(world.step("the decision on the window ending at 8000", 11)) == 1
    assert world.step("clicks", 12) == []
    assert world.step(None, 13, events=1) == ["sparse continues after 13 s"]


@pytest.mark.parametrize(
    ("waiting", "told"),
    [
        (Waiting("clicks"), "clicks (the source)"),
        (
            Waiting("predictions.never_rebuilt"),
            "predictions.never_rebuilt (the learner that is never rebuilt)",
        ),
        (Waiting("predictions.candidate"), "predictions.candidate (the prune worker)"),
        (Waiting("predictions.adapting"), "predictions.adapting (the learner of adapting)"),
        (Waiting("ledger"), "ledger (the prune worker)"),
        (
            Waiting("ledger", "the decision on the window ending at 800"),
            "the decision on the window ending at 800 (the prune worker, log ledger)",
        ),
        (
            Waiting("windows", "the judgement of rebuild 2"),
            "the judgement of rebuild 2 (the evaluator, log windows)",
        ),
        (
            Waiting("snapshots", "the dense snapshot at 400"),
            "the dense snapshot at 400 (the dense learner)",
        ),
        (Waiting("", "its logs and its checkpoint"), "its logs and its checkpoint"),
    ],
)
def test_of_a_wait_it_is_told_which_log_and_worker_would_end_it(
    waiting: Waiting, told: str
) -> None:
    seen: list[str | None] = []

    def observe(_: str, step: Step) -> None:
        seen.append(str(step.waiting_for) if step.waiting_for else None)

    watch = Watch("dense", [observe], name_writer)
    watch("sparse", LearnerStep(400, waiting_for=waiting))
    watch("sparse", LearnerStep(400, 100))
    assert seen == [told, None]


def test_of_clicks_from_outside_no_worker_is_named() -> None:
    assert str(name_writer(Waiting("clicks"), external_clicks=True)) == "clicks"


def test_the_end_is_told(world: World) -> None:
    world.caplog.clear()
    world.waits("dense", LearnerStep(16_000, done=True))
    assert [record.getMessage() for record in world.caplog.records] == [
        "dense is done after 16,000 events"
    ]


def test_the_events_of_one_worker_are_counted_and_all_look_on() -> None:
    seen: list[tuple[str, int]] = []

    def look(name: str, step: Step) -> None:
        seen.append((name, step.events))

    watch = Watch("dense", [look, look])
    for name, events in (("dense", 500), ("sparse", 500), ("dense", 300)):
        watch(name, LearnerStep(0, events))
    assert watch.events == 800
    assert seen == [
        (n, e) for n, e in (("dense", 500), ("sparse", 500), ("dense", 300)) * 1 for _ in "12"
    ]
