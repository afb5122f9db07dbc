"""A synthetic click stream whose truth is known, and drifts.

The truth is a small random ReLU network over *pairwise interactions of latent item vectors*, in
which only some of the pairs and some of the numeric features matter at a time. Drift changes which
ones: the truth glides from one such network to the next. Around it the click rate and the spread
of the log odds are held steady, so that the stream is as hard after a drift as before.

Every block of events is made from its own seed, so the stream is a pure function of seed,
configuration and count, and goes on exactly where its log ends.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream import codec, columnar, drift, topics
from stream.batch import ClickBatch
from stream.drift import World
from stream.log import Headers, LogHome, LogWriter, Record, StoredRecord
from stream.messages import DriftSpan
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# One word for each independent use of randomness, so that no two draw the same numbers.
_LATENT, _REFERENCE, _NETWORK, _BLOCK, _CHURN = range(5)


class GeneratorConfig(BaseModel):
    """The size and difficulty of the stream, and its drifts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int | None = Field(default=2_400_000, gt=0)
    """Events before the stream ends; None = it never ends."""
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
    record_events: int = Field(default=500, gt=0)
    """Events in a columnar record of the log."""
    start_ms: int = 1_767_225_600_000
    """Event time of the first event, milliseconds; 2026-01-01 UTC."""
    events_per_second: int = Field(default=2_000, gt=0)
    """Pace of the event time."""

    @model_validator(mode="after")
    def _consistent(self) -> GeneratorConfig:
        if self.block_events % self.record_events:
            raise ValueError(
                f"block_events {self.block_events} is not a multiple of "
                f"record_events {self.record_events}"
            )
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


@dataclass(frozen=True, slots=True)
class Contexts:
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
    """The world behind the stream: makes any block of it from ``seed``, ``config`` and the count.

    Examples
    --------
    >>> truth = Truth(GeneratorConfig(), seed=0)
    >>> block = truth.block(0)
    >>> bool(np.array_equal(block.label, Truth(GeneratorConfig(), seed=0).block(0).label))
    True
    """

    def __init__(self, config: GeneratorConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
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
        self._moments = lru_cache(maxsize=4)(self._make_moments)
        self._on_reference = lru_cache(maxsize=4)(self._make_on_reference)

    def block(self, begin: int) -> Block:
        """Make the block of ``block_events`` events that begins at count ``begin``."""
        world = drift.world_at(self._drifts, begin)
        rng = self._rng(_BLOCK, begin)
        contexts = self._contexts(rng, self.config.block_events)
        probability = self._probability(world, contexts)
        label = (rng.random(len(probability)) < probability).astype(np.float32)
        generation = self._generation(self._replaced(world))
        return Block(begin, contexts, label, probability, generation)

    def drifting(self, begin: int, end: int) -> tuple[DriftSpan, ...]:
        """Name the drifts that run in ``begin`` <= count < ``end``."""
        kinds = (options["kind"] for options in self.config.drifts)
        return tuple(
            DriftSpan(drift=kind, begin=begin, end=end)
            for kind, one in zip(kinds, self._drifts, strict=True)
            if one.active(begin, end)
        )

    def _rng(self, *words: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *words])

    def _contexts(self, rng: np.random.Generator, n: int) -> Contexts:
        draw = rng.random((n, self.config.fields))
        item = np.searchsorted(self._cumulative, draw, side="right")
        numeric = rng.standard_normal((n, self.config.numeric), dtype=np.float32)
        return Contexts(item.astype(np.int64), numeric)

    def _probability(self, world: World, contexts: Contexts) -> Doubles:
        """Turn raw network outputs into log odds of steady spread and click rate."""
        replaced = self._replaced(world)
        reference = _mix(world.concept, lambda k: self._on_reference(k, replaced))
        raw = _mix(world.concept, lambda k: self._standard(k, replaced, contexts))
        mean, scale = reference.mean(), self.config.signal / reference.std()
        intercept = _intercept(scale * (reference - mean), self.config.click_rate)
        odds = scale * (raw - mean) + intercept + world.log_odds
        return np.asarray(1 / (1 + np.exp(-odds)))

    def _standard(self, concept: int, replaced: int, contexts: Contexts) -> Doubles:
        """Return one network's output, shifted and scaled to mean 0, variance 1."""
        mean, spread = self._moments(concept, replaced)
        return (self._output(concept, replaced, contexts).astype(np.float64) - mean) / spread

    def _make_moments(self, concept: int, replaced: int) -> tuple[float, float]:
        output = self._output(concept, replaced, self._reference).astype(np.float64)
        return float(output.mean()), float(output.std())

    def _make_on_reference(self, concept: int, replaced: int) -> Doubles:
        return self._standard(concept, replaced, self._reference)

    def _output(self, concept: int, replaced: int, contexts: Contexts) -> Floats:
        network = self._network(concept)
        inputs = np.empty((len(contexts.item), len(network.inner)), np.float32)
        tables = self._tables(concept, replaced)
        for column, ((i, j), table) in enumerate(zip(network.pairs, tables, strict=True)):
            inputs[:, column] = table[contexts.item[:, i], contexts.item[:, j]]
        inputs[:, len(network.pairs) :] = contexts.numeric[:, network.numeric]
        return np.asarray(np.maximum(inputs @ network.inner + network.bias, 0) @ network.outer)

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
        return _Network(
            tuple(self._pairs[p] for p in pairs),
            numeric,
            inner.astype(np.float32),
            bias.astype(np.float32),
            outer.astype(np.float32),
        )

    def _make_tables(self, concept: int, replaced: int) -> tuple[Floats, ...]:
        """Interaction of every item with every other, per active pair; mean 0, variance 1."""
        latent, weight = self._latent(replaced), self._popularity
        tables = []
        for i, j in self._network(concept).pairs:
            table = latent[i] @ latent[j].T
            table = table - weight @ table @ weight
            table = table / np.sqrt(weight @ (table * table) @ weight)
            tables.append(table.astype(np.float32))
        return tuple(tables)

    def _replaced(self, world: World) -> int:
        return int(world.churned * self.config.items)

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
        shape = (config.fields, config.items, config.latent_dim)
        latent = np.empty(shape)
        for age in np.unique(generation):
            chosen = generation == age
            latent[chosen] = self._rng(_LATENT, int(age)).standard_normal(shape)[chosen]
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


