from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from learner import Publication
from pruner.masks import DiskMaskStore, MaskDamagedError, MemoryMaskStore, StoreRefusedError
from tests.pruner.store_contract import CHECKS, PLACES, Place, masks


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.__name__)
def test_contract(
    kind: Callable[[Path], AbstractContextManager[Place]],
    check: Callable[[Place], None],
    tmp_path: Path,
) -> None:
    with kind(tmp_path) as place:
        check(place)


def test_a_flipped_bit_on_disk_is_found_and_the_file_named(tmp_path: Path) -> None:
    store = DiskMaskStore(tmp_path)
    name = store.put(masks(0))
    path = tmp_path / f"{name}.mask"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(MaskDamagedError, match=f"{name}.mask holds .*, not what it is named after"):
        store.get(name)


@pytest.mark.parametrize("versions", [1, 2])
def test_how_many_versions_are_never_forgotten_can_be_told(versions: int, tmp_path: Path) -> None:
    for store in (MemoryMaskStore(versions), DiskMaskStore(tmp_path, versions)):
        names = [store.put(masks(n)) for n in range(4)]
        for n, name in enumerate(names):
            store.publish(Publication(n + 1, 0, "x", n, name))
        store.retain(())
        assert set(store.names()) == set(names[-versions:])


@pytest.mark.parametrize("content", [b"[]", b'{"format": 1, "head": {}}', b"{}", b"\xff\x00"])
def test_a_head_of_another_format_is_refused_and_the_file_named(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "head.json").write_bytes(content)
    store = DiskMaskStore(tmp_path)
    for use in (store.check, store.head, lambda: store.retain(())):
        with pytest.raises(
            StoreRefusedError, match=r"head\.json is damaged \(.*\); delete it, and"
        ):
            use()


def test_a_head_with_any_figure_flipped_is_refused(tmp_path: Path) -> None:
    """A version that was flipped hid the mask that had been promoted."""
    store = DiskMaskStore(tmp_path)
    store.publish(Publication(3, 2, "candidate-1/000000000150000-0123456789ab", 150_000))
    written = (tmp_path / "head.json").read_bytes()
    for at, byte in enumerate(written):
        if chr(byte).isalnum():
            damaged = bytearray(written)
            damaged[at] ^= 1
            (tmp_path / "head.json").write_bytes(damaged)
            with pytest.raises(StoreRefusedError, match=r"head\.json is damaged"):
                store.head()
    (tmp_path / "head.json").unlink()
    assert store.head() is None
