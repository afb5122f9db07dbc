from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from evaluator.page import WebServer
from learner import LearnerStep
from resprout.monitoring.metrics import Metrics
from resprout.monitoring.page import Health, serve_health
from resprout.runner import Runner, Step, Worker
from resprout.settings import ServeConfig, Settings
from stream.spec import Waiting

WORKERS = ("dense", "sparse")


@dataclass
class Clock:
    """Shows what it is set to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def ask(url: str, method: str = "GET", accept: str = "*/*") -> Answer:
    request = Request(url, method=method, headers={"Accept": accept})
    try:
        with urlopen(request, timeout=10) as found:
            return Answer(found.status, found.headers, found.read())
    except HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


def served(port: int = 0, host: str = "127.0.0.1") -> WebServer:
    serve = ServeConfig(host=host, port=port)
    return serve_health(serve, Metrics(Settings(), WORKERS), Health(WORKERS))


def port_of(server: WebServer) -> int:
    return int(server.url.rstrip("/").rpartition(":")[2])


@dataclass(frozen=True)
class Process:
    clock: Clock
    health: Health
    metrics: Metrics
    server: WebServer

    def ask(self, path: str, method: str = "GET", accept: str = "*/*") -> Answer:
        return ask(self.server.url.rstrip("/") + path, method, accept)


@pytest.fixture
def process() -> Iterator[Process]:
    clock, away = Clock(), iter([None, "away since 12:00"])
    health = Health(WORKERS, {"store": lambda: next(away, None)}, stale_seconds=60, clock=clock)
    metrics = Metrics(Settings(), WORKERS)
    with closing(serve_health(ServeConfig(), metrics, health)) as server:
        yield Process(clock, health, metrics, server)


def test_a_worker_that_waits_is_healthy_and_says_for_whom(process: Process) -> None:
    process.health("dense", LearnerStep(count=1_500, events=500))
    process.clock.now = 7.5
    process.health(
        "sparse", LearnerStep(count=500, waiting_for=Waiting("the verdict on rebuild 3"))
    )
    process.clock.now = 8.0
    answer = process.ask("/healthz")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {
        "status": "healthy",
        "reason": None,
        "workers": {
            "dense": {
                "count": 1_500,
                "waiting_for": None,
                "done": False,
                "progress_seconds": 8.0,
                "round_seconds": 8.0,
            },
            "sparse": {
                "count": 500,
                "waiting_for": "the verdict on rebuild 3",
                "done": False,
                "progress_seconds": 8.0,
                "round_seconds": 0.5,
            },
        },
        "notes": {},
    }


def test_what_is_amiss_though_the_workers_go_on_is_a_note(process: Process) -> None:
    assert process.ask("/healthz").json["notes"] == {}
    answer = process.ask("/healthz")
    assert (answer.status, answer.json["notes"]) == (200, {"store": "away since 12:00"})


def test_a_step_that_does_not_end_is_not_healthy_and_one_that_ends_is_again(
    process: Process,
) -> None:
    process.health("sparse", LearnerStep(count=500, done=True))
    process.clock.now = 60.0
    assert process.ask("/healthz").status == 200
    process.clock.now = 61.0
    answer = process.ask("/healthz")
    assert (answer.status, answer.json["status"]) == (503, "stale")
    assert answer.json["reason"] == "dense has been in one step for 61 s"
    process.health("dense", LearnerStep(count=0, waiting_for=Waiting("clicks")))
    assert process.ask("/healthz").status == 200


def test_a_worker_that_failed_is_not_healthy(process: Process) -> None:
    def fail() -> Step:
        raise ArithmeticError("weights are not finite")

    watched = process.health.watched(Worker("dense", fail, lambda: None))
    with pytest.raises(ArithmeticError, match="not finite"):
        Runner([watched]).run()
    answer = process.ask("/healthz")
    assert (answer.status, answer.json["status"]) == (503, "failed")
    assert answer.json["reason"] == "dense failed: ArithmeticError: weights are not finite"


def test_the_first_failure_is_told_also_one_of_closing(process: Process) -> None:
    def fail() -> None:
        raise OSError("disk full")

    def fail_too() -> None:
        raise OSError("disk still full")

    for close in (fail, fail_too):
        watched = process.health.watched(
            Worker("dense", lambda: LearnerStep(count=1, done=True), close)
        )
        assert watched.step().done
        with pytest.raises(OSError, match="full"):
            watched.close()
    assert process.ask("/healthz").json["reason"] == "dense failed: OSError: disk full"


def test_metrics_are_there_in_the_format_that_is_asked_for(process: Process) -> None:
    process.metrics("dense", LearnerStep(count=500, events=500))
    answer = process.ask("/metrics")
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert b'resprout_events_total{worker="dense"} 500.0\n' in answer.content
    answer = process.ask("/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics/", "/../healthz"])
def test_a_path_that_is_not_there_names_those_that_are(process: Process, path: str) -> None:
    answer = process.ask(path)
    assert answer.status == 404
    assert answer.content.decode() == f"there is no {path}; known: /healthz, /metrics\n"


def test_a_query_is_passed_over(process: Process) -> None:
    assert process.ask("/healthz?verbose=1").status == 200


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/nothing"])
def test_head_answers_as_get_without_the_content(process: Process, path: str) -> None:
    got, head = process.ask(path), process.ask(path, method="HEAD")
    assert head.status == got.status
    assert head.content == b""
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) > 0


def test_nothing_can_be_posted(process: Process) -> None:
    assert process.ask("/healthz", method="POST").status == 501


def test_a_taken_port_is_told_with_the_setting(process: Process) -> None:
    port = port_of(process.server)
    message = (
        f"cannot listen on 127.0.0.1:{port} (Address already in use); set serve.host and serve.port"
    )
    with pytest.raises(OSError, match=re.escape(message)):
        serve_health(ServeConfig(port=port), process.metrics, process.health)


def test_a_host_of_somebody_else_is_told_with_the_setting() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0 \(Cannot assign"):
        served(host="192.0.2.1")


def test_a_free_port_is_found_and_named() -> None:
    with closing(served()) as one, closing(served()) as two:
        assert port_of(one) != port_of(two)
        assert one.url == f"http://127.0.0.1:{port_of(one)}/"
        assert [ask(f"{server.url}healthz").status for server in (one, two)] == [200, 200]


def test_it_listens_on_ipv6_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(served(host="::1")) as server:
        assert server.url == f"http://[::1]:{port_of(server)}/"
        assert ask(f"{server.url}healthz").status == 200


def test_a_client_that_says_nothing_keeps_nobody_waiting(process: Process) -> None:
    with socket.create_connection(("127.0.0.1", port_of(process.server))):
        assert process.ask("/healthz").status == 200


def test_closing_frees_the_port_and_hangs_up_on_who_is_there() -> None:
    threads = set(threading.enumerate())
    server = served()
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as silent:
        # The silent client's turn has begun once a later one was answered.
        assert ask(f"{server.url}healthz").status == 200
        server.close()
        assert silent.recv(1) == b""
    assert set(threading.enumerate()) <= threads
    with closing(served(port_of(server))) as again:
        assert ask(f"{again.url}healthz").status == 200


def test_many_may_ask_at_once_while_workers_step(process: Process) -> None:
    answers: list[int] = []

    def scrape() -> None:
        answers.extend(process.ask(path).status for path in ("/metrics", "/healthz") * 5)

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 30
    count = 0
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        count += 500
        process.metrics("dense", LearnerStep(count, 500))
        process.health("dense", LearnerStep(count, 500))
    for thread in threads:
        thread.join()
    assert answers == [200] * 80
