"""A synthetic click stream, and the log of its truth, that go on exactly where they end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stream import codec, columnar, topics
from stream.batch import ClickBatch
from stream.events import EPOCH, ClickEvent
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
        """Go on where the click log ends, or begin it.

        Raises
        ------
        ValueError
            If the log was made by another generator, seed or configuration, or has several
            partitions: the truth is counted, and their events have no order to be counted in.
        """
        with closing(store.reader(topics.CLICKS)) as reader:
            if reader.partitions != (0,):
                raise ValueError(
                    f"the click log has {len(reader.partitions)} partitions; the generator writes "
                    "one of partition 0 alone: make it anew with one"
                )
            last = reader.last(0)
        begin = _resume_at(last, self.identity)
        ended = last is not None and codec.kind_of(last) == codec.END
        if ended and begin != self.config.events:
            raise ValueError(
                f"the click log has ended after {begin} events and cannot go on to "
                f"{self.config.events}; use another folder"
            )
        return GeneratorFeed(self, store, begin, ended)

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


@dataclass
class GeneratorFeed:
    """Appends the stream to the logs, a block a step or less; truth first, so no click lacks it."""

    source: GeneratorSource
    store: LogStore
    count: int
    """Events in the click log."""
    ended: bool
    step_events: int | None = None
    """Most events of a step, a multiple of those of a record; None: the rest of a block."""
    _truth: Truth = field(init=False)
    _clicks: LogWriter = field(init=False)
    _truths: LogWriter = field(init=False)
    _truth_count: int = field(init=False)
    _bucket: dict[tuple[int, int, int], int] = field(init=False, default_factory=dict)
    _made: tuple[Block, ClickBatch] | None = field(init=False, default=None)
    """The last block, and its clicks."""

    def __post_init__(self) -> None:
        self._truth = Truth(self.source.config, self.source.seed)
        self._clicks = self.store.writer(topics.CLICKS)
        self._truths = self.store.writer(topics.TRUTH)
        with closing(self.store.reader(topics.TRUTH)) as reader:
            self._truth_count = _resume_at(reader.last(0), self.source.identity)
        self._catch_up()

    def step(self) -> int | None:
        """Append the next events of a block; None once the stream has ended."""
        if self.ended:
            return None
        if self.source.config.events is not None and self.count >= self.source.config.events:
            end = codec.end_record(int(self._times(self.count, 1)[0]), self._headers(self.count))
            self._clicks.append([end])
            self.flush()
            self.ended = True
            return None
        begin = self.count
        block, batch = self._block(self._block_of(begin))
        self._truths.append(list(self._truth_records(block)))
        self._clicks.append(list(self._click_records(block, batch)))
        return self.count - begin

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""
        self._truths.flush()
        self._clicks.flush()

    def close(self) -> None:
        """Flush and release both logs."""
        self._truths.close()
        self._clicks.close()

    def _catch_up(self) -> None:
        """Write the truth of clicks whose truth was lost; a crash may cost two logs unevenly."""
        size = self.source.config.block_events
        if self._truth_count < self.count:
            for begin in range(self._block_of(self._truth_count), self.count, size):
                self._truths.append(list(self._truth_records(self._truth.block(begin))))

    def _block_of(self, count: int) -> int:
        """Return where the block begins that holds the event after ``count``."""
        return count - count % self.source.config.block_events

    def _block(self, begin: int) -> tuple[Block, ClickBatch]:
        """Make a block, or return it again if it is the last one made."""
        if self._made is None or self._made[0].begin != begin:
            block = self._truth.block(begin)
            self._made = (block, self._encode(block))
        return self._made

    def _stop(self, block: Block) -> int:
        """Return where this step ends: with the block, with the stream, or before."""
        config, stop = self.source.config, block.begin + len(block.label)
        if self.step_events is not None:
            into = self.count % config.block_events % self.step_events
            stop = min(stop, self.count - into + self.step_events)
        return stop if config.events is None else min(stop, config.events)

    def _stretches(self, stop: int, begin: int) -> Iterator[tuple[int, int]]:
        """Cut events of a block into records, the last one short where the block is."""
        config = self.source.config
        while begin < stop:
            end = begin + config.record_events - begin % config.block_events % config.record_events
            end = min(stop, end)
            yield begin, end
            begin = end

    def _truth_records(self, block: Block) -> Iterator[Record]:
        for begin, end in self._stretches(self._stop(block), max(self._truth_count, block.begin)):
            probability = block.probability[begin - block.begin : end - block.begin]
            truth = columnar.TruthBatch(begin, probability, self._truth.drifting(begin, end))
            yield Record(
                columnar.truth_to_bytes(truth), self._headers(end), int(self._times(begin, 1)[0])
            )
            self._truth_count = end

    def _click_records(self, block: Block, batch: ClickBatch) -> Iterator[Record]:
        if self.source.config.codec == "json":
            yield from self._json_records(block, batch)
            return
        for begin, end in self._stretches(self._stop(block), self.count):
            part = batch[begin - block.begin : end - block.begin]
            yield codec.columnar_record(part, self.source.schema, self._headers(end))
            self.count = end

    def _json_records(self, block: Block, batch: ClickBatch) -> Iterator[Record]:
        """Write one event a record; float32 to double and back loses nothing."""
        names, items = self._names(block), block.contexts.item.tolist()
        for row in range(self.count - block.begin, self._stop(block) - block.begin):
            event = ClickEvent.model_construct(
                event_id=str(block.begin + row),
                event_time=EPOCH + timedelta(milliseconds=int(batch.time_ms[row])),
                label=1 if batch.label[row] else 0,
                numeric={f"x_{i}": x for i, x in enumerate(batch.numeric[row].tolist())},
                categorical={f"item_{i}": names[i][item] for i, item in enumerate(items[row])},
            )
            yield codec.json_record(event, self._headers(block.begin + row + 1))
            self.count = block.begin + row + 1

    def _encode(self, block: Block) -> ClickBatch:
        n = len(block.label)
        fields = range(self.source.config.fields)
        columns = [self._buckets(block, i)[block.contexts.item[:, i]] for i in fields]
        return ClickBatch(
            label=block.label,
            weight=np.ones(n, np.float32),
            time_ms=self._times(block.begin, n),
            numeric=block.contexts.numeric,
            categorical=np.stack(columns, axis=1),
        )

    def _buckets(self, block: Block, i: int) -> NDArray[np.int32]:
        """Bucket of each item of field ``i``, as the schema hashes its name."""
        feature = self.source.schema.categorical[i]
        buckets = np.empty(self.source.config.items, np.int32)
        for item, age in enumerate(block.generation[i].tolist()):
            key = (i, item, age)
            if key not in self._bucket:
                self._bucket[key] = feature.bucket(_name(item, age))
            buckets[item] = self._bucket[key]
        return buckets

    def _names(self, block: Block) -> list[list[str]]:
        """Name each item of each field, as of this block."""
        return [
            [_name(item, age) for item, age in enumerate(ages)]
            for ages in block.generation.tolist()
        ]

    def _times(self, begin: int, n: int) -> NDArray[np.int64]:
        count = np.arange(begin, begin + n, dtype=np.int64)
        config = self.source.config
        return np.asarray(config.start_ms + count * 1000 // config.events_per_second)

    def _headers(self, count: int) -> Headers:
        return (("source", self.source.identity), ("count", str(count).encode()))


def _name(item: int, age: int) -> str:
    """Name an item; one that has replaced another has another name."""
    return f"{item}.{age}"
