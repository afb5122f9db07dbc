"""All workers as processes, over events that somebody else sends into two partitions of a topic.

What they leave on the broker is scored with scikit-learn.
"""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from kafka import KafkaProducer
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from resprout.cli import main
from stream.log import KafkaConfig
from tests.kafka_server import forget
from tests.redis_server import redis_server
from tests.resprout.crew import LEARNERS, Crew, crew, until
from tests.resprout.eventful import BATCH, eventful
from tests.resprout.on_broker import BAD, MODELS, Found
from tests.resprout.test_workers import SCHEMA, has_come

FIRST, DRIFT, TOTAL = 7_000, 8_000, 14_050
"""Events through the one at which the first mask takes over, before the drift, and in all."""


def sent(n: int, rng: np.random.Generator) -> tuple[int, bytes]:
    """Make an event: its partition, the first of which gets two thirds, and its JSON."""
    site, price = int(rng.integers(7)), float(rng.normal())
    odds = price * (2 if n < DRIFT else -2) + (site - 3) / 2
    label = int(rng.random() < 1 / (1 + np.exp(-odds)))
    event = {
        "event_id": f"e{n}",
        "event_time": 1_767_225_600 + n,
        "label": label,
        "weight": 1 if label else 2.5,
        "numeric": {"price": price},
        "categorical": {"site": f"s{site}"},
    }
    return int(n % 3 == 0), json.dumps(event).encode()


