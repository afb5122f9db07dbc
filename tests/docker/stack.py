"""The stack of compose.yaml under a name and on ports of its own, and what its topics hold."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.servers import missing

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "compose.yaml", Path(__file__).with_name("short.yaml"))
IMAGE = "resprout:dev"
WAY = (
    "set TEST_ENGINE to a command that starts one when it is called with `up`, or to `true` where "
    "one runs and `docker compose pull` has been done"
)

T = TypeVar("T")


def compose_or_skip() -> None:
    """Skip where there is no Docker Compose to read a file with; the engine may bring it along."""

    def is_there() -> bool:
        found = shutil.which("docker") is not None
        return found and ran("docker", "compose", "version").returncode == 0

    if not is_there() and (engine := os.environ.get("TEST_ENGINE")):
        output(engine, "up")
    if not is_there():
        missing("Docker Compose v2", f"install it, or {WAY}")


def ran(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the root to its end; building the image takes minutes on a busy machine."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )


def output(*command: str, **variables: str) -> str:
    """Run a command that must succeed, and return what it wrote to stdout."""
    done = ran(*command, **variables)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def start_engine() -> None:
    """Start the Docker engine and build the image, or skip where there is no engine."""
    engine = os.environ.get("TEST_ENGINE")
    if engine is None:
        missing("a Docker engine", WAY)
    output(engine, "up")
    build = ("docker", "build", "--network", "host", "-f", "docker/Dockerfile", "-t", IMAGE, ".")
    output(*build, DOCKER_BUILDKIT="0")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Stack:
    """One project of Docker Compose."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of compose.yaml, without the ports."""
    kafka: int = field(default_factory=free_port)
    evaluator: int = field(default_factory=free_port)
    prometheus: int = field(default_factory=free_port)

    def compose(self, *arguments: str) -> str:
        """Run one command of Docker Compose, which must succeed."""
        files = [word for file in FILES for word in ("-f", str(file))]
        ports = {
            "KAFKA_PORT": str(self.kafka),
            "EVALUATOR_PORT": str(self.evaluator),
            "PROMETHEUS_PORT": str(self.prometheus),
        }
        command = ("docker", "compose", "-p", self.name, *files, *arguments)
        return output(*command, **ports, **self.variables)

    def up(self, *arguments: str) -> None:
        """Start all but Grafana, of which there may be no image, and wait until all is healthy."""
        always = ("up", "-d", "--wait", "--pull", "never", "--scale", "grafana=0")
        try:
            self.compose(*always, *arguments)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Delete everything that this project has."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5")

    def wait(self, what: str, service: str, look: Callable[[], T], seconds: float = 120) -> T:
        """Look again and again until something is there, and return it.

        Past the limit the test fails with the logs of the service that should have done it.
        """
        limit, pause = time.monotonic() + seconds, threading.Event()
        while not (found := look()):
            if time.monotonic() > limit:
                logs = self.compose("logs", "--tail", "60", service)
                state = self.compose("ps", "--all")
                pytest.fail(f"waited {seconds:g} s for {what}\n{state}\n{logs}")
            pause.wait(0.5)
        return found

    def records(self, topic: str) -> list[bytes]:
        """Read a topic of one partition, as anybody on this machine may."""
        consumer = KafkaConsumer(
            bootstrap_servers=f"127.0.0.1:{self.kafka}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        with closing(consumer):
            partition = TopicPartition(topic, 0)
            consumer.assign([partition])
            end = consumer.end_offsets([partition])[partition]
            values: list[bytes] = []
            limit = time.monotonic() + 60
            while consumer.position(partition) < end:
                assert time.monotonic() < limit, f"{topic} was not read to its end in 60 s"
                for records in consumer.poll(timeout_ms=500).values():
                    values += [record.value for record in records]
            return values

    def messages(self, topic: str, kind: str) -> list[dict[str, Any]]:
        """Return the messages of one kind in a topic."""
        found = [json.loads(value) for value in self.records(topic)]
        return [message for message in found if message["kind"] == kind]

    def container(self, service: str) -> dict[str, Any]:
        """Return what Docker knows of the one container of a service."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        known: dict[str, Any] = json.loads(output("docker", "inspect", name))[0]
        return known

    def is_healthy(self, service: str) -> bool:
        """Say whether a service runs and passes its health check."""
        state = self.container(service)["State"]
        health: str = state.get("Health", {}).get("Status", "")
        return state["Status"] == "running" and health == "healthy"

    def health(self) -> dict[str, Any]:
        """Return what the evaluator says at its published port."""
        with urlopen(f"http://127.0.0.1:{self.evaluator}/healthz", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def targets(self) -> dict[str, str]:
        """Return the health of all that Prometheus scrapes, by host."""
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/targets?state=active"
        with urlopen(url, timeout=10) as answer:
            active = json.load(answer)["data"]["activeTargets"]
        return {one["labels"]["instance"].split(":")[0]: one["health"] for one in active}
