"""What the pruner can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class PrunerConfig(BaseModel):
    """How a sparse model is cut from the dense one, and when it takes over."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    criterion: str = "aux"
    """Name of a criterion, built in or from the entry-point group ``resprout.criteria``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The criterion's own options, such as ``penalty`` of ``aux``."""
    sparsity: float = Field(default=0.8, ge=0, lt=1)
    """Share of the prunable weights to remove, over all layers together."""
    allocation: Literal["global", "uniform"] = "global"
    """How much of which layer: ranked over all layers together, or the same share of each."""
    schedule: Literal["one_shot", "linear", "cubic", "cosine"] = "linear"
    """How sparsity grows over the prune phase."""
    ramp_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the prune phase after which the schedule has reached the target."""
    update_batches: int = Field(default=5, gt=0)
    """Batches between two changes of the mask in the prune phase."""
    selection: Literal["top_k"] = "top_k"
    """Which entries of a layer."""
    first_mask_events: int = Field(default=1_000_000, gt=0)
    """Events that the dense model matures on before the first mask is cut."""
    rebuild_events: int = Field(default=100_000, gt=0)
    """Events from the window that decides a rebuild to the swap."""
    prune_events: int = Field(default=50_000, gt=0)
    """Events from the dense snapshot to the freeze of the mask; then it is fine-tuned."""
    judge_events: int = Field(default=50_000, gt=0)
    """Events before the swap on which the candidate is scored against the incumbent."""
    lead_events: int = Field(default=50_000, ge=0)
    """How far the sparse model may run ahead of an undecided window."""
    checkpoint_events: int = Field(default=50_000, gt=0)
    """Events between two checkpoints of an open rebuild."""


class TriggerConfig(BaseModel):
    """When the sparse model is rebuilt."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["divergence", "periodic"] = "divergence"
    """By its distance to the dense model, or by the clock of events."""
    window_events: int = Field(default=50_000, gt=0)
    """Events a window that is decided on."""
    threshold: float = Field(default=0.003, gt=0)
    """``divergence``: rise of the relative CE over its level since the swap. Below 0.0015 at
    50 000 events a window it is noise.
    """
    patience: int = Field(default=1, gt=0)
    """``divergence``: windows in a row above the threshold."""
    cooldown_events: int = Field(default=50_000, ge=0)
    """``divergence``: events after a rebuild's end, whatever its verdict, in which none starts."""
    budget: int | None = Field(default=None, ge=0)
    """Rebuilds after the first mask, in the whole run; None: as many as it takes."""
    every_events: int = Field(default=250_000, gt=0)
    """``periodic``: events between two rebuilds."""
    phase_events: int = Field(default=0, ge=0)
    """``periodic``: events by which the clock starts later than the end of the first rebuild."""


class StoreConfig(BaseModel):
    """Where masks are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["disk", "memory"] = "disk"
    """In the state folder, or gone with the process; the ledger can fill either again."""
    versions: int = Field(default=3, gt=0)
    """How many versions of the sparse model are kept."""
