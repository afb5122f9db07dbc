"""What every mask store must fulfil: check functions over a place that holds one.

``place.open()`` opens the same store each time it is called, as another process would; a store
that lives in memory opens the same object.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner import Publication
from pruner import StoreConfig
from pruner.masks import (
    DiskMaskStore,
    MaskDamagedError,
    MaskMissingError,
    MaskStore,
    MemoryMaskStore,
    RegistryFollower,
)
from pruner.masks.redis import RedisMaskStore
from pruner.masks.store import KEPT, Head
from tests.redis_server import redis_server

Open = Callable[[], MaskStore]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is, and what accidents happen to it."""

    open: Open
    damage: Callable[[str], None]
    """Alters what is kept under the name of a mask."""
    wipe: Callable[[], None]
    """Deletes everything, while others use it."""


@contextmanager
def memory(folder: Path) -> Iterator[Place]:
    del folder
    store = MemoryMaskStore()

    def damage(mask: str) -> None:
        store._blobs[mask] += b"x"

    def wipe() -> None:
        store._blobs.clear()
        store._head = Head()

    yield Place(lambda: store, damage, wipe)


@contextmanager
def disk(folder: Path) -> Iterator[Place]:
    path = folder / "masks"

    def damage(mask: str) -> None:
        (path / f"{mask}.mask").write_bytes(b"x")

    def wipe() -> None:
        shutil.rmtree(path, ignore_errors=True)

    yield Place(lambda: DiskMaskStore(path), damage, wipe)


@contextmanager
def redis(folder: Path) -> Iterator[Place]:
    opened: list[MaskStore] = []
    with redis_server(folder / "redis") as server, server.client() as client:
        config = StoreConfig(kind="redis", url=server.url)

        def open_store() -> MaskStore:
            opened.append(RedisMaskStore(config, "run"))
            return opened[-1]

        def damage(mask: str) -> None:
            client.append(f"{config.prefix}:mask:{mask}", "x")

        yield Place(open_store, damage, server.wipe)
        for store in opened:
            store.close()


PLACES = (memory, disk, redis)


def masks(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"top.0": torch.rand(5, 7, generator=generator) < 0.4, "top.2": torch.ones(1, 5) > 0}


def publications(*versions: int, store: MaskStore | None = None) -> list[Publication]:
    """Make heads, each the first of its version; their masks are put into the store."""
    made = []
    for n in versions:
        mask = store.put(masks(n)) if store else None
        snapshot = f"candidate-{n}/{100 * n:015d}-abcdefabcdef"
        made.append(Publication(n, 0, snapshot, 100 * n, mask))
    return made


def publication(version: int, store: MaskStore | None = None) -> Publication:
    """Make one head."""
    return publications(version, store=store)[0]


def a_mask_comes_back_by_its_content(place: Place) -> None:
    names = [place.open().put(masks(seed)) for seed in (0, 1)]
    for seed, name in enumerate(names):
        found = place.open().get(name)
        assert all(torch.equal(found[layer], mask) for layer, mask in masks(seed).items())


def the_same_mask_is_kept_once(place: Place) -> None:
    assert place.open().put(masks(0)) == place.open().put(masks(0))
    assert len(place.open().names()) == 1


def a_mask_that_is_not_there_is_named(place: Place) -> None:
    name = place.open().put(masks(0))
    with pytest.raises(MaskMissingError, match=f"no mask 'abc' in the store; it holds {name}"):
        place.open().get("abc")


def a_damaged_mask_is_refused_by_name_and_heals_when_it_is_put_again(place: Place) -> None:
    name = place.open().put(masks(0))
    place.damage(name)
    with pytest.raises(MaskDamagedError, match=f"{name}.* not .*what it is named after"):
        place.open().get(name)
    assert place.open().put(masks(0)) == name
    assert torch.equal(place.open().get(name)["top.0"], masks(0)["top.0"])


def an_empty_store_has_no_head(place: Place) -> None:
    place.open().check()
    assert place.open().head() is None
    assert place.open().names() == ()


def the_head_moves_forward_only(place: Place) -> None:
    one, two, three = publications(1, 2, 3, store=place.open())
    seen = []
    for published in (one, three, two, three, one):
        place.open().publish(published)
        seen.append(place.open().head())
    assert seen == [one, three, three, three, three]


def within_a_version_the_sequence_moves_it(place: Place) -> None:
    mask = place.open().put(masks(1))
    moves = [(1, 0), (1, 2), (1, 1), (1, 2), (2, 0), (1, 9), (2, 1)]
    seen = []
    for version, sequence in moves:
        place.open().publish(Publication(version, sequence, f"x/{version}-{sequence}", 7, mask))
        head = place.open().head()
        assert head is not None
        seen.append(head.rank)
    assert seen == [(1, 0), (1, 2), (1, 2), (1, 2), (2, 0), (2, 0), (2, 1)]


def a_head_of_the_same_rank_does_not_move_it(place: Place) -> None:
    place.open().publish(Publication(1, 0, "candidate-1/x", 100))
    place.open().publish(Publication(1, 0, "candidate-2/y", 200))
    head = place.open().head()
    assert head is not None
    assert head.snapshot == "candidate-1/x"


def a_head_whose_mask_is_not_there_is_refused(place: Place) -> None:
    one = publication(1, place.open())
    place.open().publish(one)
    with pytest.raises(MaskMissingError, match=f"no mask 'abc' in the store; it holds {one.mask}"):
        place.open().publish(Publication(2, 0, "candidate-2/x", 200, "abc"))
    assert place.open().head() == one


