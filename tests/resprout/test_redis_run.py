"""Whole runs whose masks are on a Redis server, whatever happens to that."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pruner import StoreConfig
from pruner.masks import StoreRefusedError
from pruner.masks.redis import RedisMaskStore
from resprout.folder import RunFolder
from resprout.monitoring.console import settings_toml
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import PRUNER, SPARSE, Settings, load, nested
from resprout.spec import RunDefinition
from stream import topics
from tests.redis_server import RedisServer, redis_server
from tests.resprout.left import Left
from tests.resprout.small import small


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Run once with masks on disk."""
    folder = RunFolder(tmp_path_factory.mktemp("disk"))
    execute(RunDefinition.generated(small()), folder.path)
    return Left.by(folder)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


def plan(server: RedisServer) -> RunDefinition:
    """Plan the same run with masks on a server, looked after at every step."""
    return RunDefinition.generated(
        small(
            store__kind="redis",
            store__url=server.url,
            store__check_seconds=1e-6,
            store__timeout_seconds=0.2,
        )
    )


def left(folder: RunFolder, server: RedisServer) -> Left:
    reader = folder.home.reader(topics.LEDGER)
    reader.close()
    config = StoreConfig(kind="redis", url=server.url)
    with closing(RedisMaskStore(config, reader.identity)) as store:
        return Left.by(folder, store=store)


def every(steps: int, act: Callable[[], None]) -> Callable[[str, Step], None]:
    """Act every so many steps of the sparse learner and of the pruner."""
    taken = dict.fromkeys((SPARSE, PRUNER), 0)

    def observe(name: str, step: Step) -> None:
        if name in taken and step.events:
            taken[name] += 1
            if taken[name] % steps == 0:
                act()

    return observe


def test_a_run_with_masks_on_a_server_is_the_same_run(
    server: RedisServer, undisturbed: Left, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert execute(plan(server), folder.path).finished
    assert left(folder, server) == undisturbed
    assert not folder.masks.exists()


@pytest.mark.parametrize("steps", [1, 7])
def test_wiping_the_server_again_and_again_loses_nothing(
    steps: int, server: RedisServer, undisturbed: Left, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert execute(plan(server), folder.path, every(steps, server.wipe)).finished
    found = left(folder, server)
    assert found == undisturbed
    with server.client() as client:
        blobs = [f"resprout:mask:{name}".encode() for name in found.masks]
        assert sorted(client.scan_iter()) == sorted([b"resprout:head:sparse", *blobs])


def test_a_server_that_is_gone_for_good_stops_nobody(
    server: RedisServer, undisturbed: Left, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    gone = every(3, lambda: server.stop(signal.SIGKILL))
    assert execute(plan(server), folder.path, gone).finished
    assert caplog.text.count("the mask store is away, learning continues without it") == 2
    server.start()
    assert execute(plan(server), folder.path).finished
    assert left(folder, server) == undisturbed


def test_a_server_that_comes_back_is_caught_up_with(
    server: RedisServer, undisturbed: Left, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    server.stop()

    def toggle() -> None:
        if server.running:
            server.stop(signal.SIGKILL)
        else:
            server.start()

    assert execute(plan(server), folder.path, every(5, toggle)).finished
    if not server.running:
        server.start()
        execute(plan(server), folder.path)
    assert left(folder, server) == undisturbed


@pytest.mark.parametrize(
    "wrong",
    [
        {"store.url": "http://:s3cret@masks"},
        {"store.url": "redis://:s3cret@masks", "store.kind": "redi"},
        {"store.url": "redis://:s3cret@masks", "stream.batch_events": 7},
        {"store.password": "s3cret", "store.versions": 0},
        {"store.password": ["s3cret"]},
    ],
)
def test_a_password_is_in_no_complaint_about_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        load(arguments=wrong)
    errors = [caught.value, caught.value.__cause__]
    assert not [error for error in errors if "s3cret" in f"{error} {error!r}"]
    with pytest.raises(ValueError, match=r"\w") as caught:
        Settings(**nested(wrong))
    assert "s3cret" not in f"{caught.value} {caught.value!r}"


def test_a_password_is_in_no_listing_of_settings_and_in_no_record(tmp_path: Path) -> None:
    loaded = load(arguments={"store.url": "redis://ann:s3cret@masks:6379", "store.kind": "redis"})
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(loaded.settings))
    listed = settings_toml(loaded)
    assert 'url = "redis://ann@masks:6379"  # argument' in listed
    assert "s3cret" not in listed + repr(loaded) + (tmp_path / "run.json").read_text()
    assert "s3cret" not in RunDefinition.generated(loaded.settings).spec.config_json


def test_another_run_under_the_same_prefix_is_refused_at_the_start(
    server: RedisServer, tmp_path: Path
) -> None:
    execute(plan(server), tmp_path / "one")
    with pytest.raises(StoreRefusedError, match=r"another run under 'resprout'.*store\.prefix"):
        execute(plan(server), tmp_path / "other")
