"""The model card: what a person finds beside the weights."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from learner import tensors
from learner.online import ADAGRAD, FROZEN, MASK, own_tensors
from stream.messages import Position
from stream.reader import ClickCursor
from stream.state import Content, write_folder_atomic

_CARD_TEXT = """\
---
library_name: resprout
pipeline_tag: tabular-classification
tags: [click-through-rate, online-learning, pruning]
---

# {name}

The {model} model, version {version}, after {events_seen} events, learned online in one pass by
Resprout {resprout_version} (seed {seed}). It predicts the chance that an impression is clicked.

## Data

Events 1 to {events_seen} of the stream that `config_json` in the header of the file describes; it
was learned from through {trained_through} (partition, offset, row).

## Weights

| tensor | shape | kept | sparsity |
|---|---|---:|---:|
{rows}

## Limits

It learned from one stream and goes stale as the stream drifts. Predictions were scored before
they were learned from; the scores stand in the `windows` log of the run.

## Load

```python
from safetensors.torch import load_file

tensors = load_file("model.safetensors")
own = {{n: t for n, t in tensors.items() if not n.startswith({prefixes})}}
module.load_state_dict(own)
```
"""


def card(name: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Write the card of a snapshot from its header and its tensors."""
    own = own_tensors(tensors)
    rows = "\n".join(_row(n, t, tensors.get(mask_of(n))) for n, t in own.items())
    return _CARD_TEXT.format(name=name, rows=rows, prefixes=(ADAGRAD, FROZEN, MASK), **metadata)


def mask_of(weight: str) -> str:
    """Name the mask of a layer's weight.

    >>> mask_of("top.0.weight")
    'mask.top.0'
    """
    return MASK + weight.removesuffix(".weight")


def _row(name: str, tensor: Tensor, mask: Tensor | None) -> str:
    shape = " × ".join(str(size) for size in tensor.shape)
    kept = tensor.numel() if mask is None else int(torch.count_nonzero(mask))
    sparsity = 1 - kept / tensor.numel() if tensor.numel() else 0.0
    return f"| {name} | {shape} | {kept:,} | {sparsity:.1%} |"


log = logging.getLogger(__name__)

FORMAT = "resprout-snapshot-1"
_VERSION = version("resprout")
FILE = "model.safetensors"
_CARD = "README.md"
_TRASH = ".trash-"
_NAME = re.compile(r"[A-Za-z0-9_-]+/\d{15}-[0-9a-f]{12}")


class SnapshotError(Exception):
    """A snapshot is missing or damaged."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model as it was after ``count`` events, with all that learning goes on from."""

    model: str
    """``dense``, ``sparse``, ``never_rebuilt`` or ``candidate-n``."""
    version: int
    cursor: ClickCursor
    """The place after the last event that it has learned."""
    trained_through: dict[int, Position]
    """For each partition the last place the model or any ancestor of it has learned from."""
    tensors: dict[str, Tensor] = field(repr=False)
    """:meth:`learner.online.OnlineModel.state`: weights, Adagrad sums, masks, frozen weights."""
    config_json: str = "{}"
    """The settings of the run."""
    seed: int = 0

    @property
    def count(self) -> int:
        """Events that it has learned since the start of the run."""
        return self.cursor.count

    @property
    def metadata(self) -> dict[str, str]:
        """Everything but the tensors, as texts for the header of the file."""
        return {
            "format": FORMAT,
            "resprout_version": _VERSION,
            "model": self.model,
            "version": str(self.version),
            "events_seen": str(self.count),
            "cursor": self.cursor.model_dump_json(),
            "trained_through": json.dumps(
                [[p, *q] for p, q in sorted(self.trained_through.items())]
            ),
            "config_json": self.config_json,
            "seed": str(self.seed),
        }


