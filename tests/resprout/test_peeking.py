"""No model sees a label before it has predicted it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from resprout.application import execute, feed_all
from resprout.plan import Plan
from stream import topics
from stream.batch import ClickBatch
from stream.clicks import ClickReader
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.embedded import EmbeddedHome
from stream.keyed import read_all
from stream.log import LogHome, LogWriter, Record
from stream.messages import PredictionBatch
from stream.schema import FeatureSchema
from tests.resprout.victim import PLAN

BATCH = PLAN.settings.stream.batch_events
SCHEMA = PLAN.source.schema
LOGS = ("dense", "sparse", "never_rebuilt", "candidate-1")


@dataclass(frozen=True)
class Given:
    """A source of the events it is given."""

    events: ClickBatch

    @property
    def schema(self) -> FeatureSchema:
        return SCHEMA

    def attach(self, home: LogHome) -> GivenFeed:
        return GivenFeed(home.writer(topics.CLICKS), self._records())

    def _records(self) -> Iterator[Record]:
        for begin in range(0, len(self.events), 500):
            yield columnar_record(self.events[begin : begin + 500], SCHEMA)
        yield end_record()


@dataclass
class GivenFeed:
    writer: LogWriter
    records: Iterator[Record]

    def step(self) -> int | None:
        record = next(self.records, None)
        if record is None:
            return None
        self.writer.append([record])
        return 500

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def predicted(events: ClickBatch, state: Path) -> list[PredictionBatch]:
    """Run over the events, and return all predictions of all models."""
    execute(Plan(PLAN.settings, Given(events)), state)
    home = EmbeddedHome(state / "logs")
    found = []
    for log in LOGS:
        reader = home.reader(topics.predictions(log))
        found += [predictions_from_bytes(stored.record.value) for stored in read_all(reader)]
        reader.close()
    return found


def until(batches: list[PredictionBatch], end: int) -> dict[tuple[str, int], bytes]:
    """What was predicted up to the end of a batch, to the last bit."""
    kept = (batch for batch in batches if batch.end <= end)
    return {(batch.model, batch.begin): batch.probability.tobytes() for batch in kept}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> ClickBatch:
    state = tmp_path_factory.mktemp("clicks")
    feed_all(PLAN, state, threading.Event())
    log = EmbeddedHome(state / "logs").reader(topics.CLICKS)
    reader, batches = ClickReader(log, SCHEMA, 500), []
    while (counted := reader.next()) is not None:
        batches.append(counted.batch)
    log.close()
    return ClickBatch.concat(batches)


@pytest.fixture(scope="module")
def honest(events: ClickBatch, tmp_path_factory: pytest.TempPathFactory) -> list[PredictionBatch]:
    return predicted(events, tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize(
    ("position", "models"),
    [
        (2_530, {"dense"}),
        (6_450, {"dense", "candidate-1"}),
        (12_499, {"dense", "sparse", "never_rebuilt", "candidate-1", "candidate-2"}),
        (20_400, {"dense", "sparse", "never_rebuilt", "candidate-4"}),
    ],
)
def test_flipping_every_label_from_an_event_on_changes_no_prediction_up_to_its_batch(
    events: ClickBatch,
    honest: list[PredictionBatch],
    position: int,
    models: set[str],
    tmp_path: Path,
) -> None:
    late = np.arange(len(events)) >= position
    flipped = replace(events, label=np.where(late, 1 - events.label, events.label))
    end = position // BATCH * BATCH + BATCH
    told = predicted(flipped[slice(0, end + 2 * BATCH)], tmp_path)
    assert until(told, end) == until(honest, end)
    assert models <= {model for model, _ in until(honest, end)}
    assert until(told, end + BATCH) != until(honest, end + BATCH), "the flip must be felt after it"
