"""A home that only looks: it makes no topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from stream.log import KafkaConfig, LogError
from stream.log.kafka.store import KafkaLogStore
from tests.stream.kafka_tools import Stranger
from tests.stream.log_contract import everything, numbered, records


@pytest.fixture
def looking(kafka_config: KafkaConfig) -> Iterator[KafkaLogStore]:
    with closing(KafkaLogStore(kafka_config, writable=False)) as home:
        yield home


OPENING: dict[str, Callable[[KafkaLogStore], object]] = {
    "reader": lambda home: home.reader("clicks"),
    "writer": lambda home: home.writer("clicks"),
}


@pytest.mark.parametrize("opening", OPENING)
def test_a_topic_that_is_missing_is_refused_and_not_made(
    opening: str, looking: KafkaLogStore, kafka_config: KafkaConfig
) -> None:
    stranger = Stranger(kafka_config)
    told = f"there is no log 'clicks' (topic '{kafka_config.prefix}clicks') on the broker at "
    with pytest.raises(LogError, match=re.escape(told)):
        OPENING[opening](looking)
    with stranger.admin() as admin:
        assert stranger.topic("clicks") not in admin.list_topics()


def test_a_topic_that_is_there_is_read_and_written(
    looking: KafkaLogStore, kafka_config: KafkaConfig
) -> None:
    stranger = Stranger(kafka_config)
    assert not looking.exists("clicks")
    stranger.create("clicks", retention_ms="-1")
    assert looking.exists("clicks")
    with closing(looking.writer("clicks")) as writer:
        writer.append(numbered(3))
        writer.flush()
    assert records(everything(looking.reader("clicks"))) == numbered(3)
    with stranger.consumer() as consumer:
        assert consumer.partitions_for_topic(stranger.topic("clicks")) == {0}
