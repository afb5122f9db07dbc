"""Small runs give the very bits that were committed."""

from __future__ import annotations

import platform

import pytest

from stream.log import KafkaConfig
from tests.golden.make import SERVERLESS, known, taken

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="the golden hashes are of x86-64; `python -m tests.golden.make` takes those of others",
)


@pytest.mark.parametrize("scenario", SERVERLESS)
def test_a_run_gives_the_bits_that_were_committed(scenario: str) -> None:
    assert taken(scenario) == known()[scenario]


def test_a_run_over_kafka_gives_the_bits_that_were_committed(kafka_config: KafkaConfig) -> None:
    broker = {"bootstrap": kafka_config.bootstrap, "prefix": kafka_config.prefix}
    assert taken("kafka", broker) == known()["kafka"]


def test_a_run_whose_logs_are_trimmed_gives_the_same_bits() -> None:
    """Only of the predictions fewer are left."""
    found, whole = taken("trimmed"), known()["demo"]
    assert [part for part in whole if found[part] != whole[part]] == ["predictions"]
