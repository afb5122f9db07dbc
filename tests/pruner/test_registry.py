from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from learner import LearnerState, ModelVersion, Publication, SnapshotStore
from pruner import StoreConfig
from pruner.masks import (
    MaskStore,
    MemoryMaskStore,
    ReconcilingRegistry,
    StoreRefusedError,
)
from pruner.masks.redis import RedisMaskStore
from pruner.masks.store import LONGEST_PAUSE, Head
from stream.reader import ClickCursor
from tests.pruner.store_contract import PLACES, Place, masks
from tests.redis_server import RedisServer, redis_server

VERSIONS = 3


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ledger:
    """What the ledger tells of, and the snapshots of the last versions."""

    folder: Path
    versions: list[ModelVersion] = field(default_factory=list)

    @property
    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.folder / "snapshots")

    def promote(self) -> ModelVersion:
        """Promote one more version, and drop the snapshots of those that are kept no more."""
        number = len(self.versions) + 1
        cursor = ClickCursor(identity="7f", count=100 * number)
        tensors = {f"mask.{n}": mask.to(torch.uint8) for n, mask in masks(number).items()}
        snapshot = LearnerState(f"candidate-{number}", number, cursor, {}, tensors)
        name = self.snapshots.write(snapshot)
        mask = MemoryMaskStore().put(masks(number))
        self.versions.append(ModelVersion(number, name, 100 * number, mask))
        for old in self.versions[:-VERSIONS]:
            self.snapshots.delete(old.snapshot)
        return self.versions[-1]

    @property
    def kept(self) -> list[ModelVersion]:
        return self.versions[-VERSIONS:]


@dataclass
class Run:
    """A pruner and the trainer of the served model with a registry each, as in two processes."""

    ledger: Ledger
    open: Callable[[], MaskStore]
    clock: Clock = field(default_factory=Clock)
    pruner: ReconcilingRegistry = field(init=False)
    sparse: ReconcilingRegistry = field(init=False)
    version: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.pruner = self.registry()
        self.sparse = self.registry(lambda: self.ledger.versions)
        self.pruner.keep(self.ledger.kept)

    def registry(
        self, versions: Callable[[], Sequence[ModelVersion]] = tuple
    ) -> ReconcilingRegistry:
        return ReconcilingRegistry(self.open(), self.ledger.snapshots, versions, clock=self.clock)

    def rebuild(self) -> Iterator[None]:
        """Promote one more version, step by step; whatever happens may happen between them."""
        number = len(self.ledger.versions) + 1
        self.pruner.put(masks(number))
        yield
        version = self.ledger.promote()
        yield
        self.pruner.keep(self.ledger.kept)
        yield
        self.version = version.version
        self.sparse.publish(Publication.first(version))
        yield

    def step(self) -> None:
        self.pruner.reconcile()
        if self.version:
            self.sparse.reconcile(self.version)

    def settle(self) -> None:
        """Let enough time pass for everything to be looked after."""
        for _ in range(2):
            self.clock.now += LONGEST_PAUSE
            self.step()


Shown = tuple[Publication | None, tuple[str, ...]]


def shown(store: MaskStore) -> Shown:
    """Read all that a store shows."""
    return store.head(), store.names()


def expected(ledger: Ledger) -> Shown:
    names = sorted(one.mask for one in ledger.kept if one.mask)
    return Publication.first(ledger.versions[-1]), tuple(names)


Kind = Callable[[Path], AbstractContextManager[Place]]
each_store = pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.__name__)


@each_store
def test_it_shows_what_the_ledger_says(kind: Kind, tmp_path: Path) -> None:
    with kind(tmp_path) as place:
        run = Run(Ledger(tmp_path), place.open)
        for _ in range(5):
            list(run.rebuild())
            head, names = shown(place.open())
            assert head == Publication.first(run.ledger.versions[-1])
            assert set(names) >= {one.mask for one in run.ledger.kept}
        run.settle()
        assert shown(place.open()) == expected(run.ledger)
        head = place.open().head()
        assert head is not None
        assert place.open().get(head.mask or "").keys() == masks(5).keys()


