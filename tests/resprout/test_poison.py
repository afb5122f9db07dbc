"""One event must not stop a run for good: what cannot be learned is set aside once, by name."""

from __future__ import annotations

import base64
import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import DENSE, SPARSE
from resprout.spec import RunDefinition
from stream import MessageLog, topics
from stream.messages import DeadLetter
from stream.schema import CategoricalFeature, Columns, FeatureSchema, NumericFeature
from stream.sources import FileSource
from tests.resprout.small import small
from tests.resprout.victim import Life, Scored, lived

ROWS = 12_000
BEYOND, POISON, LATE = 3_000, 5_200, 10_100
"""Rows that hold what is beyond the limit of its feature, and what no model can learn."""
SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price", limit=1e30), NumericFeature(name="age", scale=10.0)),
    categorical=(CategoricalFeature(name="site", buckets=50),),
    columns=Columns(event_time="when", time_format="seconds", label="clicked"),
)
"""Whoever takes the limit away meets the second line of defence."""


def lines() -> Iterator[list[object]]:
    rng = random.Random(0)
    yield ["when", "price", "age", "site", "clicked"]
    for row in range(ROWS):
        price, site = rng.gauss(0, 1), rng.randrange(40)
        age = "3.4e38" if row == BEYOND else f"{rng.gauss(4, 1):.2f}"
        held = "1e25" if row in (POISON, LATE) else f"{price:.3f}"
        # Its prediction is wrong, whatever it is.
        yield [row, held, age, f"s{site}", int(price + site % 3 > 2)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunDefinition:
    file = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(lines())
    settings = small(
        stream__generator__drifts=[],
        learner__checkpoint_events=3_000,
        evaluator__checkpoint_events=3_000,
    )
    return RunDefinition(settings, FileSource(file, SCHEMA))


def letters(folder: RunFolder) -> list[DeadLetter]:
    return list(MessageLog(folder.home, topics.DEAD_LETTERS).read(DeadLetter))


def test_events_that_cannot_be_learned_are_named_and_the_run_goes_on(
    plan: RunDefinition, tmp_path: Path
) -> None:
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert execute(plan, whole.path).finished
    found = {
        one.reason: [o for o in letters(whole) if o.reason == one.reason] for one in letters(whole)
    }
    [beyond] = found["numeric"]
    assert beyond.line == BEYOND + 2
    assert "age is 3.4e+38, 3.4e+37 once standardised; the largest size" in beyond.detail
    places = [(one.partition, one.offset, one.row) for one in found["not_learned"]]
    assert len(places) == len(set(places)) >= 1
    for one in found["not_learned"]:
        assert json.loads(base64.b64decode(one.raw))["numeric"][0] == pytest.approx(1e25)
        assert one.detail.startswith("what dense")
    for count, worker in ((5_500, DENSE), (8_000, SPARSE), (11_000, DENSE)):
        lived(plan, killed.path, Life(Scored(count, worker), "threads"))
    assert execute(plan, killed.path).finished
    assert letters(killed) == letters(whole)
    for model in plan.settings.evaluator.models:
        assert killed.snapshots.names(model)[-1] == whole.snapshots.names(model)[-1]
