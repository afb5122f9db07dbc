"""The model of this folder, for use from Python: it needs torch, numpy and xxhash, and no Resprout.

::

    from model import load

    model = load("served")  # once; threads may share it
    model.predict(
        [{"numeric": {"price": 9.5}, "categorical": {"site": "news", "tags": ["a", "b"]}}]
    )

This file may be copied to wherever the service has its code; ``load`` takes the folder.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = "resprout-export-1"
FIELDS = {"event_id", "event_time", "label", "weight", "numeric", "categorical"}
"""Of an event; only the features, which are the last two, are looked at."""
MOST_SHOWN = 80
"""Characters of a value in a message."""
DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
DTYPES |= {"BOOL": "?"}

Schema = Mapping[str, Any]
"""``numeric`` and ``categorical``, a list of features each, as ``config.json`` has them."""


def load(folder: Path | str = Path(__file__).parent) -> ExportedModel:
    """Load the model of a folder that ``resprout export`` wrote."""
    folder = Path(folder)
    about = json.loads((folder / "config.json").read_text("utf-8"))
    if about.get("format") != FORMAT or "inputs" not in about:
        raise ValueError(f"{folder} holds no model that this file can load; export it again")
    arrays = read(folder / "model.safetensors") | read(folder / "constants.safetensors")
    # A copy is aligned as torch aligns it.
    tensors = [torch.tensor(arrays[name]) for name in about["inputs"]]
    forward = runpy.run_path(str(folder / "forward.py"))["forward"]
    return ExportedModel(about["schema"], forward, tensors)


class ExportedModel:
    """Gives the chance of a click of events; calls do not change it.

    Parameters
    ----------
    schema
        The features.
    forward
        The computation, as ``forward.py`` has it.
    tensors
        What it takes before the features.
    """

    def __init__(
        self, schema: Schema, forward: Callable[..., Any], tensors: Sequence[torch.Tensor]
    ) -> None:
        self.schema, self._forward, self._tensors = schema, forward, tensors

    def predict(self, events: Sequence[Mapping[str, Any]]) -> Any:
        """Return the chance of a click of each of n events, float64 of shape (n,).

        An event has ``numeric`` and ``categorical``, values by feature; what is absent or null is
        missing. Raises ``ValueError`` naming the first event, counted from 0, that the learner
        would not have taken, with the feature and its value.
        """
        numeric, categorical, bad = encode(events, self.schema)
        for row in sorted(bad):
            raise ValueError(f"event {row}: {bad[row]}")
        return self.predict_encoded(numeric, categorical)

    def predict_encoded(self, numeric: Any, categorical: Any) -> Any:
        """Return the chance of a click of each of n events that are encoded, float64.

        ``numeric`` is (n, d) float32 and ``categorical`` (n, c) int32, as :func:`encode` makes
        them. With the same batches and ``torch.set_num_threads(1)`` they are the learner's own, to
        the bit.
        """
        with torch.no_grad():
            features = torch.tensor(numeric), torch.tensor(categorical)
            logits = self._forward(None, *self._tensors, *features)[0]
        return torch.sigmoid(logits.double()).clamp_(1e-15, 1 - 1e-15).numpy()

    def predict_lines(
        self, lines: Iterable[bytes | str], batch: int = 500
    ) -> Iterator[tuple[int, float | None, str]]:
        """Yield of each line of JSON its number, the chance of a click, and what is wrong with it.

        Lines count from 1; a blank one is passed over. The chance is None where anything is wrong.
        So many lines are read, then scored together.
        """
        numbered = ((n, line) for n, line in enumerate(lines, 1) if line.strip())
        while part := list(islice(numbered, batch)):
            events, wrong = [], {}
            for row, (_, line) in enumerate(part):
                try:
                    events.append(json.loads(line.strip()))
                except (ValueError, RecursionError) as error:
                    events.append({})
                    wrong[row] = f"{shown(line)} is no JSON: {error}"
            numeric, categorical, bad = encode(events, self.schema)
            wrong = bad | wrong
            good = [row for row in range(len(part)) if row not in wrong]
            chances = (
                self.predict_encoded(numeric[good], categorical[good]).tolist() if good else []
            )
            found = dict(zip(good, chances, strict=True))
            for row, (number, _) in enumerate(part):
                yield number, found.get(row), wrong.get(row, "")


def encode(events: Sequence[Any], schema: Schema) -> tuple[Any, Any, dict[int, str]]:
    """Encode n events: (n, d) float32, (n, c) int32, and what is wrong with which of them."""
    bad: dict[int, str] = {}
    rows = [_features(row, event, schema, bad) for row, event in enumerate(events)]
    numeric = np.zeros((len(rows), len(schema["numeric"])), np.float32)
    for column, feature in enumerate(schema["numeric"]):
        numeric[:, column] = _standardised([one[0] for one in rows], feature, bad)
    width = sum(feature["max_values"] for feature in schema["categorical"])
    categorical = np.zeros((len(rows), width), np.int32)
    start = 0
    for feature in schema["categorical"]:
        for row, (_, values) in enumerate(rows):
            try:
                found = _buckets(values.get(feature["name"]), feature)
                categorical[row, start : start + len(found)] = found
            except ValueError as error:
                bad.setdefault(row, str(error))
        start += feature["max_values"]
    return numeric, categorical, bad


def _features(
    row: int, event: Any, schema: Schema, bad: dict[int, str]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return what an event has of each kind; nothing where the learner would not have taken it."""
    if not isinstance(event, Mapping):
        bad[row] = f"{shown(event)} is no event; it must have 'numeric' and 'categorical'"
        return {}, {}
    if strange := sorted(map(str, set(event) - FIELDS)):
        bad[row] = f"an event has no field {strange[0]!r}; its features are in 'numeric' and "
        bad[row] += f"'categorical' ({strange[0]!r} is {shown(event.get(strange[0]))})"
        return {}, {}
    found = []
    for kind in ("numeric", "categorical"):
        values = event.get(kind)
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            bad[row] = f"{kind!r} is {shown(values)}; it must be values by feature"
            return {}, {}
        if strange := sorted(map(str, set(values) - {one["name"] for one in schema[kind]})):
            value = shown(values.get(strange[0]))
            bad[row] = f"the model has no {kind} feature {strange[0]!r}, which is {value}"
            return {}, {}
        found.append(values)
    return found[0], found[1]


