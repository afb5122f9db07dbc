"""The settings of the synthetic stream, and the world that its events are drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.messages import DriftSpan
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature
from stream.sources import drift


class GeneratorConfig(BaseModel):
    """The size and difficulty of the stream, and its drifts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int | None = Field(default=2_400_000, gt=0)
    """Events before the stream ends; None = it never ends."""
    rate: float | None = Field(default=2_000, gt=0, allow_inf_nan=False)
    """Events a second after the first mask, for a process that is nothing but the generator;
    None = as fast as it goes."""
    drifts: tuple[dict[str, Any], ...] = ({"kind": "gradual", "begin": 1_000_000},)
    """Kind and options of each drift, applied in order; see :mod:`stream.sources.drift`."""
    click_rate: float = Field(default=0.2, gt=0, lt=1)
    """Mean chance of a click."""
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
    """Numeric features."""
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


Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# One word for each independent use of randomness, so that no two draw the same numbers.
_LATENT, _REFERENCE, _NETWORK, _BLOCK, _CHURN = range(5)


@dataclass(frozen=True, slots=True)
class _Network:
    """One concept: which interactions matter, and how."""

    pairs: tuple[tuple[int, int], ...]
    numeric: NDArray[np.intp]
    inner: Floats
    """Shape (inputs, hidden)."""
    bias: Floats
    """Shape (hidden,)."""
    outer: Floats
    """Shape (hidden,)."""


class Contexts(NamedTuple):
    """Impressions before their outcome."""

    item: NDArray[np.int64]
    """Shape (n, fields), rank of the item in its field."""
    numeric: Floats
    """Shape (n, numeric)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive events and their truth."""

    begin: int
    contexts: Contexts
    label: Floats
    """Shape (n,), 0 or 1."""
    probability: Doubles
    """Shape (n,), the true chance of a click."""
    generation: NDArray[np.int64]
    """Shape (fields, items), how often each item has been replaced."""


