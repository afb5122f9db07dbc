"""compose.yaml as a file, and the stack that it starts: Kafka, Redis, all workers, Prometheus."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager
from importlib.metadata import requires
from typing import Any

import pytest
import yaml
from kafka import KafkaProducer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stream.schema import load_schema
from tests.docker.stack import ROOT, Stack, compose_or_skip, output, ran, start_engine
from tests.examples.test_producer import SENT, send

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
WORKERS = ("dense", "sparse", "pruner", "evaluator")
WINDOW = 1_000
OWN_EVENTS = {"SCHEMA": "examples/clicks.toml"}
GARBAGE = (b"{", b'{"event_id": "a", "event_time": 0, "label": 2}', b"\xff\x00")


def test_there_is_no_version_key() -> None:
    assert "version" not in COMPOSE


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_pinned(service: str) -> None:
    _, _, tag = SERVICES[service]["image"].partition(":")
    assert re.fullmatch(r"dev|v?\d+(\.\d+)+", tag)


def test_all_workers_are_one_image_that_is_built_once() -> None:
    ours = {name for name, one in SERVICES.items() if one["image"] == "resprout:dev"}
    assert ours == {"topics", "generator", "twin", *WORKERS}
    assert [name for name, one in SERVICES.items() if "build" in one] == ["topics"]


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "topics"])
def test_whatever_stays_has_a_health_check(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_has_rights_or_memory_without_a_limit(service: str) -> None:
    one = SERVICES[service]
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", one["mem_limit"])


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return, by package, the version and the hashes that the image checks."""
    text = (ROOT / "docker" / "requirements.txt").read_text("utf-8").replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)
            found[canonicalize_name(match[1])] = match[2], hashes
    return found


def needed(name: str, extras: Set[str]) -> set[str]:
    """Return what an installed package needs here, directly or not, without torch."""
    found = set()
    for one in map(Requirement, requires(name) or ()):
        there = any(one.marker.evaluate({"extra": extra}) for extra in extras) if one.marker else 1
        if there and one.name != "torch":
            found |= {canonicalize_name(one.name), *needed(one.name, {"", *one.extras})}
    return found


def test_the_image_checks_the_hash_of_all_but_torch_in_the_pinned_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    pinned: dict[str, str] = {canonicalize_name(name): version for name, version in pins}
    assert needed("resprout", {""}) | needed("torch", {""}) <= {*locked()}
    assert "torch" not in locked()
    for name, (version, hashes) in locked().items():
        assert pinned.get(name, version) == version, f"{name}: run `make lock`"
        assert hashes, name


