"""A run that deletes all that nobody needs any more ends as one that keeps everything."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, get_args

import pytest

from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import DENSE, EVALUATOR, MODELS, NEVER_REBUILT, PRUNER, SOURCE, SPARSE
from resprout.spec import RunDefinition
from stream import topics
from stream.log import LogStore
from tests.resprout.eventful import TOTAL, eventful
from tests.resprout.left import Left
from tests.resprout.victim import How, Life, Moment, Promoted, Scored, lived, trimming

NEEDED: dict[str, Any] = {
    "stream__retention__clicks": "needed",
    "stream__retention__predictions": "needed",
    "stream__retention__truth": "needed",
}
TRIMMED = RunDefinition.generated(eventful(**NEEDED))
SAME = ("windows", "ledger", "dead_letters", "states", "snapshots", "masks", "head")
"""What retention must not touch."""
AFTER = {"threads": 1, "turns": 1, "call": 2_000, "disk": 12}


def lives(seed: int, kills: int) -> list[Life]:
    """Draw lives that end all over the run, one of them between a verdict and its swap."""
    rng = random.Random(seed)
    counts = sorted(rng.randrange(TOTAL - 1_000) for _ in range(kills - 1))
    moments: list[tuple[Moment, How]] = []
    for count in counts:
        worker = rng.choice((SOURCE, DENSE, PRUNER, EVALUATOR, SPARSE, NEVER_REBUILT))
        worker = worker if count >= 7_000 else DENSE
        moments.append((Scored(count, worker), rng.choice(get_args(How))))
    moments.insert(sum(count < 10_000 for count in counts), (Promoted(), "turns"))
    return [
        Life(moment, how, after=rng.randrange(AFTER[how]), seed=number, trims=True)
        for number, (moment, how) in enumerate(moments)
    ]


def tear(folder: RunFolder) -> int:
    """Damage the newest checkpoint of every worker; return how many that were."""
    torn = 0
    for kept in (folder.path / "checkpoints").rglob("manifest.json"):
        newest = sorted(p for p in kept.parents[1].glob("*-*") if not p.name.startswith("."))[-1]
        if kept.parent == newest:
            part = next(path for path in newest.iterdir() if path != kept)
            part.write_bytes(part.read_bytes()[:-1])
            torn += 1
    return torn


def finish(plan: RunDefinition, folder: RunFolder) -> None:
    """Carry a run to its end, trimmed after every step."""
    with trimming(plan, folder) as trim:
        assert execute(plan, folder.path, trim).finished


def check_same(folder: RunFolder, whole: RunFolder, home: LogStore | None = None) -> Left:
    """See that all that is left is as in a run that has kept everything, which is returned."""
    found, expected = Left.by(folder, home), Left.by(whole)
    for part in SAME:
        assert getattr(found, part) == getattr(expected, part), part
    for part in ("clicks", "truth"):
        kept = getattr(found, part)
        assert kept == getattr(expected, part)[-len(kept) :], part
        assert 0 < len(kept) < len(getattr(expected, part)), part
    assert found.predictions.items() < expected.predictions.items()
    return found


def begins(home: LogStore, *logs: str) -> list[int]:
    found = []
    for log in logs:
        reader = home.reader(log)
        found += [reader.begin(partition) for partition in reader.partitions]
        reader.close()
    return found


@pytest.mark.parametrize(("seed", "torn"), [(1, False), (2, True)])
def test_killed_at_any_time_and_trimmed_after_every_step_it_leaves_the_same(
    whole: RunFolder, tmp_path: Path, seed: int, torn: bool
) -> None:
    """In the second case the newest checkpoints are damaged, too, each time."""
    folder, damaged = RunFolder(tmp_path), 0
    for life in lives(seed, kills=8):
        assert lived(TRIMMED, tmp_path, life), f"{life} was not ended by a kill"
        damaged += tear(folder) if torn else 0
    finish(TRIMMED, folder)
    assert damaged > 15 or not torn
    check_same(folder, whole)
    logs = (topics.CLICKS, topics.TRUTH, *map(topics.predictions, (*MODELS, "candidate-1")))
    assert all(begins(folder.home, *logs)), begins(folder.home, *logs)
    assert not any(begins(folder.home, topics.WINDOWS, topics.LEDGER, topics.DEAD_LETTERS))
