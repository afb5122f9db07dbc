from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from learner.snapshots import FILE
from pruner import History, LedgerFollower, PruneStep, requests
from pruner.decisions import PendingRequest, decide
from pruner.requests import RequestFollower
from stream import topics
from stream.log import LogLockedError, Record
from stream.log.kafka.store import KafkaLogStore
from stream.messages import Decision, Request, Verdict, dump
from tests.pruner.worlds import WINDOW, World, first_mask, judgement, run, stream, window


def back_to(version: int, id_: str = "7f") -> Request:
    return Request(id=id_, action="rollback", version=version, reason="clicks fell", time_ms=7)


def rebuild(id_: str = "8a") -> Request:
    return Request(id=id_, action="rebuild", reason="a new shop", time_ms=7)


@contextmanager
def tail_of(world: World) -> Iterator[RequestFollower]:
    with closing(world.home.reader(topics.REQUESTS)) as reader:
        yield RequestFollower(reader)


def test_requests_are_taken_oldest_first_and_none_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    with tail_of(world) as tail:
        assert tail.open(()) == []
        for request in (back_to(1, "b"), rebuild("a"), back_to(1, "b")):
            requests.ask(world.home, request)
        assert tail.open(())[0] == back_to(1, "b")
        assert tail.open({"b"})[0] == rebuild("a")
        assert tail.open({"a", "b"}) == []
    with tail_of(world) as tail:
        assert tail.open(()) == [back_to(1, "b"), rebuild("a")]


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        b'{"kind":"decision","count":500}',
        b'{"kind":"request","id":"x","action":"rollback","reason":"","time_ms":0}',
        b'{"kind":"request","id":"x","action":"rollback","version":0,"reason":"","time_ms":0}',
        b'{"kind":"request","id":"","action":"rebuild","reason":"","time_ms":0}',
    ],
)
def test_what_is_no_request_is_said_once_and_passed_over(
    tmp_path: Path, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.append(topics.REQUESTS, Record(value), Record(dump(rebuild())))
    with tail_of(world) as tail:
        assert [tail.open(()), tail.open(())] == [[rebuild()], [rebuild()]]
    (said,) = caplog.messages
    assert said.startswith("record 0 of the log requests is no request and is passed over: ")


@pytest.mark.parametrize(("action", "version"), [("rollback", None), ("rebuild", 1)])
def test_only_a_rollback_names_a_version(action: str, version: int | None) -> None:
    value = {"id": "7f", "action": action, "version": version, "reason": "", "time_ms": 0}
    with pytest.raises(ValueError, match=f"a {action} of version {version}: a rollback names a"):
        Request.model_validate(value)


def test_every_request_drawn_has_an_id_of_its_own() -> None:
    assert len({requests.rollback(1, "").id, requests.rollback(1, "").id}) == 2
    assert requests.rebuild("").id != requests.rebuild("").id


def test_the_log_is_held_only_while_a_request_is_written(tmp_path: Path) -> None:
    world = World(tmp_path)
    requests.ask(world.home, rebuild())
    with (
        closing(world.home.writer(topics.REQUESTS)),
        pytest.raises(LogLockedError, match=r"log 'requests' .* is being written by"),
    ):
        requests.ask(world.home, back_to(1))
    requests.ask(world.home, back_to(1))
    with tail_of(world) as tail:
        assert tail.open(()) == [rebuild(), back_to(1)]


def test_requests_travel_over_a_broker_in_the_same_way(kafka_home: KafkaLogStore) -> None:
    with closing(kafka_home.reader(topics.REQUESTS)) as reader:
        tail = RequestFollower(reader)
        assert tail.open(()) == []
        for request in (back_to(1, "b"), rebuild("a"), back_to(1, "b")):
            requests.ask(kafka_home, request)
            assert tail.open(()) != []
        assert tail.open(()) == [back_to(1, "b"), rebuild("a")]


def two_versions(folder: Path) -> World:
    """Make a world in which version 2 was promoted at 1100 and all is decided through 1100."""
    world = first_mask(folder)
    world.find(window(700, 0.1), window(800, 0.2), window(900, 0.5))
    world.find(window(1000, 0.6), window(1100, 0.6), judgement(2, 1100, -0.1))
    world.work()
    return world


def decisions(world: World) -> dict[int, Decision]:
    return {one.count: one for one in world.ledger() if isinstance(one, Decision)}


def test_a_request_goes_into_the_next_decision_and_no_other(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    requests.ask(world.home, back_to(1))
    assert str(world.work().waiting_for) == "the window ending at 1200"
    world.find(window(1200, 0.1), window(1300, 0.1))
    world.work()
    first = world.verdicts()[0]
    rollback = decisions(world)[1200].rollback
    assert rollback is not None
    assert (rollback.to_version, rollback.version, rollback.count) == (1, 3, 1300)
    assert (rollback.snapshot, rollback.mask) == (first.snapshot, first.mask)
    assert decisions(world)[1300].request is None


def test_two_requests_go_into_two_decisions(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    requests.ask(world.home, back_to(1))
    requests.ask(world.home, back_to(2, "9c"))
    world.find(window(1200, 0.1), window(1300, 0.1))
    world.work()
    found = [decisions(world)[count].rollback for count in (1200, 1300)]
    assert [(one.version, one.to_version, one.count) for one in found if one] == [
        (3, 1, 1300),
        (4, 2, 1400),
    ]


def test_requests_are_not_taken_again_after_a_restart(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    requests.ask(world.home, back_to(1))
    world.find(window(1200, 0.1))
    world.work(1)
    world.find(window(1300, 0.1))
    world.work(1)
    world.work()
    assert [one.request is not None for one in decisions(world).values()].count(True) == 1


def opened(folder: Path) -> World:
    """Make a world in which rebuild 3 was asked for, and is open from 1200 to 1400."""
    world = two_versions(folder)
    requests.ask(world.home, rebuild())
    world.find(window(1200, 0.1))
    world.work(12)
    return world


def test_a_rebuild_asked_for_is_judged_like_any_other(tmp_path: Path) -> None:
    world = opened(tmp_path)
    plan = decisions(world)[1200].rebuild
    assert plan is not None
    assert (plan.reason, plan.cause, plan.end) == ("request", "asked for: a new shop", 1400)
    world.find(window(1300, 0.1), window(1400, 0.1))
    assert str(world.work().waiting_for) == "the judgement of rebuild 3"
    world.find(judgement(3, 1400, -0.1))
    world.work()
    assert world.verdicts()[-1].version == 3


def test_a_rollback_rejects_the_open_rebuild_right_behind_its_decision(tmp_path: Path) -> None:
    world = opened(tmp_path)
    requests.ask(world.home, back_to(1))
    world.find(window(1300, 0.1))
    world.work()
    decision, verdict = world.ledger()[-2:]
    assert isinstance(decision, Decision)
    assert isinstance(verdict, Verdict)
    assert decision.rollback is not None
    assert (decision.count, decision.rollback.version) == (1300, 3)
    assert (verdict.verdict, verdict.rebuild.number, verdict.count) == ("rejected", 3, 1400)
    assert verdict.reason == "superseded at 1300: back to version 1 as version 3 at 1400"
    assert (verdict.judgement, verdict.snapshot, verdict.cost_events) == (None, None, 100)
    assert list((tmp_path / "state" / "pruner").iterdir()) == []
    assert str(world.work().waiting_for) == "the window ending at 1400"


def test_one_step_is_the_rollback_and_the_next_the_verdict(tmp_path: Path) -> None:
    world = opened(tmp_path)
    requests.ask(world.home, back_to(1))
    world.find(window(1300, 0.1))
    with world.worker() as worker:
        first, second = worker.step(), worker.step()
    assert first.decided is not None
    assert first.decided.rollback is not None
    assert second.verdict is not None
    assert second.verdict.verdict == "rejected"


@pytest.mark.parametrize("progress", [1, 3, 12, 40])
def test_killed_between_rollback_and_verdict_the_ledger_is_the_same(
    tmp_path: Path, progress: int
) -> None:
    """However far the candidate had come, and however many lives it takes."""
    whole, killed = opened(tmp_path / "whole"), opened(tmp_path / "killed")
    killed.work(progress)
    for world in (whole, killed):
        requests.ask(world.home, back_to(1))
        world.find(window(1300, 0.1))
    whole.work()
    killed.work(1)
    assert isinstance(killed.ledger()[-1], Decision)
    killed.work(1)
    for world in (whole, killed):
        world.find(window(1400, 0.1), window(1500, 0.1))
        world.work()
    assert killed.values(topics.LEDGER) == whole.values(topics.LEDGER)
    assert [one.why_not for one in decisions(whole).values()][-1] == (
        "relative CE +0.100 % stands 0.000 % above its level +0.100 %; threshold 0.200 %, "
        "windows in a row: 1"
    )


def test_a_rollback_at_e_itself_supersedes_the_rebuild_that_waits_for_its_judgement(
    tmp_path: Path,
) -> None:
    world = opened(tmp_path)
    world.find(window(1300, 0.1))
    world.work()
    requests.ask(world.home, back_to(1))
    world.find(window(1400, 0.1))
    world.work()
    superseded = world.verdicts()[-1]
    back = next(one for one in world.ledger() if isinstance(one, Decision) and one.rollback)
    assert (superseded.verdict, superseded.count) == ("rejected", superseded.rebuild.end)
    assert superseded.reason == f"superseded at 1400: {back.why_not}"
    assert superseded.cost_events == 1400 - superseded.rebuild.begin
    assert str(world.work().waiting_for) == "the window ending at 1500"


def test_a_declined_rollback_leaves_the_open_rebuild_alone(tmp_path: Path) -> None:
    world = opened(tmp_path)
    requests.ask(world.home, back_to(9))
    world.find(window(1300, 0.1))
    world.work()
    decision = decisions(world)[1300]
    assert decision.declined == "version 9 is not kept; kept are 1, 2"
    assert decision.why_not == "rebuild 3 is open until 1400"
    assert len(world.verdicts()) == 2


def test_a_rollback_to_a_damaged_snapshot_is_declined(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    snapshot = world.verdicts()[0].snapshot
    path = world.snapshots.folder / str(snapshot) / FILE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    requests.ask(world.home, back_to(1))
    world.find(window(1200, 0.1))
    world.work()
    declined = decisions(world)[1200].declined
    assert declined is not None
    assert "is damaged: its content does not match its name" in declined


def test_what_a_rollback_names_is_kept_as_long_as_it_is_among_the_last_versions(
    tmp_path: Path,
) -> None:
    """With two versions kept, those after the rollback are 2, and 3 with the weights of 1."""
    world = two_versions(tmp_path)
    world.versions = 2
    first = world.verdicts()[0]
    requests.ask(world.home, back_to(1))
    world.find(window(1200, 0.1))
    world.work()
    world.work()
    assert world.snapshots.names("candidate-1") == [first.snapshot]
    assert first.mask in world.masks.names()
    requests.ask(world.home, back_to(2, "9c"))
    world.find(window(1300, 0.1))
    world.work()
    world.work()
    requests.ask(world.home, rebuild())
    world.find(window(1400, 0.1), window(1500, 0.1), judgement(3, 1600, -0.2))
    world.work()
    world.find(window(1600, 0.1))
    world.work()
    assert world.verdicts()[-1].version == 5
    assert world.snapshots.names("candidate-1") == []
    assert first.mask not in world.masks.names()


def test_replaying_the_ledger_gives_the_same_decisions(tmp_path: Path) -> None:
    world = opened(tmp_path)
    for request in (back_to(9, "a"), back_to(1, "b"), rebuild("c"), rebuild("d")):
        requests.ask(world.home, request)
        end = max(decisions(world)) + WINDOW
        world.find(window(end, 0.1 * (end // 100 % 7)))
        world.work()
    with world.worker() as worker:
        worker._windows.poll()
        scores = [*worker._windows.scores]
    history = History()
    for message in world.ledger():
        if isinstance(message, Decision) and message.count > 1100:
            asked = PendingRequest(message.request) if message.request else None
            assert decide(history, scores, message.count, world.rules, asked) == message
        history = history.after(message)
    assert len(history.answered) == 5
    with closing(world.home.reader(topics.LEDGER)) as reader:
        tail = LedgerFollower(reader)
        tail.poll()
        assert tail.history == history


@pytest.mark.parametrize(("events", "never"), [(1260, True), (1300, False), (1360, False)])
def test_an_input_that_ends_before_a_rollback_takes_effect_is_told(
    tmp_path: Path, events: int, never: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ended = World(tmp_path)
    ended.click(stream(events), end=True)
    ended.dense(10_000)
    ended.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
    ended.find(*(window(count, 0.01 * count / 10) for count in range(700, 1200, WINDOW)))
    ended.find(judgement(2, 1100, -0.1), judgement(2, 1200, -0.1))
    ended.work()
    requests.ask(ended.home, back_to(1))
    ended.find(*(window(count, 0.1) for count in range(1200, events + 1, WINDOW)))
    assert ended.work().done
    said = f"version 3 never took effect: the input ended after {events:,} events, before 1,300"
    assert (said in caplog.messages) == never


def test_a_request_that_came_too_late_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.click([], end=True)
    world.dense(10)
    requests.ask(world.home, back_to(1))
    with world.worker() as worker:
        assert run(worker) == PruneStep(0, done=True)
    assert caplog.messages[-1] == (
        "the rollback asked for (clicks fell) was not decided on: the input ended after 0 events"
    )
