"""Where the live page is served, and what is answered beside it."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from resprout.application import execute
from resprout.cli import main
from resprout.folder import RunFolder
from resprout.page import PORT, Page, listen, replayed
from resprout.plan import Plan
from resprout.runner import Step
from resprout.settings import EVALUATOR, WORKERS, ServeConfig
from stream.kafka.config import KafkaConfig
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
    caplog.set_level(logging.INFO, logger="resprout.page")
    seen: dict[str, Any] = {}

    def look(name: str, step: Step) -> None:
        if name == EVALUATOR and step.count >= 8_000 and not seen:
            (url,) = re.findall(r"the page is at (\S+)", caplog.text)
            seen["run"] = ask(f"{url}api/run")
            seen["health"] = ask(f"{url}healthz")
            seen["metrics"] = get(f"{url}metrics").decode()
            seen["url"] = url

    assert execute(Plan.generated(small(**more)), tmp_path / "x", look, show=True).finished
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
    assert execute(Plan.generated(settings), tmp_path, show=show).finished
    assert "the page is at" not in caplog.text


def test_a_page_is_there_before_its_logs_are(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Page(small(serve__port=0), tmp_path) as page:
        assert ask(f"{page.url}api/run")["identity"] == ""
        page.show(folder.home)
        assert ask(f"{page.url}api/run")["identity"] != ""


def test_a_past_run_is_shown_as_it_was(whole: RunFolder) -> None:
    settings = PLAN.settings.model_copy(update={"serve": ServeConfig(port=0)})
    with replayed(settings, whole) as page:
        while (found := ask(f"{page.url}api/run"))["events"] < TOTAL:
            """It reads the log in the background."""
        assert found["live"] is False
        assert found["sizes"] == [500, 1_000]
        outcomes = [one["outcome"] for one in found["marks"] if one["kind"] == "rebuild"]
        assert outcomes == ["promoted", "promoted", "promoted", "rejected", "unfinished"]
        workers = ask(f"{page.url}api/workers")["workers"]
        assert sorted(one["name"] for one in workers) == sorted(WORKERS)


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
