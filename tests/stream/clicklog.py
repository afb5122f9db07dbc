"""Small click logs for the tests of their readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stream import topics
from stream.batch import ClickBatch, ClickEvent, Reason
from stream.codec import columnar_record, continue_record, end_record, json_record, raw_record
from stream.log import LogReader, Record
from stream.log.local import LocalLogStore
from stream.reader import ClickReader, CountedBatch
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="x"),), categorical=(CategoricalFeature(name="site", buckets=50),)
)


def event(number: int) -> ClickEvent:
    """Make an event whose numeric feature tells which it is."""
    return ClickEvent.model_validate(
        {
            "event_id": str(number),
            "event_time": number,
            "label": number % 2,
            "numeric": {"x": number},
            "categorical": {"site": str(number)},
        }
    )


def batch(first: int, events: int) -> ClickBatch:
    """Make the events ``first``, ``first + 1``, ... as a batch."""
    numbers = np.arange(first, first + events)
    return ClickBatch(
        (numbers % 2).astype(np.float32),
        np.ones(events, np.float32),
        numbers * 1000,
        numbers[:, None].astype(np.float32),
        np.full((events, 1), 2, np.int32),
    )


def json(first: int, events: int = 1) -> list[Record]:
    return [json_record(event(number)) for number in range(first, first + events)]


def columnar(first: int, events: int, bad: Sequence[int] = ()) -> Record:
    """Make a columnar record; the rows of ``bad`` have label 2."""
    whole = batch(first, events)
    whole.label[list(bad)] = 2
    return columnar_record(whole, SCHEMA)


def raw(line: int) -> Record:
    headers = (("file", b"clicks.csv"), ("line", str(line).encode()))
    return raw_record(b"?", (Reason.UNPARSABLE, "no row"), headers)


END = end_record()
GOES_ON = continue_record()


def append(home: LocalLogStore, records: Sequence[Record], partition: int = 0) -> None:
    writer = home.writer(topics.CLICKS)
    writer.append(records, partition)
    writer.close()


def log_of(folder: Path, records: Sequence[Record]) -> LogReader:
    home = LocalLogStore(folder)
    append(home, records)
    return home.reader(topics.CLICKS)


def read_all(reader: ClickReader) -> list[CountedBatch]:
    """Read until there is no whole batch."""
    return list(iter(reader.next, None))


def numbers(batches: Sequence[CountedBatch]) -> list[list[int]]:
    """Tell which events are in which batch."""
    return [[int(x) for x in found.batch.numeric[:, 0]] for found in batches]


def same(left: Sequence[CountedBatch], right: Sequence[CountedBatch]) -> bool:
    """Compare batches by their places and events."""

    def plain(found: CountedBatch) -> object:
        return found.begin, found.end, found.spans, found.skipped, found.last

    return [plain(b) for b in left] == [plain(b) for b in right] and numbers(left) == numbers(right)
