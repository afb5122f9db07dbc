"""What nobody needs any more."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from learner.snapshot import SnapshotStore
from pruner.ledger import History

_DENSE = "dense"


def stale(names: list[str], history: History, snapshot_events: int) -> list[str]:
    """Choose the dense snapshots from which no rebuild can start.

    Those before the last one that a window still to be decided could name. The newest stays, and
    so does the one that the open rebuild names.

    Parameters
    ----------
    names
        Of dense snapshots, oldest first.
    history
        The ledger.
    snapshot_events
        The grid of dense snapshots.

    Examples
    --------
    >>> names = [f"dense/{count:015d}-abcdefabcdef" for count in (100, 200, 300, 400)]
    >>> [name[18:21] for name in stale(names, History(decided=350), snapshot_events=100)]
    ['100', '200']
    """
    named = history.open.snapshot if history.open else None
    counts = {name: int(name.partition("/")[2].partition("-")[0]) for name in names}
    return [
        name
        for name in names[:-1]
        if counts[name] + snapshot_events <= history.decided and counts[name] != named
    ]


def tidy_dense(snapshots: SnapshotStore, history: History, snapshot_events: int) -> None:
    """Delete the dense snapshots from which no rebuild can start."""
    for name in stale(snapshots.names(_DENSE), history, snapshot_events):
        snapshots.delete(name)


def tidy_candidates(snapshots: SnapshotStore, history: History) -> None:
    """Delete the candidates that are neither in the making nor among the last versions."""
    kept = {swap.snapshot for swap in history.promoted}
    for folder in sorted(snapshots.folder.glob("candidate-*")):
        if history.open is not None and folder.name == history.open.candidate:
            continue
        for name in snapshots.names(folder.name):
            if name not in kept:
                snapshots.delete(name)
        with contextlib.suppress(OSError):
            folder.rmdir()


def tidy_checkpoints(folder: Path, history: History) -> None:
    """Delete the checkpoints of rebuilds that have ended."""
    mine = f"rebuild-{history.open.number:06d}" if history.open else ""
    for path in sorted(folder.glob("rebuild-*")):
        if path.name != mine:
            shutil.rmtree(path)
