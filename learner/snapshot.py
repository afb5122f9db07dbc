"""Snapshots: immutable published copies of a model, each a folder with its model card."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from learner import tensors
from learner.card import card
from stream.clicks import ClickCursor
from stream.messages import Place
from stream.state import Content, write_folder_atomic

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
    trained_through: dict[int, Place]
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


def _places(metadata: Mapping[str, str]) -> dict[int, Place]:
    return {p: Place(o, r) for p, o, r in json.loads(metadata["trained_through"])}


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
