"""Tensors and learners' states as bytes: snapshots that workers share, parts of checkpoints."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from learner.masking import ADAGRAD, FROZEN, MASK, UPDATER
from learner.online import masks_in, own_tensors
from stream import ClickCursor, LogPosition, RestartPoint
from stream.messages import Position
from stream.state import write_folder_atomic
from stream.topics import predictions

FORMAT = "resprout-snapshot-1"
_SUFFIX = ".safetensors"
FILE = f"model{_SUFFIX}"
_VERSION = version("resprout")
_NAME = re.compile(r"[A-Za-z0-9_-]+/\d{15}-[0-9a-f]{12}")

_TRASH = ".trash-"
_METADATA = "__metadata__"
_LENGTH_BYTES = 8

Kinds = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Names, types and shapes of tensors."""


def dump_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write tensors, with texts by name beside them in the header.

    The library writes metadata in an order that changes from run to run; here it is sorted.

    Examples
    --------
    >>> value = dump_tensors({"a": torch.ones(2)}, {"seed": "0"})
    >>> load_tensors(value)
    {'a': tensor([1., 1.])}
    >>> metadata(value)
    {'seed': '0'}
    """
    layout = _layout(tuple((name, t.dtype, tuple(t.shape)) for name, t in tensors.items()))
    flats = (tensors[name].detach().cpu().contiguous().reshape(-1) for name in layout)
    views = (flat.view(torch.uint8).numpy().data for flat in flats)
    return b"".join([_header(layout, metadata or {}), *views])


def load_tensors(value: bytes) -> dict[str, Tensor]:
    """Read tensors back. Raises ``ValueError`` for bytes that are no safetensors.

    Their memory may be at any address: copy them into place before computing with them.
    """
    try:
        return safetensors.torch.load(value)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def metadata(value: bytes) -> dict[str, str]:
    """Read the texts in the header; none where there are none."""
    found: dict[str, str] = _split(value)[0].get(_METADATA, {})
    return found


def dump_weights(
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    packed: Collection[str],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Write weights, some of them without what their masks prune.

    Such a tensor ``name`` is written as ``name.bitmap``, uint8, a bit an element, row by row and
    the highest bit of a byte first, and ``name.values``, the kept elements in that order. The
    metadata has their shapes as JSON, under ``pruned``.

    Parameters
    ----------
    tensors
        Zero where their masks prune them.
    masks
        By layer, without the ``.weight`` of its tensor; True is kept.
    packed
        The names of the tensors to write in that form.
    metadata
        Texts by name.

    Examples
    --------
    >>> mask = torch.tensor([[True, False, True]])
    >>> value = dump_weights({"a.weight": torch.tensor([[3.0, 0, 5]])}, {"a": mask}, ["a.weight"])
    >>> sorted(load_tensors(value).items())
    [('a.weight.bitmap', tensor([160], dtype=torch.uint8)), ('a.weight.values', tensor([3., 5.]))]
    >>> load_weights(value)
    {'a.weight': tensor([[3., 0., 5.]])}
    """
    written = {name: tensor for name, tensor in tensors.items() if name not in packed}
    for name in packed:
        mask = masks[name.removesuffix(".weight")]
        written[f"{name}.bitmap"] = torch.from_numpy(np.packbits(mask.numpy()))
        written[f"{name}.values"] = tensors[name][mask]
    shapes = {name: list(tensors[name].shape) for name in packed}
    return dump_tensors(written, {**(metadata or {}), "pruned": json.dumps(shapes)})


def load_weights(value: bytes) -> dict[str, Tensor]:
    """Read weights as :func:`dump_weights` writes them, or any safetensors file.

    Raises ``ValueError`` for bytes that are no safetensors.
    """
    tensors = load_tensors(value)
    for name, shape in json.loads(metadata(value).get("pruned", "{}")).items():
        values = tensors.pop(f"{name}.values")
        whole = torch.zeros(shape, dtype=values.dtype)
        bits = np.unpackbits(tensors.pop(f"{name}.bitmap").numpy(), count=whole.numel())
        whole[torch.from_numpy(bits).bool().reshape(shape)] = values
        tensors[name] = whole
    return tensors


@lru_cache(maxsize=16)
def _layout(kinds: Kinds) -> dict[str, dict[str, Any]]:
    """Let the library lay tensors out; what it says of each in the header, in their order."""
    blank = {name: torch.zeros(shape, dtype=dtype) for name, dtype, shape in kinds}
    header, _ = _split(safetensors.torch.save(blank))
    return dict(sorted(header.items(), key=lambda one: one[1]["data_offsets"]))


