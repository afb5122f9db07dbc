"""What all workers of a run have in common, and what they say of themselves while they wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from stream.schema import FeatureSchema, NumericFeature


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The geometry of a run, counted in valid events, and what else every worker must agree on.

    It has no defaults: those of the settings are the only ones.
    """

    schema: FeatureSchema
    """The features, and how they are encoded."""
    batch_events: int
    """Events a batch: every model learns the same ones. All counts below are multiples of it."""
    window_events: int
    """Events a window that is decided on."""
    snapshot_events: int
    """Events between two snapshots of the dense model: the grid on which rebuilds begin."""
    first_mask_events: int
    """Events that the dense model learns before the first mask is cut."""
    rebuild_events: int
    """Events from the window that decides a rebuild to its end."""
    prune_events: int
    """Events from the dense snapshot to the freeze of the mask."""
    judge_events: int
    """The last events of a rebuild, on which its candidate is judged."""
    lead_events: int
    """Events that the sparse model may run ahead of a window that is not decided."""
    seed: int
    """Decides every random thing."""
    config_json: str
    """The settings of the run, kept in every snapshot."""
    has_truth: bool
    """The stream is synthetic: the log ``truth`` is there and will hold every event."""
    workers: tuple[str, ...]
    """The names of all workers, whose progress by the wall clock is copied beside the scores."""

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """Return the spec of a small run, for examples and tests.

        >>> RunSpec.small(lead_events=50).window_events
        100
        """
        usual: dict[str, Any] = {
            "schema": FeatureSchema(numeric=(NumericFeature(name="x"),)),
            "batch_events": 50,
            "window_events": 100,
            "snapshot_events": 100,
            "first_mask_events": 500,
            "rebuild_events": 200,
            "prune_events": 100,
            "judge_events": 100,
            "lead_events": 0,
            "seed": 0,
            "config_json": "{}",
            "has_truth": False,
            "workers": (),
        }
        return cls(**usual | changes)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a worker waits for: something that a log does not hold yet.

    Examples
    --------
    >>> str(Waiting("ledger", "the verdict on rebuild 3")), str(Waiting("clicks"))
    ('the verdict on rebuild 3', 'clicks')
    """

    log: str
    """The name of the log that must go on, or of whatever else stands in the way."""
    what: str = ""
    """What it must hold, in words; empty where any next record will do."""

    def __str__(self) -> str:
        return self.what or self.log
