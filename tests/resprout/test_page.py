"""Where the live page is served, and what is answered beside it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.monitoring.page import PORT, Page, listen, replayed
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import EVALUATOR, WORKERS, ServeConfig
from resprout.spec import RunDefinition
from stream.follow import read_all
from stream.log import KafkaConfig
from stream.messages import Progress, parse
from stream.topics import WINDOWS
from tests.resprout.crew import Hand, crew, until
from tests.resprout.eventful import PLAN, TOTAL
from tests.resprout.small import small


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: bytes = answer.read()
    return found


def ask(url: str) -> Any:
    return json.loads(get(url))


@contextmanager
def taken(port: int) -> Iterator[int]:
    """Take a port, unless somebody else has it."""
    with ExitStack() as opened:
        one = opened.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
            one.listen()
        except OSError:
            assert port
        yield one.getsockname()[1] or port


def test_without_a_port_set_it_is_the_usual_one_or_else_a_free_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with taken(PORT), listen(ServeConfig()) as listening:
        assert listening.getsockname()[1] not in (0, PORT)
    assert caplog.messages == [f"port {PORT} is taken; serve.port sets another"]


def test_an_address_that_cannot_be_had_at_all_is_not_said_to_be_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(OSError, match=rf"cannot listen on 192\.0\.2\.1:{PORT} \(Cannot assign"):
        listen(ServeConfig(host="192.0.2.1"))
    assert caplog.messages == []


def test_a_port_that_was_set_is_taken_or_nothing_is() -> None:
    with (
        taken(0) as port,
        pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*serve\.port"),
    ):
        listen(ServeConfig(port=port))
    with listen(ServeConfig(port=0)) as listening:
        assert listening.getsockname()[1] > 0


@pytest.mark.parametrize("where", ["in the state folder", "on a broker"])
def test_a_run_shows_its_page_health_and_metrics_at_one_port(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    more: dict[str, Any] = {"serve__port": 0}
    if where == "on a broker":
        kafka: KafkaConfig = request.getfixturevalue("kafka_config")
        on_broker = {"bootstrap": kafka.bootstrap, "prefix": kafka.prefix}
        more |= {f"stream__kafka__{name}": value for name, value in on_broker.items()}
        more["stream__home"] = "kafka"
    caplog.set_level(logging.INFO, logger="resprout.monitoring.page")
    seen: dict[str, Any] = {}

    def look(name: str, step: Step) -> None:
        if name == EVALUATOR and step.count >= 8_000 and not seen:
            (url,) = re.findall(r"the page is at (\S+)", caplog.text)
            seen["run"] = ask(f"{url}api/run")
            seen["health"] = ask(f"{url}healthz")
            seen["metrics"] = get(f"{url}metrics").decode()
            seen["url"] = url

    assert execute(RunDefinition.generated(small(**more)), tmp_path / "x", look, show=True).finished
    assert seen["run"]["about"]["run"] == "x"
    assert seen["run"]["live"] is True
    assert seen["health"]["status"] == "healthy"
    assert len(seen["health"]["workers"]) == 6
    assert 'resprout_events_total{worker="pruner"}' in seen["metrics"]
    with pytest.raises(OSError, match="refused"):
        get(seen["url"])


@pytest.mark.parametrize(("port", "show"), [(None, True), (0, False)])
def test_who_wants_no_page_gets_none(
    port: int | None, show: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = small(serve__port=port, stream__generator__events=1_000)
    assert execute(RunDefinition.generated(settings), tmp_path, show=show).finished
    assert "the page is at" not in caplog.text


def test_a_page_is_there_before_its_logs_are(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with closing(Page(small(serve__port=0), tmp_path)) as page:
        assert ask(f"{page.url}api/run")["identity"] == ""
        page.show(folder.home)
        assert ask(f"{page.url}api/run")["identity"] != ""


def test_a_past_run_is_shown_as_it_was(whole: RunFolder) -> None:
    settings = PLAN.settings.model_copy(update={"serve": ServeConfig(port=0)})
    with replayed(settings, whole) as page:
        found = ask(f"{page.url}api/run")
        assert (found["state"], found["live"], found["events"]) == ("finished", False, TOTAL)
        assert found["sizes"] == [500, 1_000]
        outcomes = [one["outcome"] for one in found["timeline"] if one["kind"] == "rebuild"]
        assert outcomes == ["promoted", "promoted", "promoted", "rejected", "unfinished"]
        workers = ask(f"{page.url}api/workers")["workers"]
        assert sorted(one["name"] for one in workers) == sorted(WORKERS)
        assert {one["name"] for one in workers if one["last"]["done"]} == {*WORKERS}
        counts = {one["name"]: one["last"]["count"] for one in workers}
        assert counts["evaluator"] == counts["sparse"] == counts["dense"] == TOTAL


def told_by(folder: RunFolder, worker: str) -> list[Progress]:
    with closing(folder.home.reader(WINDOWS)) as reader:
        found = [parse(stored.record.value) for stored in read_all(reader)]
    return [one for one in found if isinstance(one, Progress) and one.worker == worker]


def test_the_log_of_a_finished_run_holds_the_last_word_of_the_evaluator(whole: RunFolder) -> None:
    last = told_by(whole, EVALUATOR)[-1]
    assert (last.done, last.count, last.events, last.lag_events) == (True, TOTAL, TOTAL, 0)


def followed(url: str) -> list[dict[str, str]]:
    """Read server-sent events until the server hangs up."""
    with urllib.request.urlopen(f"{url}api/stream", timeout=60) as answer:
        text = answer.read().decode().replace("\r\n", "\n")
    events = [dict(re.findall(r"^(\w+): (.*)$", one, re.MULTILINE)) for one in text.split("\n\n")]
    return [one for one in events if one]


def test_who_looks_on_is_told_all_to_the_very_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="resprout.monitoring.page")
    folder, seen = RunFolder(tmp_path / "run"), list[dict[str, str]]()

    def look(name: str, step: Step) -> None:
        if name == EVALUATOR and not viewers:
            (url,) = re.findall(r"the page is at (\S+)", caplog.text)
            viewers.append(threading.Thread(target=lambda: seen.extend(followed(url))))
            viewers[0].start()

    viewers: list[threading.Thread] = []
    assert execute(
        RunDefinition.generated(small(serve__port=0)), folder.path, look, show=True
    ).finished
    viewers[0].join()
    with closing(folder.home.reader(WINDOWS)) as reader:
        written = [str(stored.offset) for stored in read_all(reader)]
    *told, last = seen
    assert [one["id"] for one in told if "id" in one] == written
    assert last["event"] == "end"
    assert "id" not in last
    reply = json.loads(last["data"])
    assert (reply["state"], reply["live"], reply["events"]) == ("finished", False, 16_000)
    assert reply["offset"] == int(written[-1])
    assert reply["timeline"][-1]["outcome"] != "open"


def test_a_run_that_was_stopped_may_still_be_under_way(tmp_path: Path) -> None:
    stop, folder = threading.Event(), RunFolder(tmp_path)

    def observe(name: str, step: Step) -> None:
        if name == EVALUATOR and step.count >= 8_000:
            stop.set()

    assert not execute(PLAN, folder.path, observe, stop).finished
    settings = PLAN.settings.model_copy(update={"serve": ServeConfig(port=0)})
    with replayed(settings, folder) as page:
        found = ask(f"{page.url}api/run")
        assert (found["state"], found["live"]) == ("stopped", True)
        assert execute(PLAN, folder.path).finished
        assert followed(page.url)[-1]["event"] == "end"
        found = ask(f"{page.url}api/run")
        assert (found["state"], found["live"], found["events"]) == ("finished", False, TOTAL)


def test_a_damaged_log_is_no_empty_run(whole: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole.path, folder.path)
    database = folder.path / "logs" / WINDOWS / "log.db"
    content = database.read_bytes()
    database.write_bytes(content.replace(b'"kind":"window"', b'"kind":"widnow"'))
    said = []
    for command in (["report", "--output", str(tmp_path / "x.html")], ["evaluate", "--replay"]):
        result = CliRunner().invoke(main, [*command, str(folder.path)])
        assert result.exit_code == 1
        said.append(result.stderr)
    assert said[0] == said[1]
    assert "windows" in said[0]
    shutil.rmtree(folder.path / "logs" / WINDOWS)
    result = CliRunner().invoke(main, ["evaluate", "--replay", str(folder.path)])
    assert result.exit_code == 1
    assert f"{folder.path}/logs holds no log 'windows'" in result.stderr
    assert not (folder.path / "logs" / WINDOWS).exists()


def addresses(hand: Hand) -> list[str]:
    return re.findall(r"the page is at (\S+)", hand.text)


def test_the_evaluator_as_a_process_shows_the_page_too(tmp_path: Path) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        evaluator = team.start("evaluator")
        until(lambda: bool(addresses(evaluator) and evaluator.state()), team)
        (url,) = addresses(evaluator)
        assert ask(f"{url}api/run")["offset"] == -1
        assert ask(f"{url}healthz")["workers"]["evaluator"]["count"] == 0
        assert b'resprout_dead_letters_total{reason="label"} 0.0' in get(f"{url}metrics")
        assert evaluator.end(signal.SIGTERM) == 0, evaluator.text


def test_a_past_run_is_replayed_by_command_until_somebody_ends_it(
    whole: RunFolder, tmp_path: Path
) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        hand = team.start("evaluator", "--replay", str(whole.path))
        until(lambda: bool(addresses(hand)), team)
        (url,) = addresses(hand)
        until(lambda: bool(ask(f"{url}api/run")["events"] == TOTAL), team)
        assert ask(f"{url}api/run")["about"]["run"] == whole.path.name
        assert hand.end(signal.SIGINT) == 0, hand.text
        assert not (team.state / "run.json").exists()


def test_a_folder_without_a_run_cannot_be_replayed(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", "--replay", str(tmp_path)])
    assert result.exit_code == 2
    assert f"{tmp_path} holds no run" in result.stderr
