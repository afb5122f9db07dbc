"""The workers as separate processes leave what one process with all of them leaves, bit for bit."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaProducer

from pruner import StoreConfig
from pruner.masks.redis import RedisMaskStore
from resprout.folder import RunFolder
from stream import topics
from stream.log import KafkaConfig
from stream.log.kafka.store import KafkaLogStore
from tests.redis_server import redis_server
from tests.resprout.crew import LEARNERS, Hand, crew, until
from tests.resprout.eventful import PLAN, TOTAL, eventful
from tests.resprout.left import Left, assert_same

AT_ONCE = "stream.generator.rate=null"


@dataclass(frozen=True)
class Place:
    """Where logs and masks are."""

    settings: dict[str, str] = field(default_factory=dict)
    kafka: KafkaConfig | None = None

    def left(self, folder: RunFolder) -> Left:
        if self.kafka is None:
            return Left.by(folder)
        with ExitStack() as opened:
            home = opened.enter_context(closing(KafkaLogStore(self.kafka)))
            ledger = opened.enter_context(closing(home.reader(topics.LEDGER)))
            config = StoreConfig(kind="redis", url=self.settings["store__url"])
            store = opened.enter_context(closing(RedisMaskStore(config, ledger.identity)))
            return Left.by(folder, home, store)


@pytest.fixture(params=["in the state folder", "on a broker and a server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "in the state folder":
        yield Place()
        return
    kafka: KafkaConfig = request.getfixturevalue("kafka_config")
    with redis_server(tmp_path / "redis") as redis:
        settings = {
            "stream__home": "kafka",
            "stream__kafka__bootstrap": kafka.bootstrap,
            "stream__kafka__prefix": kafka.prefix,
            "store__kind": "redis",
            "store__url": redis.url,
        }
        yield Place(settings, kafka)


def waits_for(hand: Hand, what: str) -> Callable[[], bool]:
    """Ask whether a worker says that it waits for something."""
    return lambda: hand.state().get("waiting_for") == what


def has_come(hand: Hand, count: int) -> Callable[[], bool]:
    """Ask whether a worker has come through so many events, or to its end."""
    return lambda: not hand.process.is_alive() or hand.state().get("count", 0) >= count


@pytest.mark.parametrize(
    "learners",
    [LEARNERS, ("dense+sparse+never_rebuilt", "pruner", "evaluator")],
    ids=["each its own", "all models in one"],
)
def test_processes_leave_what_one_process_leaves(
    whole: RunFolder, tmp_path: Path, learners: tuple[str, ...]
) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        for name in ("source", *learners):
            team.start(name, "--set", AT_ONCE) if name == "source" else team.start(name)
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
        assert f"{TOTAL:,} events written to {team.state / 'logs'}" in team.hands["source"].text
    assert_same(Left.by(whole), Left.by(RunFolder(team.state)))


def test_processes_that_are_stopped_and_killed_go_on_from_where_they_stood(
    whole: RunFolder, tmp_path: Path, place: Place
) -> None:
    """At first the source all but stands still, after the first mask has taken over."""
    with crew(tmp_path, eventful(stream__generator__rate=0.1, **place.settings)) as team:
        sparse = team.start("sparse")
        until(waits_for(sparse, "the first mask (the prune worker, log ledger)"), team)
        for name in ("dense", "never_rebuilt", "pruner", "evaluator", "source"):
            team.start(name)
        for name in ("dense", "sparse", "evaluator"):
            until(has_come(team.hands[name], 7_100), team)
        for name, hand in list(team.hands.items()):
            if name in ("pruner", "never_rebuilt"):
                assert hand.end(signal.SIGKILL) == -signal.SIGKILL
            else:
                how = signal.SIGINT if name == "dense" else signal.SIGTERM
                assert (name, hand.end(how)) == (name, 0), hand.text
                assert f"{name} stopped; the same command continues from there" in hand.text
        for name in LEARNERS:
            team.start(name)
        team.start("source", "--set", AT_ONCE)
        until(has_come(team.hands["dense"], 12_000), team)
        assert team.hands["dense"].end(signal.SIGKILL) in (-signal.SIGKILL, 0)
        team.start("dense")
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
    assert_same(Left.by(whole), place.left(RunFolder(team.state)))


def test_a_source_waits_for_the_other_processes_and_ends_in_the_same_bits(
    whole: RunFolder, tmp_path: Path, place: Place
) -> None:
    """First for dense, which nobody has started; then for sparse, which is away.

    The evaluator cannot score what sparse has not predicted, so it is as far behind.
    """
    behind = "{} to be less than 6,000 events behind (stream.max_lead_events)".format
    with crew(tmp_path, eventful(stream__max_lead_events=6_000, **place.settings)) as team:
        source = team.start("source", "--set", AT_ONCE)
        said = f"source waits for {behind('dense')}, after 6,000 events"
        until(lambda: said in source.text, team)
        assert source.state()["count"] == 6_000
        for name in LEARNERS:
            team.start(name)
        until(has_come(team.hands["sparse"], 7_000), team)
        assert team.hands["sparse"].end(signal.SIGTERM) == 0
        behind_sparse = behind("sparse"), behind("evaluator")
        until(lambda: source.state().get("waiting_for") in behind_sparse, team)
        assert source.state()["count"] < TOTAL
        team.start("sparse")
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
    assert_same(Left.by(whole), place.left(RunFolder(team.state)))


def test_models_of_one_process_that_is_killed_go_on_in_any_other(
    whole: RunFolder, tmp_path: Path
) -> None:
    """Sparse waits for the first mask and for verdicts meanwhile, and dense does not."""
    with crew(tmp_path, eventful(stream__generator__rate=0.1)) as team:
        both = team.start("dense+sparse")
        team.start("source")
        until(lambda: (both.workers().get("dense", {}).get("count") or 0) > 1_000, team)
        assert both.workers()["sparse"]["waiting_for"] is not None
        for name in ("pruner", "evaluator"):
            team.start(name)
        until(lambda: (both.workers().get("sparse", {}).get("count") or 0) >= 7_000, team)
        assert both.end(signal.SIGKILL) == -signal.SIGKILL
        del team.hands["dense+sparse"]
        for name in ("dense", "sparse+never_rebuilt"):
            team.start(name)
        assert team.hands["source"].end(signal.SIGTERM) == 0
        team.start("source", "--set", AT_ONCE)
        until(has_come(team.hands["dense"], 12_000), team)
        for name in ("dense", "sparse+never_rebuilt"):
            assert team.hands[name].end(signal.SIGKILL) in (-signal.SIGKILL, 0)
            del team.hands[name]
        team.start("dense+sparse+never_rebuilt")
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
    assert_same(Left.by(whole), Left.by(RunFolder(team.state)))


@pytest.fixture
def nowhere() -> Iterator[tuple[str, ...]]:
    """Settings that name a broker which is not there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        yield ("--set", "stream.home=kafka", "--set", f"stream.kafka.bootstrap=127.0.0.1:{port}")


