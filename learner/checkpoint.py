"""What a learner must remember to go on bit for bit, as the parts of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from learner import tensors
from stream.clicks import ClickCursor
from stream.messages import Place

_TENSORS, _PLACE = "model.safetensors", "place.json"


@dataclass(frozen=True, slots=True)
class LearnerState:
    """A learner after the batch at ``cursor``."""

    version: int
    """Of the model: 0 for dense, growing with every swap for a sparse one."""
    cursor: ClickCursor
    """The place to read next."""
    trained_through: dict[int, Place]
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
    trained_through: dict[int, Place]
    ordered: int | None = None


def to_parts(state: LearnerState) -> dict[str, bytes]:
    """Write a state as the parts of a :class:`stream.state.Checkpoints` entry.

    >>> state = LearnerState(0, ClickCursor(identity="7f", count=500), {0: Place(9, 3)}, {})
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
