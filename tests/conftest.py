"""What tests of several folders share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from stream.log import KafkaConfig
from stream.log.kafka.store import KafkaLogStore
from tests.kafka_server import any_broker, forget

# How long an example takes depends on what else the machine does.
settings.register_profile("resprout", deadline=None)
settings.load_profile("resprout")

# A container that comes or goes changes the machine's network addresses, and then a browser breaks
# its connections off (ERR_NETWORK_CHANGED).
NETWORK = (
    "tests/docker/",
    "tests/evaluator/page/test_browser.py",
    "tests/evaluator/page/test_choices.py",
    "tests/evaluator/page/test_default_view.py",
    "tests/evaluator/page/test_drawn.py",
)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file run in one process, and those of NETWORK one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return "network" if nodeid.startswith(NETWORK) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Say which process takes which test."""
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaConfig]:
    """How to reach a Kafka broker; give each test a prefix of its own."""
    with any_broker(tmp_path_factory.mktemp("kafka")) as config:
        yield config


@pytest.fixture
def kafka_config(kafka: KafkaConfig) -> Iterator[KafkaConfig]:
    """How to reach the broker, with names of topics that nobody else uses."""
    config = kafka.model_copy(update={"prefix": f"t{uuid.uuid4().hex[:12]}."})
    yield config
    forget(config)


@pytest.fixture
def kafka_home(kafka_config: KafkaConfig) -> Iterator[KafkaLogStore]:
    """A store without logs, on the broker; it may delete from its topics."""
    home = KafkaLogStore(kafka_config.model_copy(update={"allow_trim": True}))
    yield home
    home.close()