def _standardised(
    rows: Sequence[Mapping[str, Any]], feature: Mapping[str, Any], bad: dict[int, str]
) -> Any:
    """Standardise a numeric feature, float32 of shape (n,); one that is missing is 0."""
    name = feature["name"]
    values = np.zeros(len(rows))
    there = np.zeros(len(rows), bool)
    for row, event in enumerate(rows):
        if event.get(name) is not None:
            try:
                values[row], there[row] = float(event[name]), True
            except (TypeError, ValueError, OverflowError):
                bad.setdefault(row, f"numeric feature {name!r} is {shown(event[name])}: no number")
    with np.errstate(all="ignore"):
        if feature["log1p"] == "signed":
            changed = np.sign(values) * np.log1p(np.abs(values))
        else:
            changed = np.log1p(values) if feature["log1p"] else values
        scaled = ((changed - feature["mean"]) / feature["scale"]).astype(np.float32)
        far = there & ~(np.abs(scaled) <= feature["limit"])
    for row in np.flatnonzero(far).tolist():
        size = np.abs(scaled[row])
        why = f"more than {feature['limit']:g} in size" if np.isfinite(size) else "not finite"
        value = shown(rows[row][name])
        bad.setdefault(row, f"numeric feature {name!r} is {value}: {why} once standardised")
    return np.where(there & ~far, scaled, np.float32(0))


def _buckets(given: object, feature: Mapping[str, Any]) -> list[int]:
    """Hash the values of a categorical feature; 1 stands for a missing one."""
    # Whoever encodes by other means does without it.
    from xxhash import xxh3_64_intdigest

    name, most, buckets = feature["name"], feature["max_values"], feature["buckets"]
    if given is None or (isinstance(given, list | tuple) and not given):
        return [1]
    values = given if isinstance(given, list | tuple) else [given]
    if len(values) > most:
        raise ValueError(
            f"categorical feature {name!r} is {shown(given)}: {len(values)} values, the most is "
            f"{most}"
        )
    found = []
    for value in values:
        if not isinstance(value, str | Real) or isinstance(value, bool):
            raise ValueError(f"categorical feature {name!r} is {shown(given)}: no text or number")
        try:
            hashed = xxh3_64_intdigest(f"{name}={value}".encode())
        except UnicodeEncodeError:
            raise ValueError(f"categorical feature {name!r} is {shown(given)}: no UTF-8") from None
        found.append(2 + hashed % (buckets - 2))
    return found


def shown(value: object) -> str:
    """Write a value so that a message stays one that is read."""
    text = ascii(value.strip() if isinstance(value, bytes | str) else value)
    text = text.removeprefix("b") if isinstance(value, bytes) else text
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def read(path: Path) -> dict[str, Any]:
    """Read a safetensors file; of a pruned tensor it holds a bitmap and the values that are 1."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    shapes = json.loads(header.pop("__metadata__", {}).get("pruned", "{}"))
    found = {}
    for name, at in header.items():
        begin, end = at["data_offsets"]
        array = np.frombuffer(content[start + begin : start + end], DTYPES[at["dtype"]])
        found[name] = array.reshape(at["shape"])
    for name, shape in shapes.items():
        whole = np.zeros(shape, np.float32)
        bits = np.unpackbits(found.pop(f"{name}.bitmap"), count=whole.size)
        whole[bits.reshape(shape) == 1] = found.pop(f"{name}.values")
        found[name] = whole
    return found