def event_names(block: Block, field_index: int) -> list[str]:
    """Name each event's item of one field, as a producer of JSON events would.

    The name carries the item's generation: a new item has a name never seen before.
    """
    items = block.contexts.item[:, field_index]
    generation = block.generation[field_index, items]
    return [f"{item}.{age}" for item, age in zip(items.tolist(), generation.tolist(), strict=True)]


@dataclass(frozen=True)
class GeneratorSource:
    """A source of synthetic clicks, and of their truth in a log of its own."""

    config: GeneratorConfig
    seed: int

    @property
    def schema(self) -> FeatureSchema:
        """The features of the stream."""
        return self.config.features

    def attach(self, home: LogHome) -> GeneratorFeed:
        """Go on where the click log ends, or begin it.

        Raises
        ------
        ValueError
            If the log was made by another generator, seed or configuration.
        """
        reader = home.reader(topics.CLICKS)
        last = reader.last(0)
        reader.close()
        begin = _resume_at(last, self.identity)
        ended = last is not None and codec.kind_of(last) == codec.END
        return GeneratorFeed(self, home, begin, ended)

    @property
    def identity(self) -> bytes:
        """Digest of all that the events depend on; every record bears it."""
        config = self.config.model_dump_json(exclude={"events"})
        return hashlib.blake2b(f"{self.seed} {config}".encode(), digest_size=8).hexdigest().encode()


def _resume_at(last: StoredRecord | None, identity: bytes) -> int:
    if last is None:
        return 0
    made_by, count = last.header("source"), last.header("count")
    if made_by != identity or count is None:
        raise ValueError(
            f"the click log was made by source {(made_by or b'unknown').decode()}, not by this "
            f"generator ({identity.decode()}): use another folder, or the configuration and seed "
            "that it was begun with"
        )
    return int(count)


