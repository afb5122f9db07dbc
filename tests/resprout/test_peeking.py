"""No model sees a label before it has predicted it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import MODELS
from resprout.spec import RunDefinition
from stream import topics
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.log import LogStore, LogWriter, Record
from stream.reader import ClickReader
from stream.schema import FeatureSchema
from tests.resprout.eventful import BATCH, PLAN
from tests.resprout.left import records

SCHEMA = PLAN.source.schema
EVERYBODY = {*MODELS}


@dataclass(frozen=True)
class Given:
    """A source of the events it is given."""

    events: ClickBatch

    @property
    def schema(self) -> FeatureSchema:
        return SCHEMA

    def attach(self, home: LogStore) -> GivenFeed:
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


Predicted = dict[tuple[str, int], bytes]
"""Each batch of each model, by the events before it: version, places and every bit."""


def predicted(events: ClickBatch, state: Path) -> Predicted:
    """Run over the events, and return all predictions of all models and candidates."""
    execute(RunDefinition(PLAN.settings, Given(events)), state)
    found = {}
    for log in dict.fromkeys(map(topics.predictions, (*MODELS, "candidate-1"))):
        for stored in records(RunFolder(state), log):
            batch = predictions_from_bytes(stored.record.value)
            found[batch.model, batch.begin] = stored.record.value
    return found


@pytest.fixture(scope="module")
def events(whole: RunFolder) -> ClickBatch:
    log = whole.home.reader(topics.CLICKS)
    reader, batches = ClickReader(log, SCHEMA, BATCH), []
    while (counted := reader.next()) is not None:
        batches.append(counted.batch)
    log.close()
    return ClickBatch.concat(batches)


@pytest.fixture(scope="module")
def honest(events: ClickBatch, tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    return predicted(events, tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize(
    ("position", "at_work"),
    [
        pytest.param(2_530, {"dense"}, id="before the first mask"),
        pytest.param(4_700, {"dense"}, id="inside the first prune phase"),
        pytest.param(6_000, {"dense", "candidate-1"}, id="where the first candidate predicts"),
        pytest.param(7_099, EVERYBODY, id="inside the first batch under the first mask"),
        pytest.param(9_999, EVERYBODY, id="right before a rebuild is decided"),
        pytest.param(11_240, EVERYBODY, id="inside a rebuild"),
        pytest.param(12_000, EVERYBODY | {"candidate-2"}, id="where the judging begins"),
        pytest.param(12_999, EVERYBODY | {"candidate-2"}, id="right before a swap"),
        pytest.param(16_450, EVERYBODY | {"candidate-3"}, id="where another is judged"),
        pytest.param(20_777, EVERYBODY | {"candidate-4"}, id="where one is judged and rejected"),
        pytest.param(24_010, EVERYBODY | {"candidate-5"}, id="where one never comes to its end"),
    ],
)
def test_flipping_every_label_from_an_event_on_changes_no_prediction_up_to_its_batch(
    events: ClickBatch, honest: Predicted, position: int, at_work: set[str], tmp_path: Path
) -> None:
    """The next batch of everybody who continues does change: all have learned from the flip."""
    late = np.arange(len(events)) >= position
    flipped = replace(events, label=np.where(late, 1 - events.label, events.label))
    begin = position // BATCH * BATCH
    end = begin + BATCH
    told = predicted(flipped[slice(0, end + 2 * BATCH)], tmp_path)
    before, after = (
        {key: value for key, value in found.items() if key[1] < end} for found in (honest, told)
    )
    assert after == before
    assert {model for model, count in before if count == begin} == at_work
    learned = {model for model, count in honest if count == end}
    assert {m for m in learned if honest[m, end] != told[m, end]} == learned