@each_store
def test_wiping_at_any_moment_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    """Moments are the steps of five rebuilds; nobody is restarted."""
    with kind(tmp_path) as place:
        for moment in range(20):
            place.wipe()
            run, step = Run(Ledger(tmp_path / str(moment)), place.open), 0
            for _ in range(5):
                for _ in run.rebuild():
                    if step == moment:
                        place.wipe()
                    step += 1
            run.settle()
            assert shown(place.open()) == expected(run.ledger)
            assert run.pruner.away is None
            assert run.sparse.away is None


@each_store
def test_wiping_while_both_are_down_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    with kind(tmp_path) as place:
        run = Run(Ledger(tmp_path), place.open)
        for _ in range(5):
            list(run.rebuild())
        place.wipe()
        run.restart()
        assert set(place.open().names()) == {one.mask for one in run.ledger.kept}
        run.step()
        assert shown(place.open()) == expected(run.ledger)


@each_store
def test_a_damaged_mask_is_written_again(kind: Kind, tmp_path: Path) -> None:
    with kind(tmp_path) as place:
        run = Run(Ledger(tmp_path), place.open)
        for _ in range(2):
            list(run.rebuild())
        for version in run.ledger.versions:
            place.damage(version.mask or "")
        run.settle()
        for version in run.ledger.versions:
            assert place.open().get(version.mask or "").keys() == masks(1).keys()


def test_a_sparse_learner_that_lags_shows_its_own_version(tmp_path: Path) -> None:
    store = MemoryMaskStore()
    run = Run(Ledger(tmp_path), lambda: store)
    list(run.rebuild())
    run.ledger.promote()
    run.settle()
    assert store.head() == Publication.first(run.ledger.versions[0])


def test_a_version_that_the_ledger_does_not_tell_of_yet_is_shown_once_it_does(
    tmp_path: Path,
) -> None:
    store, ledger = MemoryMaskStore(), Ledger(tmp_path)
    told: list[ModelVersion] = []
    ledger.promote()
    registry = ReconcilingRegistry(store, ledger.snapshots, lambda: told, clock=Clock())
    registry.reconcile(1)
    assert store.head() is None
    told += ledger.versions
    registry.reconcile(1)
    assert store.head() == Publication.first(ledger.versions[0])


def test_it_looks_only_as_often_as_it_is_told_to(tmp_path: Path) -> None:
    store, clock = MemoryMaskStore(), Clock()
    ledger = Ledger(tmp_path)
    registry = ReconcilingRegistry(store, ledger.snapshots, clock=clock, check_seconds=5.0)
    registry.publish(Publication.first(ledger.promote()))
    store._head = Head()
    clock.now += 4.9
    registry.reconcile(1)
    assert store.head() is None
    clock.now += 0.2
    registry.reconcile(1)
    assert store.head() == Publication.first(ledger.versions[0])


def test_a_snapshot_that_is_gone_is_said_and_does_not_stop_anybody(tmp_path: Path) -> None:
    store, ledger = MemoryMaskStore(), Ledger(tmp_path)
    version = ledger.promote()
    ledger.snapshots.delete(version.snapshot)
    registry = ReconcilingRegistry(store, ledger.snapshots, clock=Clock())
    registry.publish(Publication.first(version))
    assert registry.away is not None
    assert f"no snapshot '{version.snapshot}'" in registry.away
    assert store.head() is None


def test_one_lost_version_does_not_keep_the_newer_ones_out(tmp_path: Path) -> None:
    store, ledger = MemoryMaskStore(), Ledger(tmp_path)
    lost, kept = ledger.promote(), ledger.promote()
    ledger.snapshots.delete(lost.snapshot)
    registry = ReconcilingRegistry(store, ledger.snapshots, clock=Clock())
    registry.keep([lost, kept])
    assert store.names() == (kept.mask,)
    assert registry.away is not None


# A server that comes and goes.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def stored(server: RedisServer) -> Iterator[RedisMaskStore]:
    config = StoreConfig(kind="redis", url=server.url, timeout_seconds=0.2)
    with closing(RedisMaskStore(config, "run")) as store:
        yield store


