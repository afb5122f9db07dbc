"""Every home of logs, under the same checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.log import LogStore
from stream.log.kafka.store import KafkaLogStore
from stream.log.local import LocalLogStore
from tests.stream.log_contract import CHECKS, PARTED_CHECKS, Check


@pytest.fixture(params=["embedded", "kafka"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    """A home without logs, of each kind."""
    if request.param == "kafka":
        kafka: KafkaLogStore = request.getfixturevalue("kafka_home")
        return kafka
    return LocalLogStore(tmp_path)


@pytest.fixture(params=["embedded", "kafka"])
def parted_home(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    """A home whose log "clicks" has three partitions, of each kind."""
    if request.param == "kafka":
        kafka: KafkaLogStore = request.getfixturevalue("kafka_home")
        kafka.create({"clicks": 3})
        return kafka
    local = LocalLogStore(tmp_path)
    local.create({"clicks": 3})
    return local


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_home_keeps_the_contract(check: Check, home: LogStore) -> None:
    check(home)


@pytest.mark.parametrize("check", PARTED_CHECKS, ids=lambda check: check.__name__)
def test_a_home_keeps_the_contract_with_several_partitions(
    check: Check, parted_home: LogStore
) -> None:
    check(parted_home)
