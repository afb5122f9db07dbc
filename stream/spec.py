"""What all workers of a run have in common, and what they say of themselves while they wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from stream.schema import FeatureSchema, NumericFeature

Role = Literal["root", "served", "comparison"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of a run: its part in it, and how people see it.

    Examples
    --------
    >>> twin = ModelSpec("half_dense", "comparison", "half dense", dash=(1.0, 1.5))
    >>> find_model("half_dense", [twin]).label, find_model("other", [twin]).label
    ('half dense', 'other')
    """

    name: str
    """In logs, messages and settings."""
    role: Role
    """``root``: it learns from the first event, and the others are compared with it; ``served``: a
    candidate must be better than it; ``comparison``: any other."""
    label: str
    """What people call it."""
    colour: str | None = None
    """As ``#RRGGBB``, of its lines in every theme; None: the grey of the theme."""
    dash: tuple[float, ...] = ()
    """Lengths of dashes and gaps of its lines, in line widths; empty: solid."""


MODELS: Final = (
    ModelSpec("dense", "root", "dense", "#0072B2"),
    ModelSpec("sparse", "served", "sparse", "#D55E00"),
    ModelSpec("never_rebuilt", "comparison", "never rebuilt", dash=(3.2, 2.0)),
)
"""The models that there can be, the root first.

Of the Okabe-Ito set only four colours have a contrast of 3 : 1 on both a white and a black ground;
two of these, far apart for every kind of colour blindness, are all that is used.
"""


def find_model(name: str, models: Sequence[ModelSpec] = MODELS) -> ModelSpec:
    """Return the model of a name; one that is not listed is a comparison without a colour."""
    known = (model for model in models if model.name == name)
    return next(known, ModelSpec(name, "comparison", name.replace("_", " "), dash=(1.0, 1.5)))


def model_of(role: Role, models: Sequence[ModelSpec] = MODELS) -> str:
    """Return the name of the first model of a role.

    >>> model_of("root"), model_of("served")
    ('dense', 'sparse')
    """
    found = next((model.name for model in models if model.role == role), None)
    if found is None:
        names = ", ".join(model.name for model in models) or "none"
        raise ValueError(f"there is no {role} model; models: {names}")
    return found


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
    models: tuple[ModelSpec, ...]
    """All models, the root first."""
    workers: tuple[str, ...]
    """The names of all workers, whose progress by the wall clock is copied beside the scores."""
    grafts: bool
    """The mask of the served model changes between its versions, too: the log ``maskchanges`` is
    there and says so."""

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
            "models": MODELS,
            "workers": (),
            "grafts": False,
        }
        return cls(**usual | changes)

    @property
    def root(self) -> str:
        """The name of the model that the others are compared with."""
        return model_of("root", self.models)

    @property
    def served(self) -> str:
        """The name of the model that a candidate must be better than."""
        return model_of("served", self.models)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a worker waits for: something that a log does not hold yet.

    Examples
    --------
    >>> str(Waiting("ledger", "the verdict on rebuild 3")), str(Waiting("clicks"))
    ('the verdict on rebuild 3', 'clicks')
    """

    log: str
    """The name of the log that must continue, or of whatever else is missing."""
    what: str = ""
    """What it must hold, in words; empty where any next record will do."""

    def __str__(self) -> str:
        return self.what or self.log
