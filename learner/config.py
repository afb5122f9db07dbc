"""What the learners can be told."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Which model learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "dlrm"
    """Name of a model, built in or from the entry-point group ``resprout.models``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The model's own options, such as ``embedding_dim`` of the DLRM."""


class LearnerConfig(BaseModel):
    """How the models learn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Adagrad's learning rate of all parameters that have no rate of their own."""
    embedding_rate: float = Field(default=0.06, gt=0, allow_inf_nan=False)
    """Adagrad's learning rate of embeddings."""
    first_order_rate: float = Field(default=0.03, gt=0, allow_inf_nan=False)
    """Adagrad's learning rate of first-order terms."""
    epsilon: float = Field(default=1e-10, gt=0, allow_inf_nan=False)
    """Added to the root of Adagrad's sum of squares."""
    device: str = "cpu"
    """Where tensors live, as torch names it: ``cpu``, ``cuda``, ``cuda:1``. Only on ``cpu`` do two
    runs give the same bits."""
    checkpoint_events: int = Field(default=250_000, gt=0)
    """Events between two checkpoints, a multiple of the batch: so many at most are learned again
    after a crash, in a few seconds."""
    snapshot_events: int = Field(default=50_000, gt=0)
    """Events between two snapshots of the dense model; a multiple of the batch."""