def a_publication_that_is_past_is_passed_over_whatever_it_names(place: Place) -> None:
    two = publication(2)
    place.open().publish(two)
    place.open().publish(Publication(1, 5, "candidate-1/x", 100, "abc"))
    assert place.open().head() == two


def masks_that_nobody_names_are_forgotten_but_never_that_of_the_head(place: Place) -> None:
    old, serving, new = (place.open().put(masks(seed)) for seed in (0, 1, 2))
    place.open().publish(Publication(1, 0, "candidate-1/x", 100, serving))
    place.open().retain({new})
    assert set(place.open().names()) == {serving, new}
    with pytest.raises(MaskMissingError, match=old):
        place.open().get(old)


def the_masks_of_the_last_heads_are_never_forgotten(place: Place) -> None:
    made = publications(*range(1, KEPT + 3), store=place.open())
    for one in made:
        place.open().publish(one)
        place.open().publish(replace(one, sequence=1))
    place.open().retain(())
    assert set(place.open().names()) == {one.mask for one in made[-KEPT:]}


def many_who_publish_at_once_leave_the_greatest_version(place: Place) -> None:
    made = publications(*range(1, 41), store=place.open())
    seen: list[int] = []
    done = threading.Event()

    def publish(begin: int) -> None:
        store = place.open()
        for one in made[begin::4]:
            store.publish(one)

    def watch() -> None:
        store = place.open()
        while not done.is_set():
            head = store.head()
            seen.append(head.version if head else 0)

    watcher = threading.Thread(target=watch)
    publishers = [threading.Thread(target=publish, args=(begin,)) for begin in range(4)]
    for thread in (watcher, *publishers):
        thread.start()
    for thread in publishers:
        thread.join(60)
    done.set()
    watcher.join(60)
    assert seen == sorted(seen)
    assert place.open().head() == made[-1]


def whoever_reads_a_head_finds_its_mask_whatever_is_forgotten_meanwhile(place: Place) -> None:
    last = 30
    threads = [
        threading.Thread(target=_publish_all, args=(place.open(), last)),
        threading.Thread(target=_forget_often, args=(place.open(), last)),
    ]
    for thread in threads:
        thread.start()
    store, seen = place.open(), 0
    while seen < last and any(thread.is_alive() for thread in threads):
        head = store.head()
        if head is not None and head.mask is not None:
            seen = head.version
            _read(store, head)
    for thread in threads:
        thread.join(60)
    head = store.head()
    assert head is not None
    assert head.version == last
    assert head.mask in store.names()


def _publish_all(store: MaskStore, last: int) -> None:
    """Publish one version after the other, each as often as its mask is forgotten before that."""
    version = 1
    while version <= last:
        with suppress(MaskMissingError):
            store.publish(publication(version, store))
            version += 1


def _forget_often(store: MaskStore, last: int) -> None:
    for _ in range(10 * last):
        store.retain(())


def _read(store: MaskStore, head: Publication) -> None:
    """Read the mask of a head; it may be gone only if that is none of the last versions."""
    try:
        store.get(head.mask or "")
    except MaskMissingError:
        now = store.head()
        assert now is not None
        assert now.version >= head.version + KEPT


def a_follower_keeps_the_last_good_version(place: Place) -> None:
    store, follower = place.open(), RegistryFollower(place.open())
    assert follower.poll() is None
    one, two = publications(1, 2, store=store)
    store.publish(one)
    served = follower.poll()
    assert served is not None
    assert (served.publication, served.masks.keys()) == (one, masks(1).keys())
    store.publish(two)
    place.damage(str(two.mask))
    assert follower.poll() is served
    assert follower.fault is not None
    assert str(two.mask) in follower.fault
    place.wipe()
    assert follower.poll() is served
    assert follower.fault is None
    store.put(masks(2))
    store.publish(two)
    healed = follower.poll()
    assert healed is not None
    assert healed.publication == two


def a_follower_follows_the_sequence(place: Place) -> None:
    store, follower = place.open(), RegistryFollower(place.open())
    one, other = publication(1, store), store.put(masks(2))
    for head in (one, replace(one, sequence=1), replace(one, sequence=4, mask=other)):
        store.publish(head)
        served = follower.poll()
        assert served is not None
        assert served.publication == head
        assert torch.equal(served.masks["top.0"], store.get(str(head.mask))["top.0"])


CHECKS: list[Callable[[Place], None]] = [
    a_mask_comes_back_by_its_content,
    the_same_mask_is_kept_once,
    a_mask_that_is_not_there_is_named,
    a_damaged_mask_is_refused_by_name_and_heals_when_it_is_put_again,
    an_empty_store_has_no_head,
    the_head_moves_forward_only,
    within_a_version_the_sequence_moves_it,
    a_head_of_the_same_rank_does_not_move_it,
    a_head_whose_mask_is_not_there_is_refused,
    a_publication_that_is_past_is_passed_over_whatever_it_names,
    masks_that_nobody_names_are_forgotten_but_never_that_of_the_head,
    the_masks_of_the_last_heads_are_never_forgotten,
    many_who_publish_at_once_leave_the_greatest_version,
    whoever_reads_a_head_finds_its_mask_whatever_is_forgotten_meanwhile,
    a_follower_keeps_the_last_good_version,
    a_follower_follows_the_sequence,
]
