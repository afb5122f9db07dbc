"""The commands of the workers, as far as they need no process of their own."""

from __future__ import annotations

import json
import re
import socket
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kafka import KafkaConsumer

from resprout.cli import main
from resprout.cli.commands import origin
from resprout.folder import RunFolder
from resprout.settings import load
from resprout.spec import RunDefinition
from stream.log import KafkaConfig
from tests.resprout.small import SMALL, write_toml
from tests.resprout.test_cli import SCHEMA, write_clicks

WORKERS = {
    "source": ("generate",),
    "dense": ("learn", "dense"),
    "sparse": ("learn", "sparse"),
    "never_rebuilt": ("learn", "never_rebuilt"),
    "pruner": ("prune",),
    "evaluator": ("evaluate",),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a configuration, and clicks with their schema."""
    write_toml(tmp_path / "small.toml", SMALL | {"stream.generator.events": 1_000})
    (tmp_path / "schema.toml").write_text(SCHEMA)
    write_clicks(tmp_path / "clicks.csv")
    return tmp_path


def call(home: Path, *arguments: str | Path) -> Result:
    given = ("--config", home / "small.toml")
    return CliRunner().invoke(main, [str(word) for word in (*arguments, *given)])


def work(home: Path, *arguments: str | Path) -> Result:
    return call(home, *arguments, "--state", home / "state")


@pytest.mark.parametrize("name", WORKERS)
def test_a_second_worker_of_the_same_name_names_the_first(name: str, home: Path) -> None:
    with closing(RunFolder(home / "state").lock_worker(name)):
        result = work(home, *WORKERS[name])
    assert result.exit_code == 1
    assert f"workers/{name} is in use by {name} (process " in result.stderr


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_refused_where_one_process_runs_all_of_them(name: str, home: Path) -> None:
    with RunFolder(home / "state").lock():
        result = work(home, *WORKERS[name])
    assert result.exit_code == 1
    assert "is in use by resprout (process " in result.stderr


def test_a_run_is_refused_where_a_worker_is_at_work(home: Path) -> None:
    with closing(RunFolder(home / "state").lock_worker("evaluator")):
        result = work(home, "run")
    assert result.exit_code == 1
    assert "workers/evaluator is in use by evaluator (process " in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--set", "stream.batch_events=300"), "is not a multiple of stream.batch_events = 300"),
        (("--criterion", "fischer"), "unknown criterion 'fischer'"),
        (("--set", "serve.port=99999"), "serve.port = 99999 (argument)"),
        (("--schema", "none.toml"), "none.toml"),
        (("--set", "stream.kafka.bootstap=x"), "unknown setting stream.kafka.bootstap"),
    ],
)
def test_bad_settings_end_with_two_before_anything_starts(
    words: tuple[str, ...], complaint: str, home: Path
) -> None:
    result = work(home, "learn", "dense", *words)
    assert (result.exit_code, complaint in result.stderr) == (2, True), result.output
    assert not (home / "state").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("spares",), "unknown model 'spares'; known: dense, sparse, never_rebuilt, adapting"),
        (("dense", "pruner"), "unknown model 'pruner'"),
        (("sparse", "--never-rebuild"), "--never-rebuild is gone: `resprout learn never_rebuilt`"),
        ((), "Missing argument 'MODEL...'"),
    ],
)
def test_a_model_that_there_is_not_is_refused(
    words: tuple[str, ...], complaint: str, home: Path
) -> None:
    comparison = 'comparisons={"adapting": {"updater": "adaptation"}}'
    result = work(home, "learn", *words, "--set", comparison)
    assert (result.exit_code, complaint in result.stderr) == (2, True), result.output
    assert not (home / "state").exists()


def test_a_comparison_is_a_worker_like_any_other(home: Path) -> None:
    there = ("--set", 'comparisons={"adapting": {"updater": "adaptation"}}')
    models = ("--set", 'evaluator.models=["dense", "sparse", "adapting"]')
    ran = work(home, "run", "--set", "stream.generator.events=8000", *there, *models, "--json")
    assert ran.exit_code == 0, ran.output
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["adapting"]["ce"] > 0
    assert (home / "state" / "logs" / "progress.adapting").is_dir()
    given = ("--output", home / "out", "--state", home / "state")
    exported = CliRunner().invoke(main, [str(w) for w in ("export", "--model", "adapting", *given)])
    assert exported.exit_code == 0, exported.output
    assert "model.safetensors" in exported.stdout.splitlines()[0]
    unknown = CliRunner().invoke(main, [str(w) for w in ("export", "--model", "adaptin", *given)])
    known = "dense, sparse, never_rebuilt, adapting"
    assert (unknown.exit_code, f"--model 'adaptin' is none of {known}" in unknown.stderr) == (
        2,
        True,
    )
    with closing(RunFolder(home / "state").lock_worker("adapting")):
        refused = work(home, "run", "--set", "stream.generator.events=8000", *there, *models)
    assert "workers/adapting is in use by adapting" in refused.stderr


def test_a_worker_of_another_run_is_wrong_usage(home: Path) -> None:
    assert work(home, "generate").exit_code == 0
    result = work(home, "evaluate", "--seed", "1")
    assert result.exit_code == 2
    assert "begun otherwise: settings.seed was 0, is 1" in result.stderr


def test_generated_clicks_are_learned_by_a_process_of_its_own(home: Path) -> None:
    written = work(home, "generate")
    assert written.stdout == f"1,000 events written to {home / 'state' / 'logs'}\n"
    learned = work(home, "learn", "dense")
    assert learned.exit_code == 0
    assert "dense is done after 1,000 events" in learned.stderr
    assert (
        RunFolder(home / "state").snapshots.names("dense")[-1].startswith("dense/000000000001000")
    )


def test_events_of_ones_own_are_learned_by_their_schema(home: Path) -> None:
    clicks, schema = home / "clicks.csv", home / "schema.toml"
    written = work(home, "replay", "--input", clicks, "--schema", schema)
    assert written.stdout.startswith("1,200 events written to ")
    learned = work(home, "learn", "dense", "--schema", schema)
    assert learned.exit_code == 0, learned.output
    assert "dense is done after 1,200 events" in learned.stderr
    nameless = call(home, "learn", "dense", "--schema", schema)
    assert (nameless.exit_code, "name the run: --state FOLDER" in nameless.stderr) == (2, True)


def test_a_worker_tells_what_it_was_told_and_where_it_answers(home: Path) -> None:
    result = work(home, "generate", "--seed", "4")
    first, second, *_ = result.stderr.splitlines()
    assert f"source of {home / 'state'}: settings: " in first
    assert f" by {home / 'small.toml'}, 1 by argument, the others by default; logs" in first
    assert first.endswith("logs embedded, masks on disk")
    assert "/healthz and http://127.0.0.1:" in second


def test_a_worker_names_the_broker_that_has_the_logs() -> None:
    named = {"stream.home": "kafka", "stream.kafka.bootstrap": "broker.test:9092"}
    assert origin(load(arguments=named)) == (
        "settings: 2 by argument, the others by default; logs at Kafka broker.test:9092, masks on "
        "disk"
    )


def test_a_worker_that_serves_nothing_says_nothing_of_it(home: Path) -> None:
    result = work(home, "generate", "--set", "serve.port=null")
    assert result.exit_code == 0
    assert "healthz" not in result.stderr


def test_log_messages_are_lines_of_json_where_asked_for(home: Path) -> None:
    result = work(home, "generate", "--log-json")
    said = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(said[0])
    assert said[-1]["message"] == "source is done after 1,000 events"


def test_an_address_that_is_taken_is_told_in_a_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = work(home, "generate", "--set", f"serve.port={port}")
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr.splitlines()[-1]


def test_a_mask_store_that_refuses_is_told_in_a_line(home: Path) -> None:
    redis = ("--set", "store.kind=redis", "--set", f"store.url=rediss://localhost:{closed_port()}")
    result = work(home, "prune", *redis, "--set", "store.cafile=none.pem")
    assert result.exit_code == 1, result.output
    assert "none.pem" in result.stderr.splitlines()[-1]


def closed_port() -> int:
    """Return a port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_embedded_logs_need_no_topics(home: Path) -> None:
    result = call(home, "topics")
    assert result.exit_code == 2
    assert "stream.home is embedded: its logs need no topics; set it to kafka" in result.stderr


LOOKS = {
    "topics": ("topics",),
    "masks": ("masks", "list"),
    "deadletters": ("deadletters",),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_person_is_soon_told_that_there_is_no_broker(name: str, home: Path) -> None:
    result = ask_nobody(home, *LOOKS[name])
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert re.search(r"has not answered for [56] s .*; stream\.kafka\.gone_seconds says how", last)


def test_a_person_waits_for_a_broker_as_long_as_is_set(home: Path) -> None:
    result = ask_nobody(home, "masks", "list", "--set", "stream.kafka.gone_seconds=1")
    assert "has not answered for 1 s" in result.stderr.splitlines()[-1]


def ask_nobody(home: Path, *words: str) -> Result:
    """Call a command on a run whose broker is not there."""
    broker = ("stream.home=kafka", f"stream.kafka.bootstrap=127.0.0.1:{closed_port()}")
    config = ("--config", str(home / "small.toml"), *(w for b in broker for w in ("--set", b)))
    if words[0] == "topics":
        return CliRunner().invoke(main, [*words, *config])
    settings = load(None, home / "small.toml", {"stream.home": "kafka"}).settings
    (home / "state").mkdir()
    RunFolder(home / "state").begin(RunDefinition.generated(settings))
    return CliRunner().invoke(main, [*words, *config, "--state", str(home / "state")])


def test_topics_are_made_once_with_the_partitions_asked_for(
    home: Path, kafka_config: KafkaConfig
) -> None:
    words = [f"stream.kafka.bootstrap={kafka_config.bootstrap}", "stream.home=kafka"]
    words.append(f"stream.kafka.prefix={kafka_config.prefix}")
    given = ("topics", "--partitions", "2", *(w for word in words for w in ("--set", word)))
    first, second = call(home, *given), call(home, *given)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert first.stdout == second.stdout
    assert f"made topic {kafka_config.prefix}clicks: partitions=2, cleanup.policy" in first.stderr
    assert "made topic" not in second.stderr
    with closing(KafkaConsumer(bootstrap_servers=kafka_config.bootstrap)) as consumer:
        there = {name for name in consumer.topics() if name.startswith(kafka_config.prefix)}
        assert set(first.stdout.split()) == there
        assert consumer.partitions_for_topic(f"{kafka_config.prefix}clicks") == {0, 1}
        assert consumer.partitions_for_topic(f"{kafka_config.prefix}windows") == {0}
    bare = {name.removeprefix(kafka_config.prefix) for name in there}
    assert {"clicks", "truth", "ledger", "requests", "windows", "deadletters"} < bare
    assert {"maskchanges"} < bare
    assert {"predictions.dense", "predictions.candidate", "progress.pruner"} < bare


def test_a_run_on_a_broker_is_not_started_afresh(home: Path) -> None:
    result = work(home, "run", "--set", "stream.home=kafka", "--fresh")
    assert result.exit_code == 2
    assert "would leave the topics on the broker; name another folder and" in result.stderr


def test_the_schema_of_an_event_names_the_features(home: Path) -> None:
    anything = json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    ours = json.loads(
        CliRunner().invoke(main, ["schema", "--schema", str(home / "schema.toml")]).stdout
    )
    assert {"event_id", "event_time", "label"} <= set(anything["properties"])
    assert ours != anything
    assert "price" in json.dumps(ours)


def test_passwords_are_not_shown(home: Path) -> None:
    words = ("--set", "store.kind=redis", "--set", "store.url=redis://ann:hunter2@masks:6379")
    shown = call(home, "config", *words)
    assert shown.exit_code == 0
    assert "hunter2" not in shown.output
    assert "# password = (not shown)" in shown.stdout
    for bad in ("stream.kafka.password=1234", 'stream.kafka={"password": "1234", "x": 1}'):
        refused = call(home, "config", "--set", bad)
        assert refused.exit_code == 2, refused.output
        assert "1234" not in refused.output
