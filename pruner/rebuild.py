"""An open rebuild: from the dense snapshot at s to the candidate at E."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learner.online import OnlineModel
from learner.snapshots import (
    LearnerState,
    Snapshot,
    SnapshotError,
    SnapshotStore,
    count_of,
    from_parts,
    to_parts,
)
from learner.trainer import NonFiniteError
from pruner.config import PrunerConfig
from pruner.pruning import PruningTrainer, recipe
from stream.columnar import predictions_to_bytes
from stream.log import LogReader, LogWriter, Record
from stream.messages import PredictionBatch, RebuildPlan
from stream.ordering import Recorded
from stream.reader import ClickReader, CountedBatch
from stream.spec import RunSpec, Waiting
from stream.state import Checkpoints


@dataclass(frozen=True, slots=True)
class RebuildContext:
    """What rebuilds are made with; whoever opened the logs closes them."""

    config: PrunerConfig
    spec: RunSpec
    build: Callable[[], OnlineModel]
    """Makes a model of the same kind as the dense one; its weights are replaced."""
    clicks: LogReader
    """Its own reader, shared with no other thread."""
    predictions: LogWriter
    """Of ``predictions.candidate``."""
    snapshots: SnapshotStore
    folder: Path
    """Holds the checkpoints of the open rebuild."""
    order: LogReader | None = None
    """As in :class:`learner.trainer.Ports`."""

    def checkpoints(self, plan: RebuildPlan) -> Checkpoints:
        """Return where a rebuild keeps its checkpoints."""
        return Checkpoints(self.folder / f"rebuild-{plan.number:06d}")


class Rebuild:
    """A candidate on its way along the stream, going on from its last checkpoint.

    Parameters
    ----------
    plan
        What was decided.
    version
        That the candidate will have if it is promoted.
    workshop
        What it is made with.
    state
        A model to go on from: the dense snapshot, or a checkpoint.
    """

    def __init__(
        self, plan: RebuildPlan, version: int, workshop: RebuildContext, state: LearnerState
    ) -> None:
        self.plan = plan
        self.version = version
        self._shop = workshop
        spec = workshop.spec
        order = Recorded(workshop.order) if workshop.order is not None else None
        self._reader = ClickReader(
            workshop.clicks, spec.schema, spec.batch_events, state.cursor, order
        )
        self._trained_through = dict(state.trained_through)
        self._job = self._begin(state)
        self._kept = self.count
        self._torn = False

    @classmethod
    def open(cls, plan: RebuildPlan, version: int, workshop: RebuildContext) -> Rebuild | None:
        """Go on with a rebuild, or begin it; None while the dense snapshot is not there.

        Raises :class:`~learner.snapshots.SnapshotError` where it never will be: dense has left a
        later one.
        """
        kept = workshop.checkpoints(plan).latest()
        if kept is not None:
            return cls(plan, version, workshop, from_parts(kept.parts))
        name = workshop.snapshots.find("dense", plan.snapshot)
        if name is None:
            later = [n for n in workshop.snapshots.names("dense") if count_of(n) > plan.snapshot]
            if later:
                raise SnapshotError(
                    f"rebuild {plan.number} begins at the dense snapshot of {plan.snapshot} "
                    f"events, which is gone from {workshop.snapshots.folder}, and dense is past "
                    f"it ({later[-1]}); start afresh"
                )
            return None
        dense = workshop.snapshots.read(name)
        state = LearnerState(0, dense.cursor, dense.trained_through, dense.tensors)
        return cls(plan, version, workshop, state)

    @property
    def count(self) -> int:
        """Events that the candidate or an ancestor of it has learned."""
        return self._reader.count

    @property
    def ended(self) -> bool:
        """The input has ended, and all of it is learned."""
        return self._reader.ended

    @property
    def waits_for(self) -> Waiting:
        """The log that must go on, where :meth:`step` found nothing to do."""
        return self._reader.waits_for

    @property
    def done(self) -> bool:
        """The candidate has learned everything through E."""
        return self.count == self.plan.end

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of each layer, in the order of the layers, on the CPU."""
        model = self._job.model
        return {name: model.masks[name].cpu() for name in model.prunable}

    def step(self) -> int:
        """Take the next batch, if all of it is there, and return its events.

        1. Read a batch.
        2. Predict it.
        3. If it is among the last before E, publish the predictions.
        4. Learn from it; in the prune phase, observe it and change the mask.
        5. Checkpoint, if one is due, once the predictions are safe.

        Raises :class:`~pruner.pruning.CriterionFailedError` and
        :class:`~learner.trainer.NonFiniteError`.
        """
        counted = self._reader.next()
        if counted is None:
            return 0
        self._torn = True
        ahead = self._job.ahead(counted.batch)
        if not np.isfinite(ahead.probability).all():
            raise NonFiniteError(
                f"{self.plan.candidate} predicts what is not finite after {counted.begin:,} events"
            )
        if counted.begin >= self.plan.end - self._shop.spec.judge_events:
            self._publish(counted, ahead.probability)
        self._job.learn_from(ahead)
        learned = {span.partition: span.last for span in counted.spans}
        self._trained_through = self._trained_through | learned
        due = self.count % self._shop.config.checkpoint_events == 0 or self.done
        if due:
            self._check_finite()
        self._torn = False
        if due:
            self.checkpoint()
        return len(counted.batch)

    def checkpoint(self) -> None:
        """Keep where it stands, once all it published is safe; nothing if that is kept already.

        Nothing either where a step raised: its batch is read and not, or not wholly, learned.
        """
        if self._torn or self._kept == self.count:
            return
        self._shop.predictions.flush()
        state = LearnerState(
            self.version, self._reader.cursor, self._trained_through, self._job.state()
        )
        self._shop.checkpoints(self.plan).write(self.count, to_parts(state))
        self._kept = self.count

    def snapshot(self) -> str:
        """Publish the candidate as it is, and return the name of the snapshot."""
        spec = self._shop.spec
        snapshot = Snapshot(
            model=self.plan.candidate,
            version=self.version,
            cursor=self._reader.cursor,
            trained_through=self._trained_through,
            tensors=self._job.model.state(),
            config_json=spec.config_json,
            seed=spec.seed,
        )
        return self._shop.snapshots.write(snapshot)

    def _begin(self, state: LearnerState) -> PruningTrainer:
        """Make the job of a dense model, or of a checkpoint, which holds the prune phase too."""
        shop = self._shop
        model = shop.build()
        rng = np.random.default_rng([shop.spec.seed, self.plan.number])
        how = recipe(shop.config, shop.spec)
        dense = state.cursor.count == self.plan.snapshot
        if dense:
            model.load(state.tensors)
        job = PruningTrainer(model, how, rng)
        if not dense:
            job.load(state.tensors)
        return job

    def _publish(self, counted: CountedBatch, probability: NDArray[np.float64]) -> None:
        predictions = PredictionBatch(
            model=self.plan.candidate,
            version=self.version,
            begin=counted.begin,
            spans=counted.spans,
            trained_through=self._trained_through,
            probability=probability,
        )
        record = Record(predictions_to_bytes(predictions), time_ms=int(counted.batch.time_ms[-1]))
        self._shop.predictions.append([record])

    def _check_finite(self) -> None:
        if not self._job.model.finite():
            raise NonFiniteError(
                f"{self.plan.candidate} has weights that are not finite after {self.count:,} events"
            )
