"""Killed with ``kill -9`` and resumed, a run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from learner.snapshots import from_parts
from pruner import LedgerFollower
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import DENSE, EVALUATOR, NEVER_REBUILT, PRUNER, SOURCE, SPARSE
from stream import topics
from stream.messages import RebuildPlan
from stream.state import Checkpoints
from tests.resprout.eventful import BATCH, PLAN, TOTAL
from tests.resprout.left import PARTS, Left
from tests.resprout.victim import How, Life, Moment, Promoted, Scored, lived

ENDS = (7_000, 13_000, 17_000)
"""Where candidates are promoted."""
AFTER = {"threads": 1, "turns": 1, "call": 2_000, "disk": 12}


def lives(seed: int) -> list[Life]:
    """Draw twenty lives that end all over the run, three of them between a verdict and its swap."""
    rng = random.Random(seed)
    counts = sorted(rng.randrange(TOTAL - 10 * BATCH) for _ in range(20 - len(ENDS)))
    moments: list[tuple[Moment, How]] = []
    for count in counts:
        started = (SPARSE, NEVER_REBUILT) if count >= ENDS[0] else ()
        worker = rng.choice((SOURCE, DENSE, PRUNER, EVALUATOR, *started))
        moments.append((Scored(count, worker), rng.choice(get_args(How))))
    for before, end in enumerate(ENDS):
        at = before + sum(count < end - 25 * BATCH for count in counts)
        moments.insert(at, (Promoted(), "turns"))
    return [
        Life(moment, how, after=rng.randrange(AFTER[how]), seed=number)
        for number, (moment, how) in enumerate(moments)
    ]


@dataclass(frozen=True)
class Found:
    """What stands on disk after a kill."""

    inside: int | None
    """The rebuild whose candidate has learned some of its events, and not yet all."""
    unfollowed: int | None
    """The version in force by the ledger, where the sparse model has not become it."""


def look(folder: RunFolder) -> Found:
    reader = folder.home.reader(topics.LEDGER)
    ledger = LedgerFollower(reader)
    ledger.poll()
    reader.close()
    plan, promised = ledger.history.open, ledger.history.version
    kept = folder.checkpoints(SPARSE).latest()
    version = from_parts(kept.parts).version if kept else 0
    return Found(
        inside=plan.number if plan and is_under_way(folder, plan) else None,
        unfollowed=promised if promised > version else None,
    )


def is_under_way(folder: RunFolder, plan: RebuildPlan) -> bool:
    kept = Checkpoints(folder.checkpoints(PRUNER).folder / f"rebuild-{plan.number:06d}").latest()
    return kept is not None and plan.begin < kept.count < plan.end


@dataclass(frozen=True)
class Killed:
    """A run of many lives."""

    left: Left
    found: list[Found]
    """After each kill."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = RunFolder(tmp_path_factory.mktemp("killed"))
    found = []
    for life in lives(seed=13):
        assert lived(PLAN, folder.path, life), f"{life} was not ended by a kill"
        found.append(look(folder))
    assert execute(PLAN, folder.path).finished
    return Killed(Left.by(folder), found)


def test_twenty_kills_hit_rebuilds_and_the_time_between_verdict_and_swap(killed: Killed) -> None:
    assert len(killed.found) == 20
    inside = [found.inside for found in killed.found if found.inside]
    assert (len(inside) >= 5, len(set(inside)) >= 3) == (True, True), inside
    assert {found.unfollowed for found in killed.found} >= {1, 2, 3}


@pytest.mark.parametrize("part", PARTS)
def test_what_is_left_is_what_an_undisturbed_run_leaves(
    killed: Killed, whole: RunFolder, part: str
) -> None:
    assert getattr(killed.left, part) == getattr(Left.by(whole), part)


def test_two_undisturbed_runs_leave_the_same(whole: RunFolder, tmp_path: Path) -> None:
    execute(PLAN, tmp_path)
    one, two = Left.by(whole), Left.by(RunFolder(tmp_path))
    for part in PARTS:
        assert getattr(one, part) == getattr(two, part), part
