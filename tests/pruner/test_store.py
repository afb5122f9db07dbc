from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from learner.regime import Swap
from pruner.masks import MaskDamagedError
from pruner.store import HISTORY, DiskMaskStore, MaskStore, MemoryMaskStore, moved
from tests.pruner.store_contract import CHECKS, Open, masks


def memory(folder: Path) -> Open:
    del folder
    store = MemoryMaskStore()
    return lambda: store


def disk(folder: Path) -> Open:
    return lambda: DiskMaskStore(folder / "masks")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", [memory, disk])
def test_contract(
    kind: Callable[[Path], Callable[[], MaskStore]],
    check: Callable[[Open], None],
    tmp_path: Path,
) -> None:
    check(kind(tmp_path))


def test_a_damaged_mask_is_refused_and_heals_when_it_is_put_again(tmp_path: Path) -> None:
    store = DiskMaskStore(tmp_path)
    name = store.put(masks(0))
    path = tmp_path / f"{name}.mask"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(MaskDamagedError, match=f"{name}.mask holds .*, not what it is named after"):
        store.get(name)
    store.put(masks(0))
    assert store.get(name).keys() == masks(0).keys()


def test_the_history_of_heads_is_bounded() -> None:
    history: tuple[Swap, ...] = ()
    for version in range(1, HISTORY + 5):
        history = moved(history, Swap(version, "x", version))
    assert len(history) == HISTORY
    assert history[-1].version == HISTORY + 4
