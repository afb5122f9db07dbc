from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from stream.codec import decode
from stream.log import KafkaConfig
from stream.log.kafka.store import KafkaLogStore
from stream.schema import load_schema

EXAMPLES = Path(__file__).parents[2] / "examples"
SENT = 20_000
"""Events that the producer sends."""


def send(bootstrap: str, topic: str = "clicks") -> None:
    """Run the producer as it stands, against the broker at another address."""
    script = (EXAMPLES / "producer.py").read_text("utf-8")
    for name, other in {"localhost:9092": bootstrap, '"clicks"': repr(topic)}.items():
        assert script.count(name) == 1
        script = script.replace(name, other)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_what_the_producer_sends_are_valid_events_of_the_schema(
    kafka_config: KafkaConfig, kafka_home: KafkaLogStore
) -> None:
    kafka_home.create({"clicks": 1})
    send(kafka_config.bootstrap, f"{kafka_config.prefix}clicks")
    schema = load_schema(EXAMPLES / "clicks.toml")
    offset = events = clicks = 0
    with closing(kafka_home.reader("clicks")) as log:
        while records := log.read(0, offset, 5_000):
            decoded = decode(records, schema)
            assert decoded.invalid == ()
            events += len(decoded.batch)
            clicks += int(decoded.batch.label.sum())
            offset = records[-1].next_offset
    assert events == SENT
    # A fifth of all; of the games, each third, a fourth as well, less those that are in both.
    assert clicks == SENT // 5 + 1_667 - 333