def go(server: RedisServer, how: str) -> None:
    if how == "freeze":
        server.freeze()
    else:
        server.stop(signal.SIGKILL if how == "kill" else signal.SIGTERM)


def come_back(server: RedisServer, how: str) -> None:
    if how == "freeze":
        server.thaw()
    else:
        server.start()


@pytest.mark.parametrize("how", ["stop", "kill", "freeze"])
@pytest.mark.parametrize("moment", range(5))
def test_a_server_that_goes_and_comes_back_is_caught_up_with(
    moment: int, how: str, tmp_path: Path, server: RedisServer, stored: RedisMaskStore
) -> None:
    run = Run(Ledger(tmp_path), lambda: stored)
    list(run.rebuild())
    for step, _ in enumerate(run.rebuild(), start=1):
        if step == moment:
            go(server, how)
    if moment == 0:
        go(server, how)
    list(run.rebuild())
    run.settle()
    assert run.sparse.away is not None
    assert f"localhost:{server.port}" in run.sparse.away
    come_back(server, how)
    run.settle()
    assert run.sparse.away is None
    assert run.pruner.away is None
    assert shown(stored) == expected(run.ledger)


def test_a_server_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, server: RedisServer, stored: RedisMaskStore
) -> None:
    server.stop()
    run = Run(Ledger(tmp_path), lambda: stored)
    assert run.sparse.away is not None
    list(run.rebuild())
    run.settle()
    assert run.sparse.away is not None
    server.start()
    run.settle()
    assert shown(stored) == expected(run.ledger)


def test_one_that_nothing_is_told_to_still_notices_that_it_is_back(
    tmp_path: Path, server: RedisServer, stored: RedisMaskStore
) -> None:
    server.stop()
    clock = Clock()
    registry = ReconcilingRegistry(stored, Ledger(tmp_path).snapshots, clock=clock)
    clock.now += 60
    registry.reconcile()
    assert registry.away is not None
    server.start()
    clock.now += 60
    registry.reconcile()
    assert registry.away is None


