"""A synthetic click stream, and the log of its truth, that continue exactly where they end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream import codec, columnar, topics
from stream.batch import EPOCH, MILLISECOND, ClickBatch, ClickEvent, hashing
from stream.log.api import Headers, LogStore, LogWriter, Record, StoredRecord
from stream.schema import FeatureSchema
from stream.sources.truth import Block, GeneratorConfig, Truth


@dataclass(frozen=True)
class GeneratorSource:
    """A source of synthetic clicks, and of their truth in a log of its own."""

    config: GeneratorConfig
    seed: int

    @property
    def schema(self) -> FeatureSchema:
        """The features of the stream."""
        return self.config.features

    def attach(self, store: LogStore) -> GeneratorFeed:
        """Continue where the click log ends, or begin it.

        Raises
        ------
        ValueError
            If the log was made by another generator, seed or configuration, or has several
            partitions: the truth is counted, and their events have no order to be counted in.
        """
        # Taken before its end is looked up: else another writer might move that.
        clicks = store.writer(topics.CLICKS)
        try:
            begin, ended = self._resume(store)
            return GeneratorFeed(self, store, clicks, begin, ended)
        except BaseException:
            clicks.close()
            raise

    def _resume(self, store: LogStore) -> tuple[int, bool]:
        """Return how many events the click log holds, and whether it has ended."""
        with closing(store.reader(topics.CLICKS)) as reader:
            if reader.partitions != (0,):
                raise ValueError(
                    f"the click log has {len(reader.partitions)} partitions; the generator writes "
                    "one of partition 0 alone: make it anew with one"
                )
            last = reader.last(0)
        begin = _resume_at(last, self.identity)
        ended = last is not None and codec.kind_of(last) == codec.END
        events = self.config.events
        if ended and events is not None and begin > events:
            raise ValueError(
                f"the click log has ended after {begin} events, and stream.generator.events is "
                f"{events}: let it be as many or more, or use another folder"
            )
        return begin, ended

    def continues(self, last: StoredRecord) -> bool:
        """Whether more events follow the end record of a stream that was shorter."""
        count, events = int(last.header("count") or 0), self.config.events
        return events is None or count < events

    @cached_property
    def identity(self) -> bytes:
        """Digest of all that the events depend on; it is a header of every record."""
        config = self.config.model_dump_json(exclude={"events", "rate"})
        return hashlib.blake2b(f"{self.seed} {config}".encode(), digest_size=8).hexdigest().encode()


def _resume_at(last: StoredRecord | None, identity: bytes) -> int:
    if last is None:
        return 0
    made_by, count = last.header("source"), last.header("count")
    if made_by != identity or count is None:
        other = (made_by or b"unknown").decode(errors="replace")
        raise ValueError(
            f"the click log was made by source {other}, not by this generator "
            f"({identity.decode()}): use another folder, or the configuration and seed that it was "
            "begun with"
        )
    return int(count)


class GeneratorFeed:
    """Appends the stream to the logs, a block a step or less; truth first, so no click lacks it.

    Parameters
    ----------
    source
        Makes the events.
    store
        Holds the logs.
    clicks
        The writer of the click log.
    count
        Events in that log.
    ended
        Whether that has ended with these; a stream of more events continues it.

    Attributes
    ----------
    step_events
        Most events of a step, a multiple of those of a record; None: the rest of a block.
    """

    def __init__(
        self, source: GeneratorSource, store: LogStore, clicks: LogWriter, count: int, ended: bool
    ) -> None:
        self.source, self.count = source, count
        self.ended = ended and count == source.config.events
        self.step_events: int | None = None
        self._config = source.config
        self._truth = Truth(source.config, source.seed)
        self._clicks, self._truths = clicks, store.writer(topics.TRUTH)
        self._buckets = [hashing(one) for one in source.schema.categorical]
        self._made: tuple[Block, ClickBatch] | None = None
        with closing(store.reader(topics.TRUTH)) as reader:
            self._truth_count = _resume_at(reader.last(0), source.identity)
        # A crash may cost two logs unevenly: the truth of clicks may have been lost.
        while self._truth_count < count:
            block = self._truth.block(self._block_of(self._truth_count))
            self._append_truth(block, self._end_of(block))
        if ended and not self.ended:
            # At once: whoever reads the log from now on is not to take it for ended.
            time_ms = int(self._times(count, 1)[0])
            self._clicks.append([codec.continue_record(time_ms, self._headers(count))])
            self.flush()

    def step(self) -> int | None:
        """Append the next events of a block; None once the stream has ended."""
        if self.ended:
            return None
        config, begin = self._config, self.count
        if config.events is not None and begin >= config.events:
            time_ms = int(self._times(begin, 1)[0])
            self._clicks.append([codec.end_record(time_ms, self._headers(begin))])
            self.flush()
            self.ended = True
            return None
        first = self._block_of(begin)
        if self._made is None or self._made[0].begin != first:
            block = self._truth.block(first)
            self._made = block, self._encode(block)
        block, batch = self._made
        stop = self._end_of(block)
        if self.step_events is not None:
            stop = min(stop, begin - (begin - first) % self.step_events + self.step_events)
        self._append_truth(block, stop)
        records = self._json_records if config.codec == "json" else self._columnar_records
        self._clicks.append(list(records(block, batch, stop)))
        self.count = stop
        return stop - begin

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""
        self._truths.flush()
        self._clicks.flush()

    def close(self) -> None:
        """Flush and release both logs."""
        self._truths.close()
        self._clicks.close()

    def _block_of(self, count: int) -> int:
        """Return where the block begins that holds the event after ``count``."""
        return count - count % self._config.block_events

    def _end_of(self, block: Block) -> int:
        """Return where a block ends, or the stream inside it."""
        end, events = block.begin + len(block.label), self._config.events
        return end if events is None else min(end, events)

    def _stretches(self, block: Block, begin: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut events of a block into records, the last one short where the block is."""
        size = self._config.record_events
        while begin < stop:
            end = min(stop, begin + size - (begin - block.begin) % size)
            yield begin, end
            begin = end

    def _append_truth(self, block: Block, stop: int) -> None:
        """Append the truth of a block, as far as that is not there."""
        records = []
        for begin, end in self._stretches(block, max(self._truth_count, block.begin), stop):
            probability = block.probability[begin - block.begin : end - block.begin]
            drift = self._truth.drifting(begin, end)
            value = columnar.truth_to_bytes(columnar.TruthBatch(begin, probability, drift))
            records.append(Record(value, self._headers(end), int(self._times(begin, 1)[0])))
        self._truths.append(records)
        self._truth_count = max(self._truth_count, stop)

    def _columnar_records(self, block: Block, batch: ClickBatch, stop: int) -> Iterator[Record]:
        for begin, end in self._stretches(block, self.count, stop):
            part = batch[begin - block.begin : end - block.begin]
            yield codec.columnar_record(part, self.source.schema, self._headers(end))

    def _json_records(self, block: Block, batch: ClickBatch, stop: int) -> Iterator[Record]:
        """Write one event a record; float32 to double and back loses nothing."""
        names = [
            [_name(item, age) for item, age in enumerate(ages)]
            for ages in block.generation.tolist()
        ]
        items = block.contexts.item.tolist()
        for count in range(self.count, stop):
            row = count - block.begin
            event = ClickEvent.model_construct(
                event_id=str(count),
                event_time=EPOCH + int(batch.time_ms[row]) * MILLISECOND,
                label=1 if batch.label[row] else 0,
                numeric={f"x_{i}": x for i, x in enumerate(batch.numeric[row].tolist())},
                categorical={f"item_{i}": names[i][item] for i, item in enumerate(items[row])},
            )
            yield codec.json_record(event, self._headers(count + 1))

    def _encode(self, block: Block) -> ClickBatch:
        n, columns = len(block.label), []
        for i, bucket in enumerate(self._buckets):
            # The bucket of each item of the field, as the schema hashes its name.
            names = map(_name, range(self._config.items), block.generation[i].tolist())
            buckets = np.array([*map(bucket, names)], np.int32)
            columns.append(buckets[block.contexts.item[:, i]])
        return ClickBatch(
            label=block.label,
            weight=np.ones(n, np.float32),
            time_ms=self._times(block.begin, n),
            numeric=block.contexts.numeric,
            categorical=np.stack(columns, axis=1),
        )

    def _times(self, begin: int, n: int) -> NDArray[np.int64]:
        count = np.arange(begin, begin + n, dtype=np.int64)
        config = self._config
        return np.asarray(config.start_ms + count * 1000 // config.events_per_second)

    def _headers(self, count: int) -> Headers:
        return (("source", self.source.identity), ("count", str(count).encode()))


def _name(item: int, age: int) -> str:
    """Name an item; one that has replaced another has another name."""
    return f"{item}.{age}"
