"""What a run has left on a broker, read with a plain client and with no code of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from stream.log import KafkaConfig

MODELS = ("dense", "sparse", "never_rebuilt")
BAD = b'{"event_id": 1'
"""A record that is no event."""

Messages = list[dict[str, Any]]
Position = tuple[int, int]
"""Partition and offset."""


def topic(config: KafkaConfig, log: str) -> Iterator[tuple[Position, bytes]]:
    """Read a topic to its end."""
    name = f"{config.prefix}{log}"
    with closing(KafkaConsumer(bootstrap_servers=config.bootstrap)) as consumer:
        at = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name)]
        consumer.assign(at)
        consumer.seek_to_beginning(*at)
        ends = consumer.end_offsets(at)
        while any(consumer.position(one) < end for one, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    yield (record.partition, record.offset), record.value


@dataclass(frozen=True)
class Batch:
    """One model's predictions, as they stand in the topic."""

    about: dict[str, Any]
    probability: NDArray[np.float64]

    @classmethod
    def read(cls, value: bytes) -> Batch:
        table = pa.ipc.open_stream(value).read_all()
        about = json.loads(table.schema.metadata[b"resprout.message"])
        return cls(about, table.column("probability").to_numpy())


@dataclass(frozen=True)
class Found:
    """All that stands on the broker afterwards."""

    events: dict[Position, dict[str, Any]]
    bad: list[Position]
    batches: dict[str, dict[int, Batch]]
    """Of each model, by the events before it."""
    windows: Messages
    ledger: Messages
    letters: Messages

    @classmethod
    def read(cls, config: KafkaConfig) -> Found:
        clicks = dict(topic(config, "clicks"))
        bad = [position for position, value in clicks.items() if value == BAD]
        return cls(
            {p: json.loads(value) for p, value in clicks.items() if value not in (BAD, b"")},
            bad,
            {model: _batches(config, model) for model in MODELS},
            [one for one in _messages(config, "windows") if one["kind"] == "window"],
            _messages(config, "ledger"),
            _messages(config, "deadletters"),
        )

    def order(self, model: str) -> list[Position]:
        """Return the positions of all events that a model predicted, in its order."""
        offsets = {number: sorted(o for p, o in self.events if p == number) for number in (0, 1)}
        return [
            (partition, offset)
            for _, batch in sorted(self.batches[model].items())
            for partition, first, _, last, _, _ in batch.about["spans"]
            for offset in offsets[partition]
            if first <= offset <= last
        ]

    def column(self, name: str) -> NDArray[np.float64]:
        """Return something of every event, in the order of dense."""
        return np.array([self.events[at][name] for at in self.order("dense")], float)

    def probability(self, model: str) -> NDArray[np.float64]:
        """Return its predictions, in its order."""
        return np.concatenate([b.probability for _, b in sorted(self.batches[model].items())])


def _batches(config: KafkaConfig, model: str) -> dict[int, Batch]:
    """Read predictions; what was published again after a restart must be the same."""
    found: dict[int, bytes] = {}
    for _, value in topic(config, f"predictions.{model}"):
        assert found.setdefault(Batch.read(value).about["begin"], value) == value
    return {begin: Batch.read(value) for begin, value in found.items()}


def _messages(config: KafkaConfig, log: str) -> Messages:
    """Read messages, each once."""
    return [json.loads(value) for value in dict.fromkeys(value for _, value in topic(config, log))]
