"""A producer that sends something wrong sees why within seconds, long before there is a batch."""

from __future__ import annotations

import base64
import json
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from resprout.cli import main
from stream import topics
from stream.log import KafkaConfig
from stream.log.kafka.store import KafkaLogStore
from tests.resprout.crew import Crew, Hand, crew, until
from tests.resprout.eventful import eventful

SCHEMA = """
[[numeric]]
name = "price"
"""
BAD = b'{"event_id": "a", "event_time": "2026-01-01T00:00:00Z", "label": 7}'
SOON = 15.0
"""Seconds; it takes less than one where the machine has nothing else to do."""


def letters(team: Crew) -> list[dict[str, Any]]:
    """Ask as a person does."""
    where = ("--state", str(team.state), "--config", str(team.config))
    result = CliRunner().invoke(main, ["deadletters", *where, "--json"])
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["letters"]
    return found


def waits(evaluator: Hand) -> bool:
    """Ask whether it has opened its logs, and has nothing to do."""
    return (evaluator.state().get("waiting_for") or "").startswith(("clicks", "predictions.dense"))


def event(number: int) -> bytes:
    made = {
        "event_id": str(number),
        "event_time": f"2026-01-01T00:00:{number:02}Z",
        "label": number % 2,
        "numeric": {"price": number},
    }
    return json.dumps(made).encode()


@pytest.mark.parametrize("partitions", [1, 2])
def test_one_bad_event_is_told_of_before_there_is_a_batch_and_once_after_a_kill(
    partitions: int, kafka_config: KafkaConfig, tmp_path: Path
) -> None:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    schema = ("--schema", str(tmp_path / "schema.toml"))
    on_broker = {"stream__home": "kafka", "stream__kafka__bootstrap": kafka_config.bootstrap}
    settings = eventful(**on_broker, stream__kafka__prefix=kafka_config.prefix)
    with closing(KafkaLogStore(kafka_config)) as home:
        home.create({topics.CLICKS: partitions})
    with (
        crew(tmp_path, settings) as team,
        closing(KafkaProducer(bootstrap_servers=kafka_config.bootstrap)) as producer,
    ):

        def send(value: bytes, partition: int) -> None:
            producer.send(f"{kafka_config.prefix}clicks", value, partition=partition).get(10)

        evaluator = team.start("evaluator", *schema)
        until(lambda: waits(evaluator), team)
        last = partitions - 1
        for partition in range(partitions):
            send(event(partition), partition)
        sent = time.monotonic()
        send(BAD, last)
        until(lambda: bool(letters(team)), team)
        assert time.monotonic() - sent < SOON
        [letter] = letters(team)
        assert (letter["partition"], letter["offset"], letter["reason"]) == (last, 1, "label")
        assert base64.b64decode(letter["raw"]) == BAD
        assert evaluator.end(signal.SIGKILL) == -signal.SIGKILL
        evaluator = team.start("evaluator", *schema)
        until(lambda: waits(evaluator), team)
        send(BAD, 0)
        until(lambda: len(letters(team)) > 1, team)
        assert evaluator.end(signal.SIGTERM) == 0, evaluator.text
    with (
        closing(KafkaLogStore(kafka_config)) as home,
        closing(home.reader(topics.DEAD_LETTERS)) as log,
    ):
        assert len(log.read(0, log.begin(0), 100)) == 2
