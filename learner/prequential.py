"""Along the stream: every batch is predicted, published and then learned."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from learner.checkpoint import LearnerState, from_parts, to_parts
from learner.online import OnlineModel
from learner.snapshot import Snapshot, SnapshotStore
from stream.clicks import ClickCursor, ClickReader, CountedBatch
from stream.columnar import predictions_to_bytes
from stream.log import LogReader, LogWriter, Record
from stream.messages import Place, PredictionBatch
from stream.order import Leading, Order, Stated
from stream.schema import FeatureSchema
from stream.state import Checkpoints


class NonFiniteError(Exception):
    """A model has weights that are not finite."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What one learner reads from and writes to; whoever opened them closes them."""

    model: str
    """The name that its predictions and snapshots bear: ``dense``, ``sparse``."""
    clicks: LogReader
    """Its own reader, shared with no other thread."""
    predictions: LogWriter
    checkpoints: Checkpoints
    snapshots: SnapshotStore
    order: LogReader | None = None
    """The predictions of dense, which state the order of the clicks, through a reader of its own;
    None where they have one partition. See :func:`stream.order.open_order`."""
    behind: Executor | None = None
    """One thread that writes what is due while the model learns; None does so in turn."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What all learners of a run have in common."""

    schema: FeatureSchema
    batch_events: int
    """Events a batch: every model learns the same ones."""
    config_json: str = "{}"
    """The settings of the run, kept in every snapshot."""
    seed: int = 0


class Prequential:
    """A model on its way along the stream.

    Parameters
    ----------
    online
        The model as it is at the start of the run, or before it becomes a state.
    ports
        What it reads from and writes to.
    plan
        What it shares with all models of the run.
    leads
        It chooses the order of several partitions; the others follow it.

    Attributes
    ----------
    version
        Of the model: 0 until it becomes a state of another version.
    """

    def __init__(
        self, online: OnlineModel, ports: Ports, plan: RunPlan, *, leads: bool = False
    ) -> None:
        self.online = online
        self.ports = ports
        self.plan = plan
        self.version = 0
        self._leads = leads
        self._leading: Leading | None = None
        self._trained_through: dict[int, Place] = {}
        self._reader = self._read_from(None)
        self._kept: int | None = None
        self._shown: int | None = None
        self._writing: Future[None] | None = None

    @property
    def count(self) -> int:
        """Events learned since the start of the run."""
        return self._reader.count

    @property
    def ended(self) -> bool:
        """The input has ended and all of it is learned."""
        return self._reader.ended

    @property
    def waits_for(self) -> str:
        """The log that must go on, where :meth:`step` found nothing to do."""
        return self._reader.waits_for

    def resume(self) -> bool:
        """Become the last checkpoint; False where there is none."""
        found = self.ports.checkpoints.latest()
        if found is None:
            return False
        self.become(from_parts(found.parts))
        self._kept = self.count
        return True

    def become(self, state: LearnerState) -> None:
        """Take over weights, optimiser, masks, version and position of a state."""
        self.online.load(state.tensors)
        self.version = state.version
        self._trained_through = dict(state.trained_through)
        self._reader = self._read_from(state.cursor, state.ordered)
        self._kept = self._shown = None

    def revert(self, version: int, snapshot: Snapshot) -> None:
        """Take weights, optimiser and masks of an earlier snapshot back, and stay at this place.

        What it claims to have learned from stays too: that bounds from above what the snapshot
        had, and no prediction may claim less than its model has seen.
        """
        self.online.load(snapshot.tensors)
        self.version = version
        behind = snapshot.trained_through
        self._trained_through = behind | {
            partition: max(place, behind.get(partition, place))
            for partition, place in self._trained_through.items()
        }
        self._kept = self._shown = None

    def step(self) -> int:
        """Take the next batch, if all of it is there, and return its events.

        1. Read a batch.
        2. Predict it.
        3. Publish the predictions.
        4. Learn from it.

        Labels are looked at in the fourth step only.
        """
        counted = self._reader.next()
        if counted is None:
            return 0
        ahead = self.online.ahead(counted.batch)
        self._publish(counted, ahead.probability)
        self.online.learn_from(ahead)
        learned = {span.partition: span.last for span in counted.spans}
        self._trained_through = self._trained_through | learned
        return len(counted.batch)

    def leave(self, *, snapshot: bool = False, checkpoint: bool = False) -> None:
        """Publish a copy of the model as it is, keep where it stands, or both, and go on meanwhile.

        A checkpoint is written after the snapshots before it, and once all predictions before it
        are safe; what was left here already is not left again. What goes wrong is raised by the
        next call, or by :meth:`settle`.
        """
        checkpoint = checkpoint and self._kept != self.count
        snapshot = snapshot and self._shown != self.count
        if not (snapshot or checkpoint):
            return
        self._check_finite()
        if checkpoint:
            self.ports.predictions.flush()
            self._kept = self.count
        if snapshot:
            self._shown = self.count
        state = LearnerState(
            self.version,
            self._reader.cursor,
            self._trained_through,
            self.online.state(),
            self._leading.offset if self._leading else None,
        )
        write = partial(self._write, state, snapshot=snapshot, checkpoint=checkpoint)
        self.settle()
        if self.ports.behind is None:
            write()
        else:
            self._writing = self.ports.behind.submit(write)

    def checkpoint(self) -> None:
        """Keep where it stands; all that was left before is written too when this returns."""
        self.leave(checkpoint=True)
        self.settle()

    def settle(self) -> None:
        """Return once all that was left is written; raise what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: LearnerState, *, snapshot: bool, checkpoint: bool) -> None:
        """Write what was left; another thread may do it."""
        if snapshot:
            copy = Snapshot(
                model=self.ports.model,
                version=state.version,
                cursor=state.cursor,
                trained_through=state.trained_through,
                tensors=state.tensors,
                config_json=self.plan.config_json,
                seed=self.plan.seed,
            )
            self.ports.snapshots.write(copy)
        if checkpoint:
            self.ports.checkpoints.write(state.cursor.count, to_parts(state))

    def _publish(self, counted: CountedBatch, probability: NDArray[np.float64]) -> None:
        """Append the predictions of a batch, as those of a model that has not seen it."""
        predictions = PredictionBatch(
            model=self.ports.model,
            version=self.version,
            begin=counted.begin,
            spans=counted.spans,
            trained_through=self._trained_through,
            probability=probability,
        )
        record = Record(predictions_to_bytes(predictions), time_ms=int(counted.batch.time_ms[-1]))
        self.ports.predictions.append([record])

    def _read_from(self, cursor: ClickCursor | None, ordered: int | None = None) -> ClickReader:
        plan, log = self.plan, self.ports.order
        order: Order | None = None
        if log is not None and self._leads:
            order = self._leading = Leading(log, ordered)
        elif log is not None:
            order = Stated(log)
        return ClickReader(self.ports.clicks, plan.schema, plan.batch_events, cursor, order)

    def _check_finite(self) -> None:
        if not self.online.finite():
            raise NonFiniteError(
                f"{self.ports.model} has weights that are not finite after {self.count:,} events; "
                "lower learner.rate or learner.embedding_rate, and look for extreme features"
            )