@dataclass(frozen=True, slots=True)
class SnapshotStore:
    """A folder of snapshots that workers share: ``<model>/<count>-<hash>/``.

    The hash is that of the file's content but for the identity of the click log, so that two runs
    over the same clicks name the same snapshots. Each model has one writer. A snapshot appears
    whole or not at all.

    Examples
    --------
    >>> import tempfile, torch
    >>> store = SnapshotStore(Path(tempfile.mkdtemp()))
    >>> cursor = ClickCursor(identity="7f", count=500)
    >>> name = store.write(Snapshot("dense", 0, cursor, {}, {"w": torch.ones(2)}))
    >>> name == store.find("dense", 500), store.read(name).tensors
    (True, {'w': tensor([1., 1.])})
    """

    folder: Path

    def write(self, snapshot: Snapshot) -> str:
        """Publish a snapshot and return its name; one that is there already is left alone."""
        header, *content = tensors.parts(snapshot.tensors, snapshot.metadata)
        anonymous, *_ = tensors.parts(snapshot.tensors, _anonymous(snapshot.metadata))
        name = f"{snapshot.model}/{snapshot.count:015d}-{_short([anonymous, *content])}"
        _check(name)
        about = card(name, snapshot.metadata, snapshot.tensors)
        files: dict[str, Content] = {FILE: [header, *content], _CARD: [about.encode()]}
        write_folder_atomic(self.folder / name, files)
        return name

    def read(self, name: str) -> Snapshot:
        """Read a snapshot. Raises :class:`SnapshotError` if it is missing or damaged."""
        path = self.folder / _check(name) / FILE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            held = ", ".join(self.names(name.partition("/")[0])) or "none"
            raise SnapshotError(f"no snapshot {name!r} in {self.folder}; there: {held}") from None
        if not name.endswith(_hash_or_none(content) or " "):
            raise SnapshotError(
                f"snapshot {path} is damaged: its content does not match its name; delete it, "
                "and let the run make it again from a checkpoint"
            )
        return from_bytes(content)

    def find(self, model: str, count: int) -> str | None:
        """Return the name of a model's snapshot after ``count`` events, None without one."""
        return next((n for n in reversed(self.names(model)) if count_of(n) == count), None)

    def names(self, model: str) -> list[str]:
        """Return the names of all snapshots of a model, oldest first."""
        found = (f"{model}/{path.name}" for path in (self.folder / model).glob("*"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def delete(self, name: str) -> None:
        """Delete a snapshot; one that is not there is passed over."""
        path = self.folder / _check(name)
        trash = path.with_name(_TRASH + path.name)
        shutil.rmtree(trash, ignore_errors=True)
        if path.exists():
            path.rename(trash)
            shutil.rmtree(trash)


def from_bytes(content: bytes) -> Snapshot:
    """Read a snapshot's file.

    Raises ``ValueError`` for a safetensors file that is no snapshot.
    """
    found = tensors.metadata(content)
    if found.get("format") != FORMAT:
        raise ValueError(
            f"a safetensors file of format {found.get('format')!r} is no snapshot; "
            f"expected {FORMAT!r}"
        )
    return Snapshot(
        model=found["model"],
        version=int(found["version"]),
        cursor=ClickCursor.model_validate_json(found["cursor"]),
        trained_through=_places(found),
        tensors=tensors.load(content),
        config_json=found["config_json"],
        seed=int(found["seed"]),
    )


def _places(metadata: Mapping[str, str]) -> dict[int, Position]:
    return {p: Position(o, r) for p, o, r in json.loads(metadata["trained_through"])}


def _hash(content: bytes) -> str:
    return _short(tensors.with_metadata(content, _anonymous(tensors.metadata(content))))


def _short(parts: Iterable[bytes | memoryview]) -> str:
    return tensors.digest(parts)[:12]


def _anonymous(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave the identity of the click log out."""
    cursor = ClickCursor.model_validate_json(metadata["cursor"])
    return {
        **metadata,
        "cursor": cursor.model_copy(update={"identity": ""}).model_dump_json(),
    }


def _hash_or_none(content: bytes) -> str | None:
    """Return the hash, None for bytes so damaged that they have none."""
    try:
        return _hash(content)
    except (ValueError, KeyError):
        return None


def count_of(name: str) -> int:
    """Return the count in a snapshot's name.

    >>> count_of("dense/000000000050000-0123456789ab")
    50000
    """
    return int(name.partition("/")[2].partition("-")[0])


def _check(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a snapshot; names are <model>/<count, 15 digits>-<hash>"
        )
    return name


_TENSORS, _PLACE = "model.safetensors", "place.json"


@dataclass(frozen=True, slots=True)
class LearnerState:
    """A learner after the batch at ``cursor``."""

    version: int
    """Of the model: 0 for dense, growing with every swap for a sparse one."""
    cursor: ClickCursor
    """The place to read next."""
    trained_through: dict[int, Position]
    """For each partition the last place the model or any ancestor of it has learned from."""
    tensors: dict[str, Tensor] = field(repr=False)
    """:meth:`learner.online.OnlineModel.state`."""
    ordered: int | None = None
    """Of dense with several partitions: where in its predictions those after ``cursor`` begin, so
    that it can repeat them."""


class _Place(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    cursor: ClickCursor
    trained_through: dict[int, Position]
    ordered: int | None = None


def to_parts(state: LearnerState) -> dict[str, bytes]:
    """Write a state as the parts of a :class:`stream.state.Checkpoints` entry.

    >>> state = LearnerState(0, ClickCursor(identity="7f", count=500), {0: Position(9, 3)}, {})
    >>> from_parts(to_parts(state)) == state
    True
    """
    place = _Place(
        version=state.version,
        cursor=state.cursor,
        trained_through=state.trained_through,
        ordered=state.ordered,
    )
    return {
        _TENSORS: tensors.dump(state.tensors),
        _PLACE: place.model_dump_json().encode(),
    }


def from_parts(parts: Mapping[str, bytes]) -> LearnerState:
    """Read a state back. Raises ``ValueError`` where the parts are not a learner's."""
    missing = [name for name in (_TENSORS, _PLACE) if name not in parts]
    if missing:
        raise ValueError(
            f"the checkpoint has no part {missing[0]!r}; it is not a learner's: "
            f"it has {', '.join(sorted(parts)) or 'none'}"
        )
    place = _Place.model_validate_json(parts[_PLACE])
    return LearnerState(
        place.version,
        place.cursor,
        place.trained_through,
        tensors.load(parts[_TENSORS]),
        place.ordered,
    )