@dataclass
class GeneratorFeed:
    """Appends the stream to the logs, a block a step; truth first, so no click lacks its truth."""

    source: GeneratorSource
    home: LogHome
    count: int
    """Events in the click log."""
    ended: bool
    _truth: Truth = field(init=False)
    _clicks: LogWriter = field(init=False)
    _truths: LogWriter = field(init=False)
    _truth_count: int = field(init=False)
    _bucket: dict[tuple[int, int, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._truth = Truth(self.source.config, self.source.seed)
        self._clicks = self.home.writer(topics.CLICKS)
        self._truths = self.home.writer(topics.TRUTH)
        reader = self.home.reader(topics.TRUTH)
        self._truth_count = _resume_at(reader.last(0), self.source.identity)
        reader.close()

    def step(self) -> int | None:
        """Append the rest of a block; None once the stream has ended."""
        if self.ended:
            return None
        if self.source.config.events is not None and self.count >= self.source.config.events:
            end = codec.end_record(int(self._times(self.count, 1)[0]), self._headers(self.count))
            self._clicks.append([end])
            self.flush()
            self.ended = True
            return None
        begin = self.count
        block = self._truth.block(begin - begin % self.source.config.block_events)
        self._truths.append(list(self._truth_records(block)))
        self._clicks.append(list(self._click_records(block)))
        return self.count - begin

    def flush(self) -> None:
        """Return once all that was appended survives a crash."""
        self._truths.flush()
        self._clicks.flush()

    def close(self) -> None:
        """Flush and release both logs."""
        self._truths.close()
        self._clicks.close()

    def _stretches(self, block: Block, begin: int) -> Iterator[tuple[int, int]]:
        """Cut what is left of a block into records, the last one short where the stream ends."""
        config = self.source.config
        stop = block.begin + len(block.label)
        if config.events is not None:
            stop = min(stop, config.events)
        while begin < stop:
            end = min(stop, begin + config.record_events - begin % config.record_events)
            yield begin, end
            begin = end

    def _truth_records(self, block: Block) -> Iterator[Record]:
        for begin, end in self._stretches(block, max(self._truth_count, block.begin)):
            probability = block.probability[begin - block.begin : end - block.begin]
            truth = columnar.TruthBatch(begin, probability, self._truth.drifting(begin, end))
            yield Record(
                columnar.truth_to_bytes(truth), self._headers(end), int(self._times(begin, 1)[0])
            )
            self._truth_count = end

    def _click_records(self, block: Block) -> Iterator[Record]:
        batch = self._encode(block)
        for begin, end in self._stretches(block, self.count):
            part = batch[begin - block.begin : end - block.begin]
            yield codec.columnar_record(part, self.source.schema, self._headers(end))
            self.count = end

    def _encode(self, block: Block) -> ClickBatch:
        n = len(block.label)
        columns = [self._buckets(block, i)[block.contexts.item[:, i]] for i in range(self._fields)]
        return ClickBatch(
            label=block.label,
            weight=np.ones(n, np.float32),
            time_ms=self._times(block.begin, n),
            numeric=block.contexts.numeric,
            categorical=np.stack(columns, axis=1),
        )

    @property
    def _fields(self) -> int:
        return self.source.config.fields

    def _buckets(self, block: Block, i: int) -> NDArray[np.int32]:
        """Bucket of each item of field ``i``, as the schema hashes its name."""
        feature = self.source.schema.categorical[i]
        buckets = np.empty(self.source.config.items, np.int32)
        for item, age in enumerate(block.generation[i].tolist()):
            key = (i, item, age)
            if key not in self._bucket:
                self._bucket[key] = feature.bucket(f"{item}.{age}")
            buckets[item] = self._bucket[key]
        return buckets

    def _times(self, begin: int, n: int) -> NDArray[np.int64]:
        count = np.arange(begin, begin + n, dtype=np.int64)
        config = self.source.config
        return np.asarray(config.start_ms + count * 1000 // config.events_per_second)

    def _headers(self, count: int) -> Headers:
        return (("source", self.source.identity), ("count", str(count).encode()))
