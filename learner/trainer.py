"""A model on its way along the stream: it predicts each batch, and then learns from it.

Who changes its masks, who decides on its versions and where it publishes them is declared here and
handed in from outside.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learner.masking import ADAGRAD, FROZEN, UPDATER
from learner.online import ForwardPass, OnlineModel, with_prefix
from learner.snapshots import (
    FILE,
    LearnerState,
    SnapshotStore,
    count_of,
    follower_from_parts,
    from_parts,
    to_parts,
)
from stream import (
    ClickReader,
    CountedBatch,
    LogPosition,
    ReadOrder,
    Recorded,
    Resumed,
    RunSpec,
    Waiting,
    check_position,
    predictions_to_bytes,
    topics,
)
from stream.log import LogReader, LogWriter, Record
from stream.messages import MaskChange, Position, PredictionBatch, dump
from stream.state import Checkpoints

log = logging.getLogger(__name__)


_MOST_SAID = 5
"""Events that one warning names."""


class NonFiniteError(Exception):
    """A model has weights, or predicts chances, that are not finite."""


Copy = Literal["snapshot", "publication", "checkpoint"]
"""A kind of copy of a model: for rebuilds and people, for serving, for its own restart."""

Gradients = Mapping[str, Tensor]
"""Of the effective weights, shape (out, in), by layer."""


class MaskUpdater(Protocol):
    """Changes a model's masks while it learns; one that never does keeps them as they are."""

    @property
    def needs_inputs(self) -> bool:
        """Whether the mean squares of inputs are to be gathered in the forward pass."""

    def observe(self, model: OnlineModel, gradients: Gradients, forward: ForwardPass) -> None:
        """Take in one batch, before the model's step.

        Parameters
        ----------
        model
            As it predicted the batch.
        gradients
            Of the effective weights; good until this returns.
        forward
            The batch and its predictions.
        """

    def update(self, model: OnlineModel, count: int) -> Mapping[str, Tensor] | MaskChange | None:
        """Return the masks that hold after the step of the batch that ends at ``count``.

        None: they stay as they are. An updater that gives returning weights a value calls
        :meth:`~learner.online.OnlineModel.set_masks` itself, and returns what the log of changes is
        to say of it.
        """

    def state(self) -> dict[str, Tensor]:
        """Return everything that it continues from, for checkpoints and snapshots."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state, or begin anew where it is of another kind of updater, or empty.

        The model has been loaded by then.
        """


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of the sparse model, as it begins."""

    version: int
    """Versions grow by one with each switch and each rollback; the first mask is version 1."""
    snapshot: str
    """Name of the snapshot that it begins as, as the store of snapshots knows it."""
    count: int
    """Events after which it begins."""
    mask: str | None = None
    """Content hash of its mask."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Learn the next batch as the version that the model is."""


@dataclass(frozen=True, slots=True)
class SwitchTo:
    """Become this version before the next batch; a model that is this version already continues."""

    to: ModelVersion
    """Its snapshot has learned ``count`` events."""


@dataclass(frozen=True, slots=True)
class RollBackTo:
    """Have weights, sums and masks of an earlier version again, and continue from this count."""

    to: ModelVersion
    """Its ``version`` is a new one, its snapshot the earlier one's, ``count`` where it begins."""


@dataclass(frozen=True, slots=True)
class NoModel:
    """There will never be a mask: the input ended before one was made."""


Answer = Continue | SwitchTo | RollBackTo | NoModel | Waiting
"""What a mask source says: what to do, or what must be known first to say it."""