class Truth:
    """Makes any block of the stream from ``seed``, ``config`` and the count.

    Examples
    --------
    >>> truth = Truth(GeneratorConfig(), seed=0)
    >>> block = truth.block(0)
    >>> bool(np.array_equal(block.label, Truth(GeneratorConfig(), seed=0).block(0).label))
    True
    """

    def __init__(self, config: GeneratorConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._drifts = [drift.build(options) for options in config.drifts]
        rank = np.arange(1, config.items + 1, dtype=np.float64)
        popularity = rank**-config.zipf
        self._popularity = popularity / popularity.sum()
        self._cumulative = np.cumsum(self._popularity)[:-1]
        self._pairs = list(combinations(range(config.fields), 2))
        # Click rate and spread are held steady on this sample of impressions.
        self._reference = self._contexts(self._rng(_REFERENCE), 8_192)
        self._network = lru_cache(maxsize=4)(self._make_network)
        self._latent = lru_cache(maxsize=2)(self._make_latent)
        self._tables = lru_cache(maxsize=4)(self._make_tables)
        self._on_reference = lru_cache(maxsize=4)(self._make_on_reference)

    def block(self, begin: int) -> Block:
        """Make the block of ``block_events`` events that begins at count ``begin``."""
        world = drift.world_at(self._drifts, begin)
        replaced = int(world.churned * self.config.items)
        rng = self._rng(_BLOCK, begin)
        contexts = self._contexts(rng, self.config.block_events)
        # Raw outputs become log odds of steady spread and click rate.
        reference = _mix(world.concept, lambda k: self._on_reference(k, replaced)[0])

        def standard(concept: int) -> Doubles:
            _, mean, spread = self._on_reference(concept, replaced)
            return (self._output(concept, replaced, contexts) - mean) / spread

        raw = _mix(world.concept, standard)
        mean, scale = reference.mean(), self.config.signal / reference.std()
        intercept = _intercept(scale * (reference - mean), self.config.click_rate)
        odds = scale * (raw - mean) + intercept + world.log_odds
        probability = np.asarray(1 / (1 + np.exp(-odds)))
        label = (rng.random(len(probability)) < probability).astype(np.float32)
        return Block(begin, contexts, label, probability, self._generation(replaced))

    def drifting(self, begin: int, end: int) -> tuple[DriftSpan, ...]:
        """Name the drifts that run in ``begin`` <= count < ``end``."""
        return tuple(
            DriftSpan(drift=options["kind"], begin=begin, end=end)
            for options, one in zip(self.config.drifts, self._drifts, strict=True)
            if one.active(begin, end)
        )

    def _rng(self, *words: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *words])

    def _contexts(self, rng: np.random.Generator, n: int) -> Contexts:
        draw = rng.random((n, self.config.fields))
        item = np.searchsorted(self._cumulative, draw, side="right")
        numeric = rng.standard_normal((n, self.config.numeric), dtype=np.float32)
        return Contexts(item.astype(np.int64), numeric)

    def _make_on_reference(self, concept: int, replaced: int) -> tuple[Doubles, float, float]:
        """Return one network's output on the reference, shifted and scaled to mean 0, variance 1.

        With it come the mean and the spread that it had.
        """
        output = self._output(concept, replaced, self._reference)
        mean, spread = float(output.mean()), float(output.std())
        return (output - mean) / spread, mean, spread

    def _output(self, concept: int, replaced: int, contexts: Contexts) -> Doubles:
        network = self._network(concept)
        inputs = np.empty((len(contexts.item), len(network.inner)), np.float32)
        tables = self._tables(concept, replaced)
        for column, ((i, j), table) in enumerate(zip(network.pairs, tables, strict=True)):
            inputs[:, column] = table[contexts.item[:, i], contexts.item[:, j]]
        inputs[:, len(network.pairs) :] = contexts.numeric[:, network.numeric]
        hidden = np.maximum(inputs @ network.inner + network.bias, 0)
        return np.asarray(hidden @ network.outer, np.float64)

    def _make_network(self, concept: int) -> _Network:
        config, rng = self.config, self._rng(_NETWORK, concept)
        pairs = rng.choice(len(self._pairs), config.active_pairs, replace=False)
        numeric = rng.choice(config.numeric, config.active_numeric, replace=False)
        inputs = config.active_pairs + config.active_numeric
        inner = rng.standard_normal((inputs, config.hidden)) * np.sqrt(2 / inputs)
        # A bias around 1.5 keeps most units active: with less, what is to be learned is mostly even
        # in each interaction, and online learners find it too slowly to mature.
        bias = 1.5 + rng.standard_normal(config.hidden) / 2
        outer = rng.standard_normal(config.hidden) / np.sqrt(config.hidden)
        active = tuple(self._pairs[p] for p in pairs)
        weights = (array.astype(np.float32) for array in (inner, bias, outer))
        return _Network(active, numeric, *weights)

    def _make_tables(self, concept: int, replaced: int) -> tuple[Floats, ...]:
        """Interaction of every item with every other, per active pair; mean 0, variance 1."""
        latent, weight = self._latent(replaced), self._popularity
        tables = []
        for i, j in self._network(concept).pairs:
            table = latent[i] @ latent[j].T
            table = table - weight @ table @ weight
            tables.append((table / np.sqrt(weight @ table**2 @ weight)).astype(np.float32))
        return tuple(tables)

    def _generation(self, replaced: int) -> NDArray[np.int64]:
        """Count how often each item of each field has been replaced, (fields, items)."""
        config = self.config
        generation = np.full((config.fields, config.items), replaced // config.items)
        cycle, part = divmod(replaced, config.items)
        if part:
            for i in range(config.fields):
                generation[i, self._rng(_CHURN, i, cycle).permutation(config.items)[:part]] += 1
        return generation

    def _make_latent(self, replaced: int) -> Doubles:
        """Latent vectors of the items alive, (fields, items, latent_dim)."""
        config, generation = self.config, self._generation(replaced)
        latent = np.empty((config.fields, config.items, config.latent_dim))
        for age in np.unique(generation):
            chosen = generation == age
            latent[chosen] = self._rng(_LATENT, int(age)).standard_normal(latent.shape)[chosen]
        return latent


def _mix(concept: float, output: Callable[[int], Doubles]) -> Doubles:
    """Return cos(φ) f_k + sin(φ) f_{k+1} at concept k + 2φ/π, 0 <= φ < π/2."""
    whole = math.floor(concept)
    angle = (concept - whole) * math.pi / 2
    mixed = math.cos(angle) * output(whole)
    return mixed + math.sin(angle) * output(whole + 1) if angle else mixed


def _intercept(log_odds: Doubles, rate: float) -> float:
    """Solve mean(sigmoid(log_odds + b)) = rate for b, by Newton's method."""
    b = float(np.log(rate / (1 - rate)))
    for _ in range(10):
        p = 1 / (1 + np.exp(-(log_odds + b)))
        b -= float((p.mean() - rate) / (p * (1 - p)).mean())
    return b