class Sender:
    """Somebody else's producer, who sends what is no event now and then."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        rng = np.random.default_rng(3)
        self._events = [sent(n, rng) for n in range(TOTAL)]

    def send(self, begin: int, end: int) -> None:
        topic = f"{self._config.prefix}clicks"
        with closing(KafkaProducer(bootstrap_servers=self._config.bootstrap)) as producer:
            for n in range(begin, end):
                partition, value = self._events[n]
                if n % 1_000 == 0:
                    producer.send(topic, BAD, partition=1 - partition)
                producer.send(topic, value, partition=partition)
            if end == TOTAL:
                for partition in (0, 1):
                    producer.send(topic, b"", partition=partition, headers=[("kind", b"end")])
            producer.flush()


def live(team: Crew, sender: Sender) -> None:
    """Let them all work; in the middle two are stopped and one is killed, and events continue."""
    schema = ("--schema", str(team.folder / "schema.toml"))
    for name in LEARNERS:
        team.start(name, *schema)
    sender.send(0, 7_600)
    for name in (*MODELS, "evaluator"):
        until(has_come(team.hands[name], 7_300), team)
    assert team.hands["sparse"].end(signal.SIGKILL) == -signal.SIGKILL
    for name in ("dense", "evaluator"):
        hand = team.hands[name]
        assert (name, hand.end(signal.SIGTERM)) == (name, 0), hand.text
        assert f"{name} stopped; the same command continues from there" in hand.text
    sender.send(7_600, 10_700)
    for name in ("evaluator", "sparse", "dense"):
        team.start(name, *schema)
    until(has_come(team.hands["evaluator"], 10_500), team)
    sender.send(10_700, TOTAL)
    for name, hand in team.hands.items():
        assert (name, hand.wait()) == (name, 0), hand.text
        assert f"{name} is done after 14" in hand.text


@dataclass(frozen=True)
class Over:
    """A run that is over."""

    found: Found
    masks: dict[str, Any]
    """As the command line lists them."""


@pytest.fixture(scope="module")
def over(kafka: KafkaConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Over]:
    folder = tmp_path_factory.mktemp("partitions")
    config = kafka.model_copy(update={"prefix": f"t{uuid.uuid4().hex[:12]}."})
    (folder / "schema.toml").write_text(SCHEMA)
    with redis_server(folder / "redis") as redis:
        settings = eventful(
            stream__home="kafka",
            stream__kafka__bootstrap=config.bootstrap,
            stream__kafka__prefix=config.prefix,
            store__kind="redis",
            store__url=redis.url,
        )
        with crew(folder, settings) as team:
            call("topics", "--partitions", "2", "--config", str(team.config))
            live(team, Sender(config))
            asked = ("masks", "list", "--json")
            listed = call(*asked, "--state", str(team.state), "--config", str(team.config))
    yield Over(Found.read(config), json.loads(listed))
    forget(config)


def call(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_event_of_both_partitions_is_predicted_once(over: Over) -> None:
    found = over.found
    assert len(found.events) == TOTAL
    order = found.order("dense")
    assert len(order) == len(found.probability("dense")) == TOTAL
    assert sorted(order) == sorted(found.events)
    for number in (0, 1):
        offsets = [offset for partition, offset in order if partition == number]
        assert offsets == sorted(offsets)


def test_all_models_follow_the_order_that_dense_states(over: Over) -> None:
    dense = over.found.batches["dense"]
    assert sorted(dense) == list(range(0, TOTAL, BATCH))
    for model in ("sparse", "never_rebuilt"):
        batches = over.found.batches[model]
        assert sorted(batches) == list(range(FIRST, TOTAL, BATCH))
        for begin, batch in batches.items():
            assert batch.about["spans"] == dense[begin].about["spans"]


def test_no_model_has_learned_from_what_it_predicts(over: Over) -> None:
    for batch in (b for one in over.found.batches.values() for b in one.values()):
        through = {p: (offset, row) for p, offset, row in batch.about["trained_through"]}
        for partition, offset, row, *_ in batch.about["spans"]:
            assert through.get(partition, (-1, -1)) < (offset, row)


def test_there_is_one_window_of_each_number(over: Over) -> None:
    told = [(window["size"], window["begin"], window["end"]) for window in over.found.windows]
    assert sorted(told) == [
        (size, begin, min(begin + size, TOTAL))
        for size in (500, 1_000)
        for begin in range(0, TOTAL, size)
    ]
    assert {w["end"] for w in over.found.windows if w["partial"]} == {TOTAL}


def entropy(label: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    rate = np.average(label, weights=weight)
    return float(log_loss(label, np.full(len(label), rate), sample_weight=weight, labels=[0, 1]))


def test_windows_are_what_the_topics_give(over: Over) -> None:
    """Each is scored anew; sparse models have scores from where they began."""
    found = over.found
    label, weight = found.column("label"), found.column("weight")
    probability = {m: np.full(TOTAL, np.nan) for m in MODELS}
    for model in MODELS:
        begun = 0 if model == "dense" else FIRST
        probability[model][begun:] = found.probability(model)
    for window in found.windows:
        at = slice(window["begin"], window["end"])
        y, w = label[at], weight[at]
        assert window["clicks"] == pytest.approx(np.sum(w * y))
        assert window["weight"] == pytest.approx(np.sum(w))
        dense = log_loss(y, probability["dense"][at], sample_weight=w, labels=[0, 1])
        for model in MODELS:
            score, p = window["models"][model], probability[model][at]
            if model != "dense" and window["begin"] < FIRST:
                assert score is None
                continue
            ce = log_loss(y, p, sample_weight=w, labels=[0, 1])
            metrics, errors = score["metrics"], score["errors"]
            assert metrics["ce"] == pytest.approx(ce, rel=1e-9)
            assert metrics["ne"] == pytest.approx(ce / entropy(y, w), rel=1e-9)
            assert metrics["calibration"] == pytest.approx(np.sum(w * p) / np.sum(w * y))
            auc = roc_auc_score(y, p, sample_weight=w)
            assert abs(metrics["roc_auc"] - auc) <= errors["roc_auc"] + 1e-9
            if model != "dense":
                assert metrics["relative_ce"] == pytest.approx(ce / dense - 1)


def test_the_first_mask_and_a_rebuild_are_decided_and_the_store_follows(over: Over) -> None:
    verdicts = [one for one in over.found.ledger if one["kind"] == "verdict"]
    told = [(one["rebuild"]["decided"], one["rebuild"]["end"]) for one in verdicts]
    assert told == [(4_000, FIRST), (10_000, 13_000), (14_000, 17_000)]
    assert [one["verdict"] for one in verdicts[::2]] == ["promoted", "unfinished"]
    promoted = sum(one["verdict"] == "promoted" for one in verdicts)
    assert over.masks["store_away"] is None
    assert (over.masks["in_force"], len(over.masks["versions"])) == (promoted, promoted)
    versions = {b.about["version"] for b in over.found.batches["sparse"].values()}
    assert versions == set(range(1, promoted + 1))


def test_each_bad_record_is_one_dead_letter(over: Over) -> None:
    told: Sequence[tuple[int, int]] = [
        (one["partition"], one["offset"]) for one in over.found.letters
    ]
    assert len(over.found.bad) == 15
    assert sorted(told) == sorted(over.found.bad)