class MaskSource(Protocol):
    """Decides at every boundary of a batch as which version the next one is learned."""

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        It never blocks. The same count gets the same answer for ever once that is not
        :class:`stream.Waiting`.
        """


@dataclass(frozen=True, slots=True)
class Publication:
    """The weights and masks to serve: a version, as it began or as it was some events later."""

    version: int
    sequence: int
    """0 where the version begins, then growing by one with each publication of its weights."""
    snapshot: str
    """Name of the snapshot that holds them."""
    count: int
    """Events that it has learned."""
    mask: str | None = None
    """Content hash of its mask; None: that of the masks in the snapshot."""

    @classmethod
    def first(cls, of: ModelVersion) -> Publication:
        """Return the first publication of a version.

        >>> Publication.first(ModelVersion(2, "candidate-5/150000-af", 150_000)).sequence
        0
        """
        return cls(of.version, 0, of.snapshot, of.count, of.mask)

    @property
    def rank(self) -> tuple[int, int]:
        """Version and sequence: of two publications the greater one is newer."""
        return self.version, self.sequence


class ModelRegistry(Protocol):
    """Where everybody else sees which weights are in force.

    Neither method raises where the registry cannot be reached: it catches up later.
    """

    def publish(self, publication: Publication) -> None:
        """Put a publication in force, if it is newer than the one there."""

    def reconcile(self, version: int) -> None:
        """Restore what the registry lacks; called at every step, it seldom acts.

        Parameters
        ----------
        version
            The version in force.
        """


@dataclass(frozen=True, slots=True)
class Ports:
    """What one trainer reads from and writes to; whoever opened them closes them."""

    model: str
    """The name in its predictions and snapshots: ``dense``, ``sparse``, ``candidate-3``."""
    clicks: LogReader
    """Its own reader, shared with no other thread."""
    predictions: LogWriter
    checkpoints: Checkpoints
    snapshots: SnapshotStore
    order: LogReader | None = None
    """The predictions of dense, which state the order of the clicks, through a reader of its own;
    None where they have one partition. See :func:`stream.ordering.open_order`."""
    writer_pool: Executor | None = None
    """One thread that writes files while the model learns; None writes them in between."""
    changes: LogWriter | None = None
    """Where the changes are recorded that its mask updater makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOptions:
    """At which counts a trainer does what, beside learning."""

    leads: bool = False
    """It chooses the order of several partitions; the others follow it."""
    checkpoint_events: int | None = None
    """Events between two checkpoints; None: ``learner.checkpoint_events``."""
    snapshot_events: int | None = None
    """Events between two snapshots; None: there is only one, where the input ends."""
    publish_from: int = 0
    """The count from which on predictions are published."""
    end: int | None = None
    """The count at which its caller stops it, and at which it writes a checkpoint; there is then no
    snapshot where the input ends. None: it learns all of the input."""


@dataclass(frozen=True, slots=True)
class LearnerStep:
    """One ``step()`` of a trainer: at most one batch."""

    count: int
    """Events learned since the start of the run; for a sparse model its ancestors' included."""
    events: int = 0
    """Events learned in this step."""
    waiting_for: Waiting | None = None
    """What must come before the next batch, where nothing could be done."""
    done: bool = False
    """The input has ended and everything is written; further steps do nothing."""