def test_a_worker_that_still_waits_for_its_broker_is_stopped_at_once(
    nowhere: tuple[str, ...], tmp_path: Path
) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        dense = team.start("dense", *nowhere)
        until(waits_for(dense, "its logs and its checkpoint"), team)
        assert dense.end(signal.SIGTERM) == 0, dense.text


def test_a_broker_that_does_not_come_is_told_in_a_line(
    nowhere: tuple[str, ...], tmp_path: Path
) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        dense = team.start("dense", *nowhere, "--set", "stream.kafka.gone_seconds=1")
        assert dense.wait() == 1
        last = dense.text.splitlines()[-1]
    assert last.startswith("Error: ")
    assert nowhere[-1].partition("=")[2] in last


SCHEMA = """
[[numeric]]
name = "price"
[[categorical]]
name = "site"
buckets = 50
"""


@pytest.mark.parametrize("partitions", [1, 2])
def test_events_that_a_producer_of_ones_own_sends_are_learned(
    partitions: int, kafka_config: KafkaConfig, tmp_path: Path
) -> None:
    """Nothing of ours writes them: they are JSON, one event a record, and there is no truth."""
    (tmp_path / "schema.toml").write_text(SCHEMA)
    on_broker = {"stream__home": "kafka", "stream__kafka__bootstrap": kafka_config.bootstrap}
    settings = eventful(**on_broker, stream__kafka__prefix=kafka_config.prefix)
    with closing(KafkaLogStore(kafka_config)) as home:
        home.create({topics.CLICKS: partitions})
    with crew(tmp_path, settings) as team:
        for name in ("dense", "evaluator"):
            team.start(name, "--schema", str(tmp_path / "schema.toml"))
        with closing(KafkaProducer(bootstrap_servers=kafka_config.bootstrap)) as producer:
            for n in range(1_030):
                event = {
                    "event_id": str(n),
                    "event_time": f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z",
                    "label": int(n % 7 < 2),
                    "numeric": {"price": n % 3},
                    "categorical": {"site": f"s{n % 7}"},
                }
                value = json.dumps(event).encode()
                producer.send(f"{kafka_config.prefix}clicks", value, partition=n % partitions)
            producer.flush()
        for name in ("dense", "evaluator"):
            until(has_come(team.hands[name], 1_000), team)
            assert team.hands[name].end(signal.SIGTERM) == 0, team.hands[name].text
