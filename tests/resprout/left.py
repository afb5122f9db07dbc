"""What a run leaves behind: equal for equal runs, however many lives they took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from learner.snapshots import LearnerState, follower_from_parts, from_parts
from pruner.masks import DiskMaskStore, MaskStore
from resprout.folder import RunFolder
from resprout.settings import DENSE, MODELS
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.follow import read_all
from stream.log import LogStore, StoredRecord
from stream.messages import Progress, parse

Messages = dict[str, bytes]
"""The first message of each key, in the order of the log."""


@dataclass(frozen=True)
class Left:
    """All that is compared, bit for bit; the identities of logs differ from run to run."""

    clicks: list[StoredRecord]
    truth: list[StoredRecord]
    predictions: Messages
    """Of all models and candidates, by model and count."""
    windows: Messages
    """All in the log ``windows`` but copies of progress, which belong to the wall clock."""
    ledger: list[tuple[str, bytes]]
    """In its order, which is a part of it."""
    dead_letters: Messages
    mask_changes: Messages
    states: dict[str, dict[str, Any]]
    """Of each model, its last checkpoint, every tensor as bytes."""
    snapshots: set[str]
    """Their names, which hold the hashes of their contents."""
    masks: tuple[str, ...]
    head: Any

    @classmethod
    def by(
        cls, folder: RunFolder, home: LogStore | None = None, store: MaskStore | None = None
    ) -> Left:
        """Read what stands in a state folder, or of it on servers."""
        home, masks = home or folder.home, store or DiskMaskStore(folder.masks)
        snapshots = folder.snapshots.folder
        logs = dict.fromkeys(topics.predictions(m) for m in (*MODELS, "candidate-1"))
        return cls(
            clicks=_records(home, topics.CLICKS),
            truth=_records(home, topics.TRUTH),
            predictions=_first(keyed for log in logs for keyed in _predictions(home, log)),
            windows=_first(_messages(home, topics.WINDOWS)),
            ledger=list(_first(_messages(home, topics.LEDGER)).items()),
            dead_letters=_first(_messages(home, topics.DEAD_LETTERS)),
            mask_changes=_first(
                _messages(home, topics.MASK_CHANGES) if home.exists(topics.MASK_CHANGES) else ()
            ),
            states={model: _state(folder, model) for model in MODELS},
            snapshots={str(p.relative_to(snapshots)) for p in snapshots.glob("*/[!.]*")},
            masks=masks.names(),
            head=masks.head(),
        )


PARTS = [field.name for field in fields(Left)]


def assert_same(one: Left, other: Left) -> None:
    """Compare two runs part by part, so that a failure names the part."""
    for part in PARTS:
        assert getattr(one, part) == getattr(other, part), part


def records(folder: RunFolder, log: str) -> list[StoredRecord]:
    """Return all that a log of a state folder holds."""
    return _records(folder.home, log)


def _records(home: LogStore, log: str) -> list[StoredRecord]:
    reader = home.reader(log)
    found = list(read_all(reader))
    reader.close()
    return found


def _messages(home: LogStore, log: str) -> Iterable[tuple[str, bytes]]:
    values = [stored.record.value for stored in _records(home, log)]
    return [(message.key, v) for v in values if not isinstance(message := parse(v), Progress)]


def _predictions(home: LogStore, log: str) -> Iterable[tuple[str, bytes]]:
    for stored in _records(home, log):
        batch = predictions_from_bytes(stored.record.value)
        yield f"{batch.model}/{batch.begin}", stored.record.value


def _first(keyed: Iterable[tuple[str, bytes]]) -> Messages:
    """Keep what readers keep; whatever repeats it must have the same bytes."""
    kept: Messages = {}
    for key, value in keyed:
        assert kept.setdefault(key, value) == value, f"{key} was published again, otherwise"
    return kept


def _state(folder: RunFolder, model: str) -> dict[str, Any]:
    kept = folder.checkpoints(model).latest()
    if kept is not None:
        return _of(from_parts(kept.parts))
    # One that shares embeddings is kept with the model that learns them.
    dense = folder.checkpoints(DENSE).latest()
    state = follower_from_parts(dense.parts, model) if dense else None
    return {} if state is None else _of(state)


def _of(state: LearnerState) -> dict[str, Any]:
    return {
        "version": state.version,
        "cursor": state.cursor.model_copy(update={"identity": ""}),
        "trained_through": state.trained_through,
        "tensors": {name: t.numpy().tobytes() for name, t in state.tensors.items()},
    }