def test_it_says_once_that_the_store_is_away_and_since_when(
    tmp_path: Path,
    server: RedisServer,
    stored: RedisMaskStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    registry = ReconcilingRegistry(stored, Ledger(tmp_path).snapshots, clock=clock)
    server.stop()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            clock.now += 10
            registry.reconcile()
        assert registry.away is not None
        assert registry.away.endswith("Connection refused. (for 190 s)")
        server.start()
        clock.now += LONGEST_PAUSE
        registry.reconcile()
    assert registry.away is None
    away, back = [record.getMessage() for record in caplog.records]
    assert away.startswith(
        "the mask store is away, learning continues without it: redis://localhost"
    )
    assert back == "the mask store is back after 220 s"


def test_pauses_grow_while_it_is_away_so_that_learning_hardly_waits(tmp_path: Path) -> None:
    clock, asked = Clock(), []

    class Counting(MemoryMaskStore):
        def head(self) -> Publication | None:
            asked.append(clock.now)
            raise StoreRefusedError("gone")

    registry = ReconcilingRegistry(
        Counting(), Ledger(tmp_path).snapshots, clock=clock, check_seconds=5.0
    )
    for _ in range(100):
        registry.reconcile()
        clock.now += 1
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == [5, 10, 20, 30, 30]


def test_a_store_that_comes_back_at_the_very_end_gets_everything(
    tmp_path: Path, server: RedisServer, stored: RedisMaskStore
) -> None:
    run = Run(Ledger(tmp_path), lambda: stored)
    server.stop()
    list(run.rebuild())
    server.start()
    run.pruner.close()
    run.sparse.close()
    assert shown(stored) == expected(run.ledger)


def test_a_store_that_was_wiped_right_before_the_end_is_filled_again(tmp_path: Path) -> None:
    store = MemoryMaskStore()
    run = Run(Ledger(tmp_path), lambda: store)
    list(run.rebuild())
    store._head = Head()
    run.sparse.close()
    assert store.head() == Publication.first(run.ledger.versions[-1])


def test_what_only_other_settings_would_mend_stops_the_start(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "right") as server:
        config = StoreConfig(kind="redis", url=server.url, password="wrong")
        with (
            closing(RedisMaskStore(config, "run")) as store,
            pytest.raises(StoreRefusedError, match=r"store\.password"),
        ):
            ReconcilingRegistry(store, Ledger(tmp_path).snapshots)


def test_a_password_that_changes_meanwhile_is_said_and_does_not_stop_anybody(
    tmp_path: Path, server: RedisServer, stored: RedisMaskStore
) -> None:
    run = Run(Ledger(tmp_path), lambda: stored)
    list(run.rebuild())
    server.stop()
    server.options = ("--requirepass", "new")
    server.start()
    list(run.rebuild())
    run.settle()
    assert run.sparse.away is not None
    assert "store.password" in run.sparse.away


# Publications between two versions.


def served(ledger: Ledger, count: int, seed: int) -> str:
    """Write what a trainer publishes after so many events, and return its name."""
    cursor = ClickCursor(identity="7f", count=count)
    tensors = {f"mask.{name}": mask.to(torch.uint8) for name, mask in masks(seed).items()}
    state = LearnerState("published-sparse", 1, cursor, {}, tensors)
    return ledger.snapshots.write(state)


@each_store
def test_a_later_publication_has_the_mask_of_its_snapshot(kind: Kind, tmp_path: Path) -> None:
    with kind(tmp_path) as place:
        run = Run(Ledger(tmp_path), place.open)
        list(run.rebuild())
        name = served(run.ledger, 150, seed=9)
        run.sparse.publish(Publication(1, 1, name, 150))
        expected = Publication(1, 1, name, 150, MemoryMaskStore().put(masks(9)))
        assert place.open().head() == expected
        assert torch.equal(place.open().get(str(expected.mask))["top.0"], masks(9)["top.0"])
        place.wipe()
        run.settle()
        assert place.open().head() == expected


@each_store
def test_after_a_restart_with_a_wiped_store_the_newest_that_is_known_is_shown(
    kind: Kind, tmp_path: Path
) -> None:
    with kind(tmp_path) as place:
        run = Run(Ledger(tmp_path), place.open)
        list(run.rebuild())
        name = served(run.ledger, 150, seed=9)
        run.sparse.publish(Publication(1, 1, name, 150))
        head = place.open().head()
        place.wipe()
        run.restart()
        run.step()
        assert place.open().head() == Publication.first(run.ledger.versions[-1])
        run.sparse.publish(Publication(1, 1, name, 150))
        assert place.open().head() == head


def test_an_older_publication_changes_nothing(tmp_path: Path) -> None:
    store, ledger = MemoryMaskStore(), Ledger(tmp_path)
    first = Publication.first(ledger.promote())
    newer = Publication(1, 4, served(ledger, 300, seed=9), 300)
    registry = ReconcilingRegistry(store, ledger.snapshots, clock=Clock())
    for publication in (first, newer, first, replace(newer, sequence=2)):
        registry.publish(publication)
    head = store.head()
    assert head is not None
    assert head.rank == (1, 4)


def test_a_publication_whose_snapshot_is_gone_is_said_and_the_next_one_mends_it(
    tmp_path: Path,
) -> None:
    store, ledger, clock = MemoryMaskStore(), Ledger(tmp_path), Clock()
    registry = ReconcilingRegistry(store, ledger.snapshots, clock=clock)
    registry.publish(Publication.first(ledger.promote()))
    gone = served(ledger, 150, seed=9)
    ledger.snapshots.delete(gone)
    registry.publish(Publication(1, 1, gone, 150))
    assert registry.away is not None
    assert gone in registry.away
    clock.now += LONGEST_PAUSE
    registry.publish(Publication(1, 2, served(ledger, 300, seed=8), 300))
    assert registry.away is None
    head = store.head()
    assert head is not None
    assert head.rank == (1, 2)
