"""Logs of several partitions in every home, under the same checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.log import LogStore
from stream.log.kafka.store import KafkaLogStore
from stream.log.local import LocalLogStore
from tests.stream.partition_contract import CHECKS, Check

TWO = {"clicks": 2}


@pytest.fixture(params=["embedded", "kafka"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    """A home whose log of clicks has two partitions, of each kind."""
    if request.param == "kafka":
        kafka: KafkaLogStore = request.getfixturevalue("kafka_home")
        kafka.create(TWO)
        return kafka
    local = LocalLogStore(tmp_path)
    local.create(TWO)
    return local


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_home_keeps_the_contract_of_partitions(check: Check, home: LogStore) -> None:
    check(home)
