"""What the synthetic stream can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream import drift
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature


class GeneratorConfig(BaseModel):
    """The size and difficulty of the stream, and its drifts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int | None = Field(default=2_400_000, gt=0)
    """Events before the stream ends; None = it never ends."""
    rate: float | None = Field(default=2_000, gt=0, allow_inf_nan=False)
    """Events a second after the first mask, for a process that is nothing but the generator;
    None = as fast as it goes."""
    drifts: tuple[dict[str, Any], ...] = ({"kind": "gradual", "begin": 1_000_000},)
    """Kind and options of each drift, applied in order; see :mod:`stream.drift`."""
    click_rate: float = Field(default=0.2, gt=0, lt=1)
    signal: float = Field(default=1.6, gt=0)
    """Standard deviation of the true log odds; 1.6 gives a Bayes NE near 0.77."""
    fields: int = Field(default=10, ge=2)
    """Categorical features, each naming one item."""
    items: int = Field(default=100, ge=2)
    """Items of each field, alive at a time."""
    zipf: float = Field(default=1.05, ge=0)
    """Popularity of the item of rank r is in proportion to r ** -zipf."""
    buckets: int = Field(default=4096, ge=3)
    """Buckets that each field is hashed into."""
    numeric: int = Field(default=8, ge=1)
    latent_dim: int = Field(default=4, ge=1)
    """Length of an item's latent vector."""
    active_pairs: int = Field(default=10, ge=1)
    """Pairs of fields whose interaction matters at a time."""
    active_numeric: int = Field(default=3, ge=0)
    """Numeric features that matter at a time."""
    hidden: int = Field(default=16, ge=1)
    """Hidden units of the true network."""
    block_events: int = Field(default=5_000, gt=0)
    """Events made under one world: drift moves in steps of a block."""
    record_events: int = Field(default=2_500, gt=0)
    """Events in a columnar record of the log; the last of a block has the rest."""
    codec: Literal["columnar", "json"] = "columnar"
    """What a record holds: ``record_events`` events as columns, or one event as JSON."""
    start_ms: int = 1_767_225_600_000
    """Event time of the first event, milliseconds; 2026-01-01 UTC."""
    events_per_second: int = Field(default=2_000, gt=0)
    """Pace of the event time."""

    @model_validator(mode="after")
    def _consistent(self) -> GeneratorConfig:
        pairs = self.fields * (self.fields - 1) // 2
        if self.active_pairs > pairs:
            raise ValueError(f"active_pairs {self.active_pairs} is more than the {pairs} there are")
        if self.active_numeric > self.numeric:
            raise ValueError(
                f"active_numeric {self.active_numeric} is more than the {self.numeric} there are"
            )
        for options in self.drifts:
            drift.build(options)
        return self

    @property
    def features(self) -> FeatureSchema:
        """The schema of the stream: ``item_0``, ... and ``x_0``, ..."""
        return FeatureSchema(
            numeric=tuple(NumericFeature(name=f"x_{i}") for i in range(self.numeric)),
            categorical=tuple(
                CategoricalFeature(name=f"item_{i}", buckets=self.buckets)
                for i in range(self.fields)
            ),
        )
