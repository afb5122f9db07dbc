"""Going back in a whole run: at one count, and with the same bits however often it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pruner import History, LedgerFollower, PruneStep, requests
from pruner.decisions import PendingRequest, decide
from pruner.masks import DiskMaskStore
from pruner.worker import WindowFollower
from resprout.cli.inspect import versions
from resprout.folder import RunFolder
from resprout.run import Result, execute
from resprout.runner import Step
from resprout.settings import NEVER_REBUILT, SPARSE
from resprout.spec import RunDefinition
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.messages import Decision, Request
from stream.reader import ClickReader, CountedBatch
from tests.resprout.eventful import BATCH, PLAN, eventful
from tests.resprout.left import PARTS, Left
from tests.resprout.victim import Life, lived

BACK = Request(id="7f", action="rollback", version=1, reason="clicks fell", time_ms=7)
ASKED, DECIDED, EFFECTIVE = 14_000, 15_000, 16_000
"""It is asked for when rebuild 3 has just begun, and would end at 17 000."""


@dataclass(frozen=True)
class Decides:
    """The prune worker has decided on a window."""

    count: int

    def __call__(self, _: str, step: Step) -> bool:
        return isinstance(step, PruneStep) and bool(
            step.decided and step.decided.count == self.count
        )


@dataclass(frozen=True)
class Stands:
    """A worker stands at a count."""

    worker: str
    count: int

    def __call__(self, name: str, step: Step) -> bool:
        return (name, step.count) == (self.worker, self.count)


def with_request(
    plan: RunDefinition, state: Path, request: Request = BACK, after: int = ASKED
) -> Result:
    """Carry out a run; somebody asks right after the decision on a window."""
    folder, moment = RunFolder(state), Decides(after)

    def observe(name: str, step: Step) -> None:
        if moment(name, step):
            requests.ask(folder.home, request)

    return execute(plan, state, observe)


@dataclass(frozen=True)
class Whole:
    folder: RunFolder
    result: Result


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run in which a rollback was asked for, undisturbed; only to be read."""
    state = tmp_path_factory.mktemp("back")
    return Whole(RunFolder(state), with_request(PLAN, state))


def versions_of(result: Result, model: str) -> dict[int, tuple[int, ...]]:
    """Return the versions that predicted each window of 500 events, by where it begins."""
    scores = {w.begin: w.models.get(model) for w in result.windows if w.size == 500}
    return {begin: score.versions for begin, score in scores.items() if score}


def test_ledger_windows_and_summary_tell_of_the_rollback_at_its_count(back: Whole) -> None:
    result = back.result
    assert result.finished
    (decision,) = (d for d in result.ledger if isinstance(d, Decision) and d.rollback)
    assert decision.rollback is not None
    assert (decision.count, decision.rollback.count) == (DECIDED, EFFECTIVE)
    third = next(v for v in result.verdicts if v.rebuild.number == 3)
    assert third.verdict == "rejected"
    assert third.reason == "superseded at 15000: back to version 1 as version 3 at 16000"
    versions = versions_of(result, SPARSE)
    assert [versions[begin] for begin in (12_500, 13_000, 15_500, 16_000)] == [
        (1,),
        (2,),
        (2,),
        (3,),
    ]
    assert set(versions_of(result, NEVER_REBUILT).values()) == {(1,)}
    (told,) = result.summary.rollbacks
    assert told.model_dump() == {
        "count": EFFECTIVE,
        "decided": DECIDED,
        "version": 3,
        "to_version": 1,
        "reason": "clicks fell",
        "took_effect": True,
    }


@contextmanager
def clicks_of(folder: RunFolder) -> Iterator[Iterator[CountedBatch]]:
    with closing(folder.home.reader(topics.CLICKS)) as reader:
        yield iter(ClickReader(reader, PLAN.source.schema, BATCH).next, None)


def test_behind_it_stand_the_weights_that_version_one_began_with(back: Whole) -> None:
    """Told by a model made from the snapshot alone, and by one that learned on from there."""
    promoted = next(v for v in back.result.verdicts if v.version == 1)
    model = PLAN.model()
    model.load(back.folder.snapshots.read(str(promoted.snapshot)).tensors)
    published = Left.by(back.folder).predictions
    with clicks_of(back.folder) as batches:
        for counted in batches:
            if not EFFECTIVE <= counted.begin < EFFECTIVE + 3 * BATCH:
                continue
            found = predictions_from_bytes(published[f"sparse/{counted.begin}"]).probability
            assert np.array_equal(found, model.predict(counted.batch))
            model.learn(counted.batch)


