"""A synthetic click stream, and the log of its truth, that go on exactly where they end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream import codec, columnar, topics
from stream.batch import ClickBatch
from stream.config import GeneratorConfig
from stream.log import Headers, LogHome, LogWriter, Record, StoredRecord
from stream.schema import FeatureSchema
from stream.truth import Block, Truth


@dataclass(frozen=True)
class GeneratorSource:
    """A source of synthetic clicks, and of their truth in a log of its own."""

    config: GeneratorConfig
    seed: int

    @property
    def schema(self) -> FeatureSchema:
        """The features of the stream."""
        return self.config.features

    def attach(self, home: LogHome) -> GeneratorFeed:
        """Go on where the click log ends, or begin it.

        Raises
        ------
        ValueError
            If the log was made by another generator, seed or configuration.
        """
        reader = home.reader(topics.CLICKS)
        last = reader.last(0)
        reader.close()
        begin = _resume_at(last, self.identity)
        ended = last is not None and codec.kind_of(last) == codec.END
        if ended and begin != self.config.events:
            raise ValueError(
                f"the click log has ended after {begin} events and cannot go on to "
                f"{self.config.events}; use another folder"
            )
        return GeneratorFeed(self, home, begin, ended)

    @property
    def identity(self) -> bytes:
        """Digest of all that the events depend on; every record bears it."""
        config = self.config.model_dump_json(exclude={"events"})
        return hashlib.blake2b(f"{self.seed} {config}".encode(), digest_size=8).hexdigest().encode()


def _resume_at(last: StoredRecord | None, identity: bytes) -> int:
    if last is None:
        return 0
    made_by, count = last.header("source"), last.header("count")
    if made_by != identity or count is None:
        raise ValueError(
            f"the click log was made by source {(made_by or b'unknown').decode()}, not by this "
            f"generator ({identity.decode()}): use another folder, or the configuration and seed "
            "that it was begun with"
        )
    return int(count)


@dataclass
class GeneratorFeed:
    """Appends the stream to the logs, a block a step; truth first, so no click lacks its truth."""

    source: GeneratorSource
    home: LogHome
    count: int
    """Events in the click log."""
    ended: bool
    _truth: Truth = field(init=False)
    _clicks: LogWriter = field(init=False)
    _truths: LogWriter = field(init=False)
    _truth_count: int = field(init=False)
    _bucket: dict[tuple[int, int, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._truth = Truth(self.source.config, self.source.seed)
        self._clicks = self.home.writer(topics.CLICKS)
        self._truths = self.home.writer(topics.TRUTH)
        reader = self.home.reader(topics.TRUTH)
        self._truth_count = _resume_at(reader.last(0), self.source.identity)
        reader.close()

    def step(self) -> int | None:
        """Append the rest of a block; None once the stream has ended."""
        if self.ended:
            return None
        if self.source.config.events is not None and self.count >= self.source.config.events:
            end = codec.end_record(int(self._times(self.count, 1)[0]), self._headers(self.count))
            self._clicks.append([end])
            self.flush()
            self.ended = True
            return None
        begin = self.count
        block = self._truth.block(begin - begin % self.source.config.block_events)
        self._truths.append(list(self._truth_records(block)))
        self._clicks.append(list(self._click_records(block)))
        return self.count - begin

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""
        self._truths.flush()
        self._clicks.flush()

    def close(self) -> None:
        """Flush and release both logs."""
        self._truths.close()
        self._clicks.close()

    def _stretches(self, block: Block, begin: int) -> Iterator[tuple[int, int]]:
        """Cut what is left of a block into records, the last one short where the stream ends."""
        config = self.source.config
        stop = block.begin + len(block.label)
        if config.events is not None:
            stop = min(stop, config.events)
        while begin < stop:
            end = min(stop, begin + config.record_events - begin % config.record_events)
            yield begin, end
            begin = end

    def _truth_records(self, block: Block) -> Iterator[Record]:
        for begin, end in self._stretches(block, max(self._truth_count, block.begin)):
            probability = block.probability[begin - block.begin : end - block.begin]
            truth = columnar.TruthBatch(begin, probability, self._truth.drifting(begin, end))
            yield Record(
                columnar.truth_to_bytes(truth), self._headers(end), int(self._times(begin, 1)[0])
            )
            self._truth_count = end

    def _click_records(self, block: Block) -> Iterator[Record]:
        batch = self._encode(block)
        for begin, end in self._stretches(block, self.count):
            part = batch[begin - block.begin : end - block.begin]
            yield codec.columnar_record(part, self.source.schema, self._headers(end))
            self.count = end

    def _encode(self, block: Block) -> ClickBatch:
        n = len(block.label)
        columns = [self._buckets(block, i)[block.contexts.item[:, i]] for i in range(self._fields)]
        return ClickBatch(
            label=block.label,
            weight=np.ones(n, np.float32),
            time_ms=self._times(block.begin, n),
            numeric=block.contexts.numeric,
            categorical=np.stack(columns, axis=1),
        )

    @property
    def _fields(self) -> int:
        return self.source.config.fields

    def _buckets(self, block: Block, i: int) -> NDArray[np.int32]:
        """Bucket of each item of field ``i``, as the schema hashes its name."""
        feature = self.source.schema.categorical[i]
        buckets = np.empty(self.source.config.items, np.int32)
        for item, age in enumerate(block.generation[i].tolist()):
            key = (i, item, age)
            if key not in self._bucket:
                self._bucket[key] = feature.bucket(f"{item}.{age}")
            buckets[item] = self._bucket[key]
        return buckets

    def _times(self, begin: int, n: int) -> NDArray[np.int64]:
        count = np.arange(begin, begin + n, dtype=np.int64)
        config = self.source.config
        return np.asarray(config.start_ms + count * 1000 // config.events_per_second)

    def _headers(self, count: int) -> Headers:
        return (("source", self.source.identity), ("count", str(count).encode()))
