"""Small streams that the learner's tests run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner import LearnerConfig, OnlineModel, Ports, SnapshotStore, StreamTrainer, TrainerOptions
from learner.models import build
from learner.snapshots import FILE
from pruner.updaters import FixedMask
from stream.batch import ClickBatch
from stream.codec import columnar_record, end_record
from stream.columnar import predictions_from_bytes
from stream.follow import read_all
from stream.log.local import LocalLogStore
from stream.messages import PredictionBatch
from stream.ordering import open_order
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature
from stream.spec import RunSpec
from stream.state import Checkpoints
from stream.topics import predictions

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="price"), NumericFeature(name="age")),
    categorical=(
        CategoricalFeature(name="site", buckets=12),
        CategoricalFeature(name="tags", buckets=9, max_values=3),
        CategoricalFeature(name="ad", buckets=20),
    ),
)
OPTIONS = {"embedding_dim": 4, "bottom": [5], "top": [8, 6], "first_order": True}


def batch(rng: np.random.Generator, n: int = 16) -> ClickBatch:
    """Make clicks that the features explain in part, with tags of one to three values."""
    site, ad = rng.integers(1, 12, n), rng.integers(1, 20, n)
    tags = rng.integers(2, 9, (n, 3))
    tags[np.arange(3) >= rng.integers(1, 4, (n, 1))] = 0
    numeric = rng.standard_normal((n, 2)).astype(np.float32)
    logit = numeric[:, 0] + 1.5 * (site % 3 == ad % 3) - 1
    return ClickBatch(
        label=(rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32),
        weight=rng.choice([1.0, 4.0], n).astype(np.float32),
        time_ms=np.arange(n, dtype=np.int64),
        numeric=numeric,
        categorical=np.column_stack([site, tags, ad]).astype(np.int32),
    )


def batches(count: int, n: int = 16, seed: int = 0) -> list[ClickBatch]:
    """Make several batches."""
    rng = np.random.default_rng(seed)
    return [batch(rng, n) for _ in range(count)]


def model(seed: int = 0, config: LearnerConfig | None = None) -> OnlineModel:
    """Build a small DLRM with every part that a DLRM can have."""
    return OnlineModel(build("dlrm", SCHEMA, dict(OPTIONS), seed), config or LearnerConfig())


def masks_for(online: OnlineModel, kept: float = 0.4, seed: int = 0) -> dict[str, Tensor]:
    """Draw random masks for all layers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(online.theta(name).shape, generator=generator) < kept
        for name in online.prunable
    }


def dense_trainer(online: OnlineModel, ports: Ports, spec: RunSpec) -> StreamTrainer:
    """Make the trainer of the dense model, with the grid of snapshots of its configuration."""
    options = TrainerOptions(leads=True, snapshot_events=online.config.snapshot_events)
    return StreamTrainer(online, ports, spec, FixedMask(), options=options)


@dataclass(slots=True)
class World:
    """A folder of logs, checkpoints and snapshots, with clicks in it."""

    folder: Path
    partitions: int = 1
    """Of the clicks."""
    home: LocalLogStore = field(init=False)

    def __post_init__(self) -> None:
        self.home = LocalLogStore(self.folder / "log")
        self.home.create({"clicks": self.partitions})

    def write(self, parts: Sequence[ClickBatch], *, end: bool = True, partition: int = 0) -> None:
        """Append clicks, one record a batch, and the end of the input."""
        with closing(self.home.writer("clicks")) as writer:
            writer.append([columnar_record(part, SCHEMA) for part in parts], partition)
            if end:
                writer.append([end_record()], partition)

    @contextmanager
    def ports(self, model: str) -> Iterator[Ports]:
        """Open what a learner of this name needs, as a process does, and close it."""
        with (
            closing(self.home.reader("clicks")) as clicks,
            closing(self.home.writer(predictions(model))) as writer,
        ):
            order = open_order(self.home, clicks)
            checkpoints = Checkpoints(self.folder / "state" / model)
            yield Ports(model, clicks, writer, checkpoints, self.snapshots, order)
            if order is not None:
                order.close()

    @property
    def snapshots(self) -> SnapshotStore:
        return SnapshotStore(self.folder / "snapshots")

    def predicted(self, model: str) -> list[PredictionBatch]:
        """Read what a model published, repeats and all."""
        with closing(self.home.reader(predictions(model))) as reader:
            return [predictions_from_bytes(stored.record.value) for stored in read_all(reader)]

    def published(self, model: str) -> dict[int, bytes]:
        """Read what a model published by the count it begins at; repeats must be the same."""
        found: dict[int, bytes] = {}
        with closing(self.home.reader(predictions(model))) as reader:
            for stored in read_all(reader):
                begin = predictions_from_bytes(stored.record.value).begin
                assert found.setdefault(begin, stored.record.value) == stored.record.value
        return found

    def files(self, model: str) -> dict[str, bytes]:
        """Read all snapshots of a model."""
        store = self.snapshots
        return {n: (store.folder / n / FILE).read_bytes() for n in store.names(model)}


PLAN = RunSpec.small(schema=SCHEMA, batch_events=16, config_json='{"seed": 0}')
