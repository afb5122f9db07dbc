"""What a learner reports of one step."""

from __future__ import annotations

import logging
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from learner.online import OnlineModel
from learner.registry import MaskSource, ModelRegistry, NoModel, RollBackTo, Swap, Wait
from learner.snapshots import LearnerState, Snapshot, SnapshotStore, from_parts, to_parts
from stream.columnar import predictions_to_bytes
from stream.log import LogReader, LogWriter, Record
from stream.messages import Position, PredictionBatch
from stream.ordering import ReadOrder, Recorded, Resumed
from stream.reader import ClickCursor, ClickReader, CountedBatch
from stream.spec import RunSpec, Waiting
from stream.state import Checkpoints


@dataclass(frozen=True, slots=True)
class LearnerStep:
    """One ``step()`` of a dense or a sparse learner: at most one batch."""

    count: int
    """Events learned since the start of the run; for a sparse model its ancestors' included."""
    events: int = 0
    """Events learned in this step."""
    waiting_for: Waiting | None = None
    """What must come before the next batch, where nothing could be done."""
    done: bool = False
    """The input has ended and everything is written; further steps do nothing."""


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
    None where they have one partition. See :func:`stream.ordering.open_order`."""
    behind: Executor | None = None
    """One thread that writes what is due while the model learns; None does so in turn."""


class StreamTrainer:
    """A model on its way along the stream.

    Parameters
    ----------
    online
        The model as it is at the start of the run, or before it becomes a state.
    ports
        What it reads from and writes to.
    spec
        What it shares with all models of the run.
    leads
        It chooses the order of several partitions; the others follow it.

    Attributes
    ----------
    version
        Of the model: 0 until it becomes a state of another version.
    """

    def __init__(
        self, online: OnlineModel, ports: Ports, spec: RunSpec, *, leads: bool = False
    ) -> None:
        self.online = online
        self.ports = ports
        self.spec = spec
        self.version = 0
        self._leads = leads
        self._leading: Resumed | None = None
        self._trained_through: dict[int, Position] = {}
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
    def waits_for(self) -> Waiting:
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
                config_json=self.spec.config_json,
                seed=self.spec.seed,
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
        spec, log = self.spec, self.ports.order
        order: ReadOrder | None = None
        if log is not None and self._leads:
            order = self._leading = Resumed(log, ordered)
        elif log is not None:
            order = Recorded(log)
        return ClickReader(self.ports.clicks, spec.schema, spec.batch_events, cursor, order)

    def _check_finite(self) -> None:
        if not self.online.finite():
            raise NonFiniteError(
                f"{self.ports.model} has weights that are not finite after {self.count:,} events; "
                "lower learner.rate or learner.embedding_rate, and look for extreme features"
            )


log = logging.getLogger(__name__)


class DenseLearner:
    """The model from which all sparse ones are cut, going on from its last checkpoint.

    Of several partitions it chooses the order (:class:`stream.ordering.RoundRobin`), and its
    predictions
    state it. After a restart it first repeats what it had published.

    Parameters
    ----------
    online
        The model at the start of the run; a checkpoint, where there is one, takes its place.
    ports
        What it reads from and writes to.
    spec
        What it shares with all models of the run.
    """

    def __init__(self, online: OnlineModel, ports: Ports, spec: RunSpec) -> None:
        self._course = StreamTrainer(online, ports, spec, leads=True)
        self._config = online.config
        self._done = False
        if self._course.resume():
            log.info("%s goes on after %d events", ports.model, self._course.count)

    @property
    def online(self) -> OnlineModel:
        """The model."""
        return self._course.online

    def step(self) -> LearnerStep:
        """Do at most one batch.

        1. Read a batch.
        2. Predict it.
        3. Publish the predictions.
        4. Learn from it.
        5. Leave a snapshot, if its count is on the grid.
        6. Checkpoint, if one is due, once the predictions are safe.

        Where the input ends it leaves a last snapshot and a last checkpoint.
        """
        course = self._course
        events = 0 if self._done else course.step()
        if events:
            self._keep_what_is_due()
        elif course.ended and not self._done:
            course.leave(snapshot=True, checkpoint=True)
            course.settle()
            self._done = True
        waiting_for = None if events or self._done else course.waits_for
        return LearnerStep(course.count, events, waiting_for, self._done)

    def close(self) -> None:
        """Checkpoint where it stands, so that nothing is learned twice."""
        self._course.checkpoint()

    def _keep_what_is_due(self) -> None:
        count, config = self._course.count, self._config
        self._course.leave(
            snapshot=count % config.snapshot_events == 0,
            checkpoint=count % config.checkpoint_events == 0,
        )


class SparseLearner:
    """A pruned model in service, going on from its last checkpoint.

    It begins as the first candidate that its regime names, and becomes every later one at the
    count at which that is promoted. Between two swaps its mask stands. Where the regime takes it
    back to an earlier version, it has that one's weights and mask again, and goes on with the next
    event: those between are not learned anew.

    Parameters
    ----------
    online
        A model of the same kind as the dense one; its weights are replaced before they are used.
    ports
        What it reads from and writes to.
    spec
        What it shares with all models of the run.
    regime
        Says at every boundary of a batch whether to go on, swap or wait.
    head
        Told of every swap once that is safe, and at every step which version is in force; None
        tells nobody.
    """

    def __init__(
        self,
        online: OnlineModel,
        ports: Ports,
        spec: RunSpec,
        regime: MaskSource,
        head: ModelRegistry | None = None,
    ) -> None:
        self._course = StreamTrainer(online, ports, spec)
        self._config = online.config
        self._regime = regime
        self._head = head
        self._told = 0
        self._done = False
        self._started = self._course.resume()
        if self._started:
            log.info("%s goes on after %d events", ports.model, self._course.count)

    @property
    def online(self) -> OnlineModel:
        """The model."""
        return self._course.online

    @property
    def version(self) -> int:
        """The version in force, 0 before the first."""
        return self._course.version

    def step(self) -> LearnerStep:
        """Ask the regime, and do at most one batch or one swap.

        1. Read a batch.
        2. Predict it.
        3. Publish the predictions.
        4. Learn from it.
        5. Checkpoint, if one is due, once the predictions are safe.

        Where the input ends it leaves a last snapshot and a last checkpoint.
        """
        if self._done:
            return self._report()
        self._tend()
        answer = self._regime.at(self._course.count if self._started else None)
        match answer:
            case Wait(waiting):
                return self._report(waiting_for=waiting)
            case Swap():
                return self._report() if self._swap(answer) else self._go()
            case RollBackTo(to):
                return self._report() if self._revert(to) else self._go()
            case NoModel():
                return self._finish()
        return self._go()

    def close(self) -> None:
        """Checkpoint where it stands, so that nothing is learned twice."""
        if self._started:
            self._course.checkpoint()

    def _go(self) -> LearnerStep:
        if not self._started:
            raise ValueError(
                f"the regime lets {self._course.ports.model} go on before its first mask; "
                "it must answer Swap, Wait or Over"
            )
        events = self._course.step()
        if events:
            due = self._course.count % self._config.checkpoint_events == 0
            self._course.leave(checkpoint=due)
            return self._report(events)
        return (
            self._finish()
            if self._course.ended
            else self._report(waiting_for=self._course.waits_for)
        )

    def _tend(self) -> None:
        if self._head is not None and self._course.version:
            self._head.tend(self._course.version)

    def _finish(self) -> LearnerStep:
        if self._started:
            self._course.leave(snapshot=True, checkpoint=True)
            self._course.settle()
        self._done = True
        return self._report()

    def _swap(self, swap: Swap) -> bool:
        """Become a candidate; False where it is this version already."""
        changes = not self._started or swap.version > self._course.version
        if changes:
            self._course.become(self._candidate(swap))
            self._started = True
        self._keep(swap, changes=changes)
        return changes

    def _revert(self, swap: Swap) -> bool:
        """Become what an earlier version was; False where that is done already."""
        changes = swap.version > self._course.version
        if changes:
            if self._course.count != swap.count:
                raise ValueError(
                    f"{self._course.ports.model} stands at {self._course.count} events and cannot "
                    f"go back to {swap.snapshot} at {swap.count}; both must be equal"
                )
            self._course.revert(swap.version, self._course.ports.snapshots.read(swap.snapshot))
        self._keep(swap, changes=changes)
        return changes

    def _keep(self, swap: Swap, *, changes: bool) -> None:
        """Make a change safe, and tell the head, once in this life."""
        if changes:
            self._course.checkpoint()
            log.info(
                "%s is version %d after %d events",
                self._course.ports.model,
                swap.version,
                swap.count,
            )
        if self._head is not None and swap.version > self._told:
            self._head.publish(swap)
            self._told = swap.version

    def _candidate(self, swap: Swap) -> LearnerState:
        found = self._course.ports.snapshots.read(swap.snapshot)
        here = self._course.count if self._started else swap.count
        if not here == swap.count == found.count:
            raise ValueError(
                f"{self._course.ports.model} stands at {here} events and cannot swap to "
                f"{swap.snapshot} of {found.count} events at {swap.count}; all three must be equal"
            )
        return LearnerState(swap.version, found.cursor, found.trained_through, found.tensors)

    def _report(self, events: int = 0, waiting_for: Waiting | None = None) -> LearnerStep:
        return LearnerStep(self._course.count, events, waiting_for, self._done)