def test_the_head_follows_and_versions_go_on_from_there(back: Whole) -> None:
    with closing(back.folder.home.reader(topics.LEDGER)) as reader:
        known = {one.version: one for one in versions(LedgerFollower(reader).poll())}
    assert known[3].count == EFFECTIVE
    assert (known[3].snapshot, known[3].mask) == (known[1].snapshot, known[1].mask)
    head = DiskMaskStore(back.folder.masks).head()
    assert head is not None
    assert (head.version, head.mask) == (max(known), known[max(known)].mask)
    later = [v.version for v in back.result.verdicts if v.version and v.version > 1]
    assert later == [2, *range(4, 3 + len(later))]


def test_replaying_the_ledger_of_the_run_gives_the_same_decisions(back: Whole) -> None:
    with closing(back.folder.home.reader(topics.WINDOWS)) as reader:
        board = WindowFollower(reader, PLAN.spec.window_events)
        for _ in range(1_000):
            board.poll()
    history = History()
    for message in back.result.ledger:
        if isinstance(message, Decision):
            asked = PendingRequest(message.request) if message.request else None
            assert decide(history, board.scores, message.count, PLAN.rules, asked) == message
        history = history.after(message)
    assert history.answered == {BACK.id}


def without_the_overruled(left: Left) -> Left:
    """How far candidate 3 had come when it was overruled is a matter of time."""
    predictions = {k: v for k, v in left.predictions.items() if not k.startswith("candidate-3/")}
    windows = {k: v for k, v in left.windows.items() if k != "judgement/3"}
    return replace(left, predictions=predictions, windows=windows)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """The same run, killed before the request, between rollback and verdict, and at the swap."""
    folder = RunFolder(tmp_path_factory.mktemp("killed"))
    assert lived(PLAN, folder.path, Life(Decides(ASKED), "turns", seed=1))
    requests.ask(folder.home, BACK)
    assert lived(PLAN, folder.path, Life(Decides(DECIDED), "turns"))
    assert lived(PLAN, folder.path, Life(Stands(SPARSE, EFFECTIVE), "turns", seed=2))
    assert lived(PLAN, folder.path, Life(Stands(SPARSE, EFFECTIVE + BATCH), "disk", after=3))
    assert execute(PLAN, folder.path).finished
    return Left.by(folder)


@pytest.mark.parametrize("part", PARTS)
def test_killed_around_a_rollback_a_run_leaves_what_an_undisturbed_one_leaves(
    back: Whole, killed: Left, part: str
) -> None:
    whole = without_the_overruled(Left.by(back.folder))
    assert getattr(without_the_overruled(killed), part) == getattr(whole, part)


def test_without_a_lead_it_takes_effect_with_its_window(tmp_path: Path) -> None:
    plan = RunDefinition.generated(eventful(pruner__lead_events=0))
    result = with_request(plan, tmp_path)
    versions = versions_of(result, SPARSE)
    assert [versions[begin] for begin in (14_500, 15_000)] == [(2,), (3,)]


def test_an_input_that_ends_before_it_takes_effect_leaves_the_version_as_it_was(
    tmp_path: Path,
) -> None:
    """The input ends at 24 050; decided at 24 000 it would take effect at 25 000."""
    result = with_request(PLAN, tmp_path, after=23_000)
    assert result.finished
    (told,) = result.summary.rollbacks
    assert (told.decided, told.count, told.took_effect) == (24_000, 25_000, False)
    assert max(versions_of(result, SPARSE).values()) == (3,)
    assert told.version == 4


def test_a_rebuild_asked_for_begins_with_the_next_window(tmp_path: Path) -> None:
    now = Request(id="8a", action="rebuild", reason="a new shop", time_ms=7)
    plan = RunDefinition.generated(eventful(trigger__every_events=100_000))
    result = with_request(plan, tmp_path, now, after=8_000)
    (rebuild,) = result.summary.rebuilds[1:]
    assert (rebuild.reason, rebuild.decided, rebuild.count) == ("request", 9_000, 12_000)
    assert rebuild.verdict in ("promoted", "rejected")
    assert rebuild.difference is not None