@dataclass(slots=True, eq=False)
class StreamTrainer:
    """Reads, predicts, publishes, learns and keeps: every model of a run is one of these.

    It continues from its last checkpoint. Without one and without a source it begins as ``online``
    is. With a source it begins as the first version that the source names, becomes every later one
    at the count at which that begins, and between two of them learns under the masks that its
    updater says. Where the source rolls it back, it has an earlier version's weights and masks
    again and continues with the next event: those between are not learned anew.

    Two trainers of one process can share one embedding table. The one that has a ``leader`` reads
    nothing itself and learns no embeddings: its leader hands it every batch, once both have
    predicted it, and keeps its state in its own checkpoints. So both always stand at one count, and
    the leader waits where the other one has to.
    """

    online: OnlineModel
    """The model. Its weights are replaced where there is a checkpoint or a source."""
    ports: Ports
    spec: RunSpec
    """What it shares with all models of the run."""
    updater: MaskUpdater
    """Changes the masks between two versions."""
    source: MaskSource | None = None
    """Decides at every boundary of a batch whether to continue, switch or wait."""
    registry: ModelRegistry | None = None
    """Where its weights are published: where a version begins, then every
    ``learner.publish_events``."""
    options: TrainerOptions = TrainerOptions()
    leader: StreamTrainer | None = None
    """The trainer whose embeddings it shares, of the dense model."""
    version: int = field(default=0, init=False)
    """Of the model: 0 for dense, and before a sparse one has begun."""
    _started: bool = field(default=False, init=False)
    _done: bool = field(default=False, init=False)
    _broken: bool = field(default=False, init=False)
    """A step raised: its batch is read and not, or not wholly, learned."""
    _since: int = field(default=0, init=False)
    _trained_through: dict[int, Position] = field(default_factory=dict, init=False)
    _reader: ClickReader = field(init=False)
    _resumed_order: Resumed | None = field(default=None, init=False)
    _saved: dict[Copy, int] = field(default_factory=dict, init=False)
    """The count at which each kind of copy was written last."""
    _announced: int = field(default=0, init=False)
    """The last version whose beginning this object has published."""
    _published: LogPosition | None = field(default=None, init=False)
    """The end of its predictions at the last checkpoint."""
    _writing: Future[Publication | None] | None = field(default=None, init=False)
    _followers: list[StreamTrainer] = field(default_factory=list, init=False)
    _resumed: Mapping[str, bytes] = field(default_factory=dict, init=False)
    """Of the checkpoint that it continues from, the parts that are its followers'."""
    _waits: Waiting | None = field(default=None, init=False)
    """What a trainer with a leader waits for."""
    _learned: int = field(default=0, init=False)
    """Events that a trainer with a leader has learned, its ancestors included."""
    _reported: int = field(default=0, init=False)
    """Those of them that it has reported."""

    def __post_init__(self) -> None:
        if self.leader is not None:
            self.online.share_embeddings(self.leader.online)
            self.leader._followers.append(self)
        self._reader = self._read_from(None)
        self._started = self.source is None
        state = self._last_state()
        if state is not None:
            writer = self.ports.predictions
            if state.published is not None:
                name = topics.predictions(self.ports.model)
                check_position(name, state.published, writer.identity, writer.end())
            self.become(state)
            self._published = state.published
            self._saved["checkpoint"] = self.count
            # What was published last of this version after its beginning, if it is there.
            sequence, after = divmod(self.count - self._since, self.online.config.publish_events)
            count, model = self.count - after, f"published-{self.ports.model}"
            newest = self.ports.snapshots.find(model, count) if sequence else None
            if newest is not None:
                self._publish(Publication(self.version, sequence, newest, count))
            log.info("%s continues after %s events", self.ports.model, f"{self.count:,}")

    @property
    def count(self) -> int:
        """Events learned since the start of the run."""
        return self._reader.count

    def become(self, state: LearnerState) -> None:
        """Take over weights, optimiser, masks, updater, version and position of a state."""
        self.version, self._since = state.version, state.since
        self._trained_through = dict(state.trained_through)
        self._reader = self._read_from(state)
        self._started = True
        self._learned = self._reported = state.count
        self._load(state.tensors)

    def step(self) -> LearnerStep:
        """Ask the source, and do at most one batch or one change of version.

        1. Read a batch.
        2. Predict it. Events that would make weights not finite are set aside: a prediction that is
           not finite becomes the mean of the batch's others, and they are not learned.
        3. Publish the predictions, and what is set aside.
        4. Learn from it; the updater observes it, and may change the masks.
        5. Write the snapshot, publication and checkpoint that are due, the checkpoint once the
           predictions are safe.

        No prediction depends on a label of its batch. Where the input ends it writes a last
        snapshot and a last checkpoint.

        Raises
        ------
        NonFiniteError
            Where most of a batch would have to be set aside: then it is the model that is at fault.
        """
        if self._done:
            return self._report()
        if self.leader is not None:
            return self._report_as_follower()
        answer = self._ask(self.count if self._started else None)
        if isinstance(answer, Continue):
            answer = self._ask_followers()
        if isinstance(answer, Waiting):
            return self._report(waiting_for=answer)
        if isinstance(answer, NoModel):
            return self._finish()
        if isinstance(answer, SwitchTo | RollBackTo) and self._change(answer):
            return self._report()
        return self._learn()

    def close(self) -> None:
        """Write a checkpoint of the model as it is, so that nothing is learned twice."""
        if self._started and self.leader is None:
            self.save_async("checkpoint")
            self.wait_saved()

    def snapshot(self) -> str:
        """Write a snapshot of the model as it is, at once, and return its name."""
        self._sync()
        return self.ports.snapshots.write(self._state())

    def save_async(self, *copies: Copy) -> None:
        """Write copies of the model as it is now, while it continues to learn.

        A checkpoint is written last, and once all predictions before it are safe; what was written
        at this count is not written again. What goes wrong is raised by the next call, or by
        :meth:`wait_saved`.
        """
        due = {one for one in copies if self._saved.get(one) != self.count}
        if not due or self._broken:
            return
        kept = (self, *self._begun) if "checkpoint" in due else (self,)
        for model in kept:
            if not model.online.finite():
                self._broken = True
                raise NonFiniteError(
                    f"{model.ports.model} has weights that are not finite after {self.count:,} "
                    "events; lower learner.rate or learner.embedding_rate, and look for extreme "
                    "features"
                )
        if "checkpoint" in due:
            states = [model._published_state() for model in kept]
        else:
            states = [self._state()]
        write = partial(self._write, states, due)
        self.wait_saved()
        self._saved |= dict.fromkeys(due, self.count)
        if self.ports.writer_pool is None:
            self._publish(write())
        else:
            self._writing = self.ports.writer_pool.submit(write)

    def wait_saved(self) -> None:
        """Return once all copies are written; raise what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._publish(writing.result())

    def _learn(self) -> LearnerStep:
        """Take the next batch, if all of it is there."""
        if not self._started:
            raise ValueError(
                f"the source lets {self.ports.model} continue before its first mask; "
                "it must answer SwitchTo, NoModel or what it waits for"
            )
        counted = self._reader.next()
        if counted is None and self._reader.ended:
            return self._finish()
        if counted is None:
            return self._report(waiting_for=self._reader.waits_for)
        models = (self, *self._begun)
        forwards = [model._predict(counted) for model in models]
        for model, forward in zip(models, forwards, strict=True):
            model._take_in(counted, forward)
        for model in (*self._begun, self):
            model._save_what_is_due()
        return self._report(len(counted.batch))

    def _predict(self, counted: CountedBatch) -> ForwardPass:
        """Predict a batch, publish it, and return what of it is to be learned."""
        online, updater, options = self.online, self.updater, self.options
        self._broken = True
        forward = online.forward(counted.batch, inputs=updater.needs_inputs)
        probability, unfit = forward.probability, online.unlearnable(forward)
        if unfit.any():
            forward = self._without(unfit, counted, forward)
            finite = np.isfinite(probability)
            others = float(probability[finite].mean()) if finite.any() else 0.5
            probability = np.where(finite, probability, others)
        if counted.begin >= options.publish_from:
            predictions = PredictionBatch(
                model=self.ports.model,
                version=self.version,
                begin=counted.begin,
                spans=counted.spans,
                trained_through=self._trained_through,
                probability=probability,
                set_aside=_places(counted, unfit),
            )
            time_ms = int(counted.batch.time_ms[-1])
            record = Record(predictions_to_bytes(predictions), time_ms=time_ms)
            self.ports.predictions.append([record])
        return forward

    def _take_in(self, counted: CountedBatch, forward: ForwardPass) -> None:
        """Learn a batch, and change the masks as the updater says."""
        online, updater = self.online, self.updater
        if len(forward.batch):
            online.learn_from(forward, lambda found: updater.observe(online, found, forward))
        changed = updater.update(online, self.count)
        if isinstance(changed, MaskChange):
            if self.ports.changes is not None:
                self.ports.changes.append([Record(dump(changed))])
        elif changed is not None:
            online.set_masks(changed)
        learned = {span.partition: span.last for span in counted.spans}
        self._trained_through = self._trained_through | learned
        self._learned = self.count
        self._broken = False

    def _without(
        self, unfit: NDArray[np.bool_], counted: CountedBatch, forward: ForwardPass
    ) -> ForwardPass:
        """Predict what is left of a batch without the events that are not fit to be learned."""
        events, left, model = len(unfit), counted.batch[~unfit], self.ports.model
        are_few = 2 * unfit.sum() <= max(events, 2)
        if are_few and len(left):
            forward = self.online.forward(left, inputs=self.updater.needs_inputs)
            are_few = not self.online.unlearnable(forward).any()
        if not are_few:
            raise NonFiniteError(
                f"{model} predicts what is not finite after {counted.begin:,} events, or would "
                f"learn it, from {unfit.sum():,} of the next {events:,}; lower learner.rate or "
                "learner.embedding_rate, and look for extreme features"
            )
        places = [f"offset {o}, row {r} of partition {p}" for p, (o, r) in _places(counted, unfit)]
        said = "; ".join(places[:_MOST_SAID]) + ("; ..." if len(places) > _MOST_SAID else "")
        log.warning("%s does not learn %d events that are not finite: %s", model, len(places), said)
        return forward if len(left) else replace(forward, batch=left)

    def _save_what_is_due(self) -> None:
        count, options, config = self.count, self.options, self.online.config
        due: list[Copy] = []
        if options.snapshot_events is not None and count % options.snapshot_events == 0:
            due.append("snapshot")
        if self.registry is not None and (count - self._since) % config.publish_events == 0:
            due.append("publication")
        every = options.checkpoint_events or config.checkpoint_events
        if self.leader is None and (count % every == 0 or count == options.end):
            due.append("checkpoint")
        self.save_async(*due)

    def _finish(self) -> LearnerStep:
        if self._started and self.options.end is None:
            for follower in self._begun:
                follower.save_async("snapshot")
                follower.wait_saved()
            self.save_async("snapshot", "checkpoint")
            self.wait_saved()
        for follower in self._followers:
            follower._done = True
        self._done = True
        return self._report()

    @property
    def _begun(self) -> list[StreamTrainer]:
        """Those of its followers that have a model."""
        return [one for one in self._followers if one._started]

    def _ask(self, count: int | None) -> Answer:
        """Ask the source, and see to what has been written meanwhile."""
        if self._writing is not None and self._writing.done():
            self.wait_saved()
        if self.registry is not None and self.version:
            self.registry.reconcile(self.version)
        return Continue() if self.source is None else self.source.at(count)

    def _ask_followers(self) -> Answer:
        """Change the versions of the followers that are due; say what one of them waits for.

        One begins where its leader stands, so its source is asked for that count from the start.
        """
        for follower in self._followers:
            answer = follower._ask(self.count)
            follower._waits = answer if isinstance(answer, Waiting) else None
            if follower._waits is not None:
                return follower._waits
            if isinstance(answer, SwitchTo | RollBackTo):
                follower._change(answer)
        return Continue()

    def _report_as_follower(self) -> LearnerStep:
        """Report what its leader, in a thread of its own, has let it learn since the last time."""
        learned, waits = self._learned, self._waits
        events, self._reported = learned - self._reported, learned
        if events:
            return LearnerStep(learned, events)
        if waits is None and learned:
            waits = Waiting(topics.CLICKS)
        return LearnerStep(learned, waiting_for=waits or Waiting(topics.LEDGER, "the first mask"))

    def _change(self, answer: SwitchTo | RollBackTo) -> bool:
        """Become another version, safely, and publish it; False where it is that one already."""
        to, model, snapshots = answer.to, self.ports.model, self.ports.snapshots
        changes = not self._started or to.version > self.version
        if changes and isinstance(answer, SwitchTo):
            found = snapshots.read(to.snapshot)
            here = self.count if self._started else to.count
            if not here == to.count == found.count:
                raise ValueError(
                    f"{model} stands at {here} events and cannot switch to {to.snapshot} of "
                    f"{found.count} events at {to.count}; all three must be equal"
                )
            self.become(replace(found, version=to.version, since=to.count))
        elif changes:
            if self.count != to.count:
                raise ValueError(
                    f"{model} stands at {self.count} events and cannot go back to "
                    f"{to.snapshot} at {to.count}; both must be equal"
                )
            found = snapshots.read(to.snapshot)
            self.version, self._since = to.version, to.count
            # What the model claims to have learned from stays, which bounds from above what the
            # snapshot had: no prediction may claim less than its model has seen.
            before, claimed = found.trained_through, self._trained_through
            kept = {at: max(place, before.get(at, place)) for at, place in claimed.items()}
            self._trained_through = before | kept
            self._load(found.tensors)
        if changes:
            keeper = self.leader or self
            keeper._saved.pop("checkpoint", None)
            keeper.save_async("checkpoint")
            keeper.wait_saved()
            log.info("%s is version %d after %s events", model, to.version, f"{to.count:,}")
        if self.registry is not None and to.version > self._announced:
            self._announced = to.version
            self.registry.publish(Publication.first(to))
        return changes

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.online.load(tensors)
        self.updater.load(with_prefix(tensors, UPDATER))
        self._saved.clear()

    def _state(self, *, shared: bool = True) -> LearnerState:
        updater = {UPDATER + name: tensor for name, tensor in self.updater.state().items()}
        return LearnerState(
            model=self.ports.model,
            version=self.version,
            cursor=self._reader.cursor,
            trained_through=self._trained_through,
            tensors=self.online.state(shared=shared) | updater,
            config_json=self.spec.config_json,
            seed=self.spec.seed,
            since=self._since,
            ordered=self._resumed_order.offset if self._resumed_order else None,
            published=self._published,
        )

    def _published_state(self) -> LearnerState:
        """Return the state to continue from, once all that was published before it is safe."""
        written = self.ports.predictions
        for writer in (written, self.ports.changes):
            if writer is not None:
                writer.flush()
        self._published = LogPosition(written.identity, written.end())
        return self._state(shared=False)

    def _last_state(self) -> LearnerState | None:
        """Return the state of the last checkpoint; None without one."""
        if self.leader is not None:
            return follower_from_parts(self.leader._resumed, self.ports.model)
        found = self.ports.checkpoints.latest()
        if found is None:
            return None
        self._resumed = {name: part for name, part in found.parts.items() if name != FILE}
        return from_parts(found.parts)

    def _sync(self) -> None:
        """Make what a copy of the model rests on survive a crash of the machine, before it does."""
        for read in (self.ports.clicks, self.ports.order):
            if read is not None:
                read.sync()

    def _write(self, states: Sequence[LearnerState], copies: set[Copy]) -> Publication | None:
        """Write copies of a state; another thread may do it.

        A publication is a snapshot of what is to be served, the module's weights and masks; all but
        the one before are deleted. The states after the first are those of followers, for the
        checkpoint.
        """
        state, store, written = states[0], self.ports.snapshots, None
        self._sync()
        if "snapshot" in copies:
            store.write(state)
        if "publication" in copies:
            private, model = (FROZEN, ADAGRAD, UPDATER), f"published-{state.model}"
            tensors = {n: t for n, t in state.tensors.items() if not n.startswith(private)}
            name = store.write(replace(state, model=model, tensors=tensors))
            for old in [n for n in store.names(model) if count_of(n) < state.count][:-1]:
                store.delete(old)
            sequence = (state.count - state.since) // self.online.config.publish_events
            written = Publication(state.version, sequence, name, state.count)
        if "checkpoint" in copies:
            self.ports.checkpoints.write(state.count, to_parts(*states))
        return written

    def _publish(self, publication: Publication | None) -> None:
        if publication is not None and self.registry is not None:
            self.registry.publish(publication)

    def _read_from(self, state: LearnerState | None) -> ClickReader:
        if self.leader is not None:
            return self.leader._reader
        spec, order_log = self.spec, self.ports.order
        order: ReadOrder | None = None
        if order_log is not None and self.options.leads:
            order = self._resumed_order = Resumed(order_log, state.ordered if state else None)
        elif order_log is not None:
            order = Recorded(order_log)
        cursor = state.cursor if state else None
        return ClickReader(self.ports.clicks, spec.schema, spec.batch_events, cursor, order)

    def _report(self, events: int = 0, waiting_for: Waiting | None = None) -> LearnerStep:
        return LearnerStep(self.count, events, waiting_for, self._done)


def _places(counted: CountedBatch, rows: NDArray[np.bool_]) -> tuple[tuple[int, Position], ...]:
    """Return where some events of a batch stand."""
    return tuple((p, Position(o, r)) for p, o, r in counted.places[rows].tolist())