def test_workers_are_asked_under_the_names_that_prometheus_knows_them_by() -> None:
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text("utf-8"))
    (targets,) = scraped["scrape_configs"][0]["static_configs"]
    hosts = json.loads(COMPOSE["x-settings"]["RESPROUT_SERVE__HOSTS"])
    assert {target.partition(":")[0] for target in targets["targets"]} <= set(hosts)


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:${") for port in ports)


def test_every_dependency_names_its_condition() -> None:
    conditions = {
        awaited["condition"]
        for one in SERVICES.values()
        for awaited in one.get("depends_on", {}).values()
    }
    assert conditions == {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("variables", [{}, OWN_EVENTS, {"COMPOSE_PROFILES": "twin"}])
def test_docker_compose_accepts_the_file(variables: dict[str, str]) -> None:
    compose_or_skip()
    done = ran("docker", "compose", "config", "-q", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_profile_of_the_twin_has_it_scored_too() -> None:
    compose_or_skip()

    def scored(**variables: str) -> list[str]:
        told = json.loads(output("docker", "compose", "config", "--format", "json", **variables))
        models: list[str] = json.loads(
            told["services"]["evaluator"]["environment"]["RESPROUT_EVALUATOR__MODELS"]
        )
        return models

    assert scored(COMPOSE_PROFILES="") == ["dense", "sparse"]
    assert scored(COMPOSE_PROFILES="twin") == ["dense", "sparse", "never_rebuilt"]


def test_the_schema_of_the_example_is_the_one_of_the_readme() -> None:
    schema = load_schema(ROOT / "examples" / "clicks.toml")
    assert schema.names == ("price", "site", "tags")


@pytest.fixture(scope="module")
def _engine() -> None:
    start_engine()


@contextmanager
def running(stack: Stack, *arguments: str) -> Iterator[Stack]:
    """Start a stack afresh, whatever a killed test has left of it, and delete it at the end."""
    stack.down()
    stack.up(*arguments)
    try:
        yield stack
    finally:
        stack.down()


@pytest.mark.usefixtures("_engine")
def test_the_demo_stack_scores_all_models_and_prometheus_sees_every_worker() -> None:
    twin = Stack("resprout-test-demo", {"COMPOSE_PROFILES": "twin", "RATE": "2000"})
    with running(twin) as stack:
        stack.wait(
            "a window on which the twin was scored",
            "twin",
            lambda: any(window["models"].get("never_rebuilt") for window in windows(stack)),
        )
        workers = {"generator", "twin", *WORKERS}
        stack.wait(
            f"Prometheus to see {', '.join(sorted(workers))}",
            "prometheus",
            lambda: workers <= {host for host, how in stack.targets().items() if how == "up"},
        )
        assert stack.records("clicks")
        assert set(stack.health()["workers"]) == {"evaluator"}


@pytest.mark.usefixtures("_engine")
def test_no_event_is_lost_or_doubled_through_restarts_a_kill_and_another_broker() -> None:
    with running(Stack("resprout-test-own", OWN_EVENTS), "--scale", "generator=0") as stack:
        fed = feed(stack)
        stack.wait(
            "a rebuild that was promoted",
            "pruner",
            lambda: any(verdict["rebuild"]["number"] > 1 for verdict in promoted(stack)),
        )

        fed += feed(stack)
        for worker in WORKERS:
            stop_and_start(stack, worker)
        kill(stack, "sparse")

        fed += feed(stack)
        stack.compose("up", "-d", "--pull", "never", "--force-recreate", "--wait", "kafka")
        fed += feed(stack)
        stack.wait(
            f"the window that ends at {fed:,} events",
            "evaluator",
            lambda: (last := windows(stack)[-1:]) and last[0]["end"] == fed,
        )
        check(stack, fed)
        for worker in WORKERS:
            assert stack.is_healthy(worker)


def feed(stack: Stack) -> int:
    """Send what is no event, then what the README's producer sends; return the valid events."""
    producer = KafkaProducer(bootstrap_servers=f"127.0.0.1:{stack.kafka}")
    with closing(producer):
        for value in GARBAGE:
            producer.send("clicks", value)
        producer.flush()
    send(f"127.0.0.1:{stack.kafka}")
    return SENT


def stop_and_start(stack: Stack, worker: str) -> None:
    """Stop a worker as Docker does, which must end it with 0, and start it again."""
    stack.compose("stop", worker)
    assert stack.container(worker)["State"]["ExitCode"] == 0, stack.compose("logs", worker)
    stack.compose("start", worker)
    stack.wait(f"{worker} after its restart", worker, lambda: stack.is_healthy(worker))


def kill(stack: Stack, worker: str) -> None:
    """Kill a worker with signal 9, as the kernel would; Docker starts it again."""
    every = "import os; os.kill(-1, 9)"  # each process of this user, but not the init
    stack.compose("exec", "--detach", worker, "python", "-c", every)
    stack.wait(
        f"{worker} after it was killed",
        worker,
        lambda: stack.container(worker)["RestartCount"] > 0 and stack.is_healthy(worker),
    )


def windows(stack: Stack) -> list[dict[str, Any]]:
    """Return the windows in order, of those that were published again the first."""
    return list(once(stack.messages("windows", "window"), "number").values())


def promoted(stack: Stack) -> list[dict[str, Any]]:
    """Return the verdicts by which a sparse model took over."""
    verdicts = once(stack.messages("ledger", "verdict"), "count").values()
    return [verdict for verdict in verdicts if verdict["verdict"] == "promoted"]


def once(messages: list[dict[str, Any]], *keys: str) -> dict[Any, dict[str, Any]]:
    """Put messages under their keys; a repeat must say the same as the first."""
    found: dict[Any, dict[str, Any]] = {}
    for message in messages:
        key = tuple(message[name] for name in keys)
        assert found.setdefault(key, message) == message
    return found


def check(stack: Stack, fed: int) -> None:
    """Compare windows, decisions and dead letters with the records that were sent."""
    values = stack.records("clicks")
    garbage = [value for value in values if value in GARBAGE]
    labels = [json.loads(value)["label"] for value in values if value not in GARBAGE]
    assert len(labels) == fed

    closed = windows(stack)
    begins = range(0, fed, WINDOW)
    assert [(one["begin"], one["end"]) for one in closed] == [(n, n + WINDOW) for n in begins]
    assert [one["weight"] for one in closed] == [WINDOW] * len(closed)
    assert [one["clicks"] for one in closed] == [sum(labels[n : n + WINDOW]) for n in begins]

    first = promoted(stack)[0]["count"]
    assert all(one["models"]["dense"] for one in closed)
    assert [bool(one["models"]["sparse"]) for one in closed] == [n >= first for n in begins]
    decided = once(stack.messages("ledger", "decision"), "count")
    assert [count for (count,) in decided] == [one["end"] for one in closed]

    letters = once(stack.messages("deadletters", "dead_letter"), "partition", "offset", "row")
    assert [base64.b64decode(one["raw"]) for one in letters.values()] == garbage