def _header(layout: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    texts = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    text = json.dumps({**texts, **layout}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _split(value: bytes) -> tuple[dict[str, dict[str, Any]], memoryview]:
    """Split the header from the tensors' bytes."""
    end = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "little")
    return json.loads(value[_LENGTH_BYTES:end]), memoryview(value)[end:]


_CARD_TEXT = Path(__file__).with_name("card.md").read_text("utf-8")


def card(name: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Write the model card: what a person finds beside the weights of a snapshot."""
    rows = []
    for own, tensor in own_tensors(tensors).items():
        shape = " × ".join(str(size) for size in tensor.shape)
        mask = tensors.get(MASK + own.removesuffix(".weight"))
        kept = tensor.numel() if mask is None else int(torch.count_nonzero(mask))
        sparsity = 1 - kept / tensor.numel() if tensor.numel() else 0.0
        rows.append(f"| {own} | {shape} | {kept:,} | {sparsity:.1%} |")
    prefixes = (ADAGRAD, FROZEN, MASK, UPDATER)
    return _CARD_TEXT.format(name=name, rows="\n".join(rows), prefixes=prefixes, **metadata)


class SnapshotError(Exception):
    """A snapshot is missing or damaged."""


@dataclass(frozen=True, slots=True)
class LearnerState:
    """A learner after the batch that ends at ``cursor``: all that learning continues from."""

    model: str
    """``dense``, ``sparse``, ``candidate-n`` or the name of a comparison."""
    version: int
    """Of the model: 0 for dense, growing with every switch for a sparse one."""
    cursor: ClickCursor
    """The place after the last event that it has learned."""
    trained_through: dict[int, Position]
    """For each partition the last place the model or any ancestor of it has learned from."""
    tensors: dict[str, Tensor] = field(repr=False)
    """:meth:`learner.online.OnlineModel.state`, and what a mask updater keeps, as
    ``updater.<name>``."""
    config_json: str = "{}"
    """The settings of the run."""
    seed: int = 0
    since: int = 0
    """Events before the version began; in checkpoints only."""
    ordered: int | None = None
    """Of dense with several partitions: where in its predictions those after ``cursor`` begin, so
    that it can repeat them; in checkpoints only."""
    published: LogPosition | None = None
    """The end of the log that it publishes to; in checkpoints only."""

    @property
    def count(self) -> int:
        """Events that it has learned since the start of the run."""
        return self.cursor.count

    @property
    def metadata(self) -> dict[str, str]:
        """Everything but the tensors, as texts for the header of a snapshot."""
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


def from_bytes(content: bytes) -> LearnerState:
    """Read the file of a snapshot, or the part of a checkpoint.

    Raises ``ValueError`` for a safetensors file that is neither.
    """
    found = metadata(content)
    if found.get("format") != FORMAT:
        raise ValueError(
            f"a safetensors file of format {found.get('format')!r} is no snapshot; this release "
            f"reads {FORMAT!r}, it is of Resprout {found.get('resprout_version', 'unknown')}"
        )
    places = json.loads(found["trained_through"])
    return LearnerState(
        model=found["model"],
        version=int(found["version"]),
        cursor=ClickCursor.model_validate_json(found["cursor"]),
        trained_through={p: Position(offset, row) for p, offset, row in places},
        tensors=load_tensors(content),
        config_json=found["config_json"],
        seed=int(found["seed"]),
        since=int(found.get("since", 0)),
        ordered=int(found["ordered"]) if "ordered" in found else None,
        published=LogPosition(*json.loads(found["published"])) if "published" in found else None,
    )


def to_parts(state: LearnerState, *followers: LearnerState) -> dict[str, bytes]:
    """Write a state as the parts of a :class:`stream.state.Checkpoints` entry.

    Beside it stand those of models that learn along with it, from its embeddings.

    >>> from dataclasses import replace
    >>> cursor = ClickCursor(identity="7f", count=500)
    >>> state = LearnerState("dense", 0, cursor, {0: Position(9, 3)}, {}, since=400)
    >>> parts = to_parts(state, replace(state, model="sparse", version=2))
    >>> from_parts(parts) == state, follower_from_parts(parts, "sparse").version
    (True, 2)
    """
    files = {FILE: state, **{_file_of(one.model): one for one in followers}}
    return {file: dump_tensors(one.tensors, _texts(one)) for file, one in files.items()}


def _texts(state: LearnerState) -> dict[str, str]:
    texts = state.metadata | {"since": str(state.since)}
    if state.ordered is not None:
        texts["ordered"] = str(state.ordered)
    if state.published is not None:
        texts["published"] = json.dumps([state.published.identity, state.published.offset])
    return texts


def _file_of(follower: str) -> str:
    return f"{follower}{_SUFFIX}"


def follower_from_parts(parts: Mapping[str, bytes], model: str) -> LearnerState | None:
    """Read back the state of a model that learned along; None where it had not begun."""
    content = parts.get(_file_of(model))
    return None if content is None else from_bytes(content)


def from_parts(parts: Mapping[str, bytes]) -> LearnerState:
    """Read a state back. Raises ``ValueError`` where the parts are not a learner's."""
    if FILE not in parts:
        raise ValueError(
            f"the checkpoint has no part {FILE!r}; it is not a learner's: "
            f"it has {', '.join(sorted(parts)) or 'none'}"
        )
    return from_bytes(parts[FILE])


def restart_point(parts: Mapping[str, bytes]) -> RestartPoint:
    """Return what a learner reads, and publishes again, when it continues from a checkpoint.

    >>> state = LearnerState("dense", 0, ClickCursor(identity="7f", count=500), {}, {}, ordered=9)
    >>> point = restart_point(to_parts(state))
    >>> point.clicks[0].count, point.offsets, point.counts
    (500, {'predictions.dense': 9}, {'predictions.dense': 500})
    """
    found = metadata(parts[FILE])
    cursor, own = ClickCursor.model_validate_json(found["cursor"]), predictions(found["model"])
    offsets = {own: int(found["ordered"])} if "ordered" in found else {}
    models = {metadata(part)["model"] for name, part in parts.items() if name.endswith(_SUFFIX)}
    return RestartPoint((cursor,), offsets, {predictions(one): cursor.count for one in models})


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
    >>> name = store.write(LearnerState("dense", 0, cursor, {}, {"w": torch.ones(2)}))
    >>> name == store.find("dense", 500), store.read(name).tensors
    (True, {'w': tensor([1., 1.])})
    """

    folder: Path

    def write(self, state: LearnerState) -> str:
        """Publish a snapshot and return its name; one that is there already is not written."""
        content = dump_tensors(state.tensors, state.metadata)
        name = _check(f"{state.model}/{state.count:015d}-{_hash(content)}")
        about = card(name, state.metadata, state.tensors)
        write_folder_atomic(self.folder / name, {FILE: [content], "README.md": [about.encode()]})
        return name

    def read(self, name: str) -> LearnerState:
        """Read a snapshot. Raises :class:`SnapshotError` if it is missing or damaged."""
        path = self.folder / _check(name) / FILE
        try:
            content = path.read_bytes()
            damaged = not name.endswith(_hash(content))
        except FileNotFoundError:
            raise self._missing(name) from None
        except (ValueError, KeyError):
            damaged = True
        if damaged:
            raise self._damaged(name)
        try:
            return from_bytes(content)
        except ValueError as error:
            fault = f"snapshot {path}: {error}; use the release that wrote it"
            raise SnapshotError(fault) from error

    def cursor(self, name: str) -> ClickCursor:
        """Read only how far a snapshot's model has come, from the header of its file.

        Raises :class:`SnapshotError` if it is missing, and ``ValueError`` naming the file if its
        header cannot be read.
        """
        try:
            with (self.folder / _check(name) / FILE).open("rb") as file:
                length = file.read(_LENGTH_BYTES)
                header = length + file.read(int.from_bytes(length, "little"))
            return ClickCursor.model_validate_json(metadata(header)["cursor"])
        except FileNotFoundError:
            raise self._missing(name) from None
        except (ValueError, KeyError) as error:
            # Not as one that is missing, which nobody needs any more: it is one that is doubted.
            raise ValueError(str(self._damaged(name))) from error

    def find(self, model: str, count: int) -> str | None:
        """Return the name of a model's snapshot after ``count`` events, None without one."""
        return next((n for n in reversed(self.names(model)) if count_of(n) == count), None)

    def names(self, model: str) -> list[str]:
        """Return the names of all snapshots of a model, oldest first."""
        found = (f"{model}/{path.name}" for path in (self.folder / model).glob("*"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def delete(self, name: str) -> None:
        """Delete a snapshot; nothing happens where there is none of that name."""
        path = self.folder / _check(name)
        self.sweep(path.parent.name)
        if path.exists():
            path.rename(path.with_name(f"{_TRASH}{path.name}"))
        self.sweep(path.parent.name)

    def sweep(self, model: str) -> None:
        """Delete what a crash left of the deleting of a model's snapshots."""
        for trash in (self.folder / model).glob(f"{_TRASH}*"):
            shutil.rmtree(trash, ignore_errors=True)

    def _damaged(self, name: str) -> SnapshotError:
        return SnapshotError(
            f"snapshot {self.folder / name / FILE} is damaged: its content does not match its "
            "name; restore it from a copy: there is nothing else that it could be made from"
        )

    def _missing(self, name: str) -> SnapshotError:
        held = ", ".join(self.names(name.partition("/")[0])) or "none"
        return SnapshotError(f"no snapshot {name!r} in {self.folder}; there: {held}")


def count_of(name: str) -> int:
    """Return the count in a snapshot's name.

    >>> count_of("dense/000000000050000-0123456789ab")
    50000
    """
    return int(name.partition("/")[2].partition("-")[0])


def masks_of(state: LearnerState) -> dict[str, Tensor]:
    """Return the masks of a state, by layer."""
    return masks_in(state.tensors)


def _check(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a snapshot; names are <model>/<count, 15 digits>-<hash>"
        )
    return name


def _hash(content: bytes) -> str:
    """Hash a file but for the identity of the click log in it.

    Raises ``ValueError`` or ``KeyError`` for bytes so damaged that they have no hash.
    """
    layout, body = _split(content)
    texts = layout.pop(_METADATA)
    cursor = ClickCursor.model_validate_json(texts["cursor"])
    anonymous = cursor.model_copy(update={"identity": ""}).model_dump_json()
    found = hashlib.sha256(_header(layout, {**texts, "cursor": anonymous}))
    found.update(body)
    return found.hexdigest()[:12]
