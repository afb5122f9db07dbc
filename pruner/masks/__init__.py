"""The model registry: masks and the head, kept for servers of the model.

- ``store``: masks as bytes, named by what they hold; what a store of masks offers, and its homes
  in memory and on disk; what fills a store from ledger and snapshots, and what follows one.
- ``redis``: its home on a Redis server; loaded only where it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from pruner.config import StoreConfig
from pruner.masks.store import (
    DiskMaskStore,
    MaskDamagedError,
    MaskMissingError,
    MaskStore,
    MemoryMaskStore,
    ReconcilingRegistry,
    RegistryFollower,
    ServedModel,
    StoreAwayError,
    StoreError,
    StoreRefusedError,
    content_hash,
    describe,
    pack,
    sparsity,
    unpack,
)

__all__ = ["DiskMaskStore", "MaskDamagedError", "MaskMissingError", "MaskStore"]
__all__ += ["MemoryMaskStore", "ReconcilingRegistry", "RegistryFollower", "ServedModel"]
__all__ += ["StoreAwayError", "StoreError", "StoreRefusedError", "content_hash", "describe"]
__all__ += ["open_store", "pack", "sparsity", "unpack"]


def open_store(config: StoreConfig, folder: Path, run: str | None) -> MaskStore:
    """Open the store of the masks, wherever the settings say that it is.

    Parameters
    ----------
    config
        Says where.
    folder
        Holds it, if it is on disk.
    run
        The identity of the ledger, by which a server tells this run from others; None for those
        who only read.
    """
    if config.kind == "disk":
        return DiskMaskStore(folder, config.versions)
    if config.kind == "memory":
        return MemoryMaskStore(config.versions)
    from pruner.masks.redis import RedisMaskStore

    return RedisMaskStore(config, run)
