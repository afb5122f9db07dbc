"""The settings of the models and of how they learn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Which model learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "dlrm"
    """Name of a model, built in or from the entry-point group ``resprout.models``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The model's own options, such as ``embedding_dim`` of the DLRM."""


class MaskingConfig(BaseModel):
    """Which weights a mask can cover, and what happens to those that it prunes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embeddings: bool = False
    """Whether the weights of ``nn.Embedding`` can be pruned, beside those of ``nn.Linear``."""
    returning_weights: Literal["stash", "zero", "given"] = "stash"
    """The value of a weight that a new mask keeps and the last one did not: the value that it was
    pruned with, zero, or one that comes with the mask."""
    returning_sums: Literal["keep", "zero", "given"] = "keep"
    """The Adagrad sum of such a weight: as it is, zero, or one that comes with the mask."""
    learning: Literal["kept", "all"] = "kept"
    """The weights that a batch changes: those that are kept, or the pruned ones as well, which then
    follow the gradient of the effective weight while they take no part in predictions."""


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
    publish_events: int = Field(default=50_000, gt=0)
    """Events between two publications of the sparse model's weights, counted from where its version
    begins; a multiple of the batch."""
    masking: MaskingConfig = MaskingConfig()
    """What can be pruned, and how pruned weights come back."""
