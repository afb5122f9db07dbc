"""The prune worker: decides on every window, and takes rebuilds to their verdicts."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from learner import (
    LearnerState,
    NonFiniteError,
    OnlineModel,
    Ports,
    SnapshotError,
    SnapshotStore,
    StreamTrainer,
    TrainerOptions,
    count_of,
    from_parts,
    masks_of,
)
from pruner import verdicts
from pruner.config import PrunerConfig
from pruner.criterion import CriterionFailedError
from pruner.decisions import (
    FIRST,
    History,
    LedgerFollower,
    PendingRequest,
    Rules,
    decide,
    is_complete,
    missing,
)
from pruner.evidence import layers_of
from pruner.masks import ReconcilingRegistry
from pruner.requests import RequestFollower
from pruner.triggers import Score
from pruner.updaters import PrunePhase, recipe
from stream import (
    END,
    ClickCursor,
    FeatureSchema,
    LogFollower,
    MessageLog,
    RestartPoint,
    RunSpec,
    Waiting,
    kind_of,
    nothing_follows,
)
from stream.log import LogReader, LogWriter, Record
from stream.messages import Decision, Judgement, RebuildPlan, Request, Verdict, Window, dump
from stream.state import Checkpoints
from stream.topics import SNAPSHOTS, WINDOWS

log = logging.getLogger(__name__)

_DENSE, _SPARSE = "dense", "sparse"


class InputEnd:
    """Finds out how many events the input has, once the dense model has learned all of them.

    The dense model writes a last snapshot where the input ends: after its places there is nothing
    but the end records.

    Parameters
    ----------
    clicks
        The clicks log.
    snapshots
        Where the dense model writes its snapshots.
    schema
        Decides which events are valid.
    """

    def __init__(self, clicks: LogReader, snapshots: SnapshotStore, schema: FeatureSchema) -> None:
        self._clicks = clicks
        self._snapshots = snapshots
        self._schema = schema
        self._tried: str | None = None
        self._total: int | None = None

    def total(self) -> int | None:
        """Return the number of valid events of the whole input, None while it is not known."""
        if self._total is None and self._last_is_end():
            newest = self._snapshots.names(_DENSE)[-1:]
            if newest and newest[0] != self._tried:
                self._tried = newest[0]
                self._total = self._count_at_end(newest[0])
        return self._total

    def _last_is_end(self) -> bool:
        lasts = [self._clicks.last(partition) for partition in self._clicks.partitions]
        return all(last is not None and kind_of(last) == END for last in lasts)

    def _count_at_end(self, snapshot: str) -> int | None:
        """Return the count of a snapshot if nothing comes after it."""
        cursor = self._snapshots.cursor(snapshot)
        return cursor.count if nothing_follows(self._clicks, self._schema, cursor) else None


class WindowFollower:
    """Follows the ``windows`` log.

    Parameters
    ----------
    reader
        The log.
    window_events
        The size of the windows that are decided on; others are passed over, and so is a last,
        partial one.
    """

    def __init__(self, reader: LogReader, window_events: int) -> None:
        self.closed = 0
        """The end of the last window."""
        self.scores: list[Score] = []
        """The windows on which the sparse model was scored, oldest first."""
        self._window_events = window_events
        self._judgements: dict[int, Judgement] = {}
        self._tail: LogFollower[Window | Judgement]
        windows = MessageLog(reader, WINDOWS)
        self._tail = windows.follow(Window, Judgement, skips_trimmed=True)

    def poll(self) -> None:
        """Read some of what is new."""
        for message in self._tail.poll():
            self._take(message)

    def judgement(self, rebuild: int) -> Judgement | None:
        """Return the judgement on a rebuild's candidate, None while there is none."""
        return self._judgements.get(rebuild)

    def forget(self, count: int) -> None:
        """Drop the windows that began before a swap."""
        self.scores = [score for score in self.scores if score.begin >= count]

    def _take(self, message: Window | Judgement) -> None:
        if isinstance(message, Judgement):
            self._judgements[message.rebuild] = message
            return
        if message.size != self._window_events or message.partial:
            return
        self.closed = message.end
        relative = message.metric(_SPARSE, "relative_ce")
        if relative is not None:
            self.scores.append(Score(message.begin, message.end, relative))


def unused(names: list[str], history: History, snapshot_events: int) -> list[str]:
    """Choose the dense snapshots from which no rebuild can start.

    Those before the last one that a window still to be decided could name. The newest stays, and
    so does the one that the open rebuild names.

    Parameters
    ----------
    names
        Of dense snapshots, oldest first.
    history
        The ledger.
    snapshot_events
        The grid of dense snapshots.

    Examples
    --------
    >>> names = [f"dense/{count:015d}-abcdefabcdef" for count in (100, 200, 300, 400)]
    >>> [name[18:21] for name in unused(names, History(decided=350), snapshot_events=100)]
    ['100', '200']
    """
    named = history.open.begin if history.open else None
    return [
        name
        for name in names[:-1]
        if count_of(name) + snapshot_events <= history.decided and count_of(name) != named
    ]


class PrunerNeeds:
    """Follows the ledger to tell what the prune worker may still read.

    It has no checkpoint but those of rebuilds, none of which reads clicks before its dense
    snapshot; and what it does with windows depends on the ledger.

    Parameters
    ----------
    ledger
        Its own reader of the ledger.
    snapshots
        Where the models' snapshots are.
    window_events
        The size of the windows that are decided on.

    Attributes
    ----------
    first
        The place at which models begin that learn from the first mask on; None while it has not
        been made, or once it is not kept.
    """

    def __init__(self, ledger: LogReader, snapshots: SnapshotStore, window_events: int) -> None:
        self.first: ClickCursor | None = None
        self._ledger, self._snapshots = LedgerFollower(ledger), snapshots
        self._window_events = window_events
        self._first_name = ""

    def poll(self) -> RestartPoint:
        """Return the places at which rebuilds may begin, and whose windows are still needed.

        The dense model's checkpoints must have been looked at before: a snapshot that is not there
        yet comes later than they do.
        """
        # In this order: a snapshot that is deleted in between is none that the ledger needs.
        begins = [self._cursor(name) for name in self._snapshots.names(_DENSE)]
        for one in self._ledger.poll():
            if not self._first_name and isinstance(one, Verdict):
                self._first_name = one.snapshot or ""
        self.first = self._cursor(self._first_name) if self._first_name else None
        history = self._ledger.history
        decided = history.open.decided if history.open else history.decided
        return RestartPoint(
            clicks=[cursor for cursor in begins if cursor is not None],
            # The window before shows where the judgement of an open rebuild can be at the earliest.
            windows_after=min(decided, history.swap_count) - self._window_events,
        )

    def _cursor(self, name: str) -> ClickCursor | None:
        """Return the place of a snapshot; None where it has been deleted."""
        with contextlib.suppress(SnapshotError):
            return self._snapshots.cursor(name)
        return None


def tidy_dense(snapshots: SnapshotStore, history: History, snapshot_events: int) -> None:
    """Delete the dense snapshots from which no rebuild can start."""
    for name in unused(snapshots.names(_DENSE), history, snapshot_events):
        snapshots.delete(name)


def tidy_candidates(snapshots: SnapshotStore, history: History) -> None:
    """Delete the candidates that are neither being made nor among the last versions."""
    kept = {one.snapshot for one in history.promoted}
    for folder in sorted(snapshots.folder.glob("candidate-*")):
        if history.open is not None and folder.name == history.open.candidate:
            continue
        for name in snapshots.names(folder.name):
            if name not in kept:
                snapshots.delete(name)
        with contextlib.suppress(OSError):
            folder.rmdir()


def tidy_checkpoints(folder: Path, history: History) -> None:
    """Delete the checkpoints of rebuilds that have ended."""
    mine = f"rebuild-{history.open.number:06d}" if history.open else ""
    for path in sorted(folder.glob("rebuild-*")):
        if path.name != mine:
            shutil.rmtree(path)


_FAILURES = (CriterionFailedError, NonFiniteError)


@dataclass(frozen=True, slots=True)
class PrunePorts:
    """What the prune worker reads from and writes to; whoever opened the logs closes them."""

    clicks: LogReader
    windows: LogReader
    ledger: LogReader
    requests: LogReader
    """What people ask for."""
    decisions: LogWriter
    """The ledger's one writer."""
    predictions: LogWriter
    """Of ``predictions.candidate``."""
    snapshots: SnapshotStore
    registry: ReconcilingRegistry
    folder: Path
    """Holds the checkpoints of the open rebuild, and nothing else."""
    versions: int = 3
    """How many versions of the sparse model are kept."""
    order: LogReader | None = None
    """As in :class:`learner.Ports`."""

    def of_trainer(self, model: str, checkpoints: Checkpoints) -> Ports:
        """Return the ports of a rebuild's trainer."""
        predictions, snapshots = self.predictions, self.snapshots
        return Ports(model, self.clicks, predictions, checkpoints, snapshots, self.order)


@dataclass(frozen=True, slots=True)
class RebuildContext:
    """What rebuilds are made with."""

    config: PrunerConfig
    spec: RunSpec
    build: Callable[[], OnlineModel]
    """Makes a model of the same kind as the dense one; its weights are replaced."""
    ports: PrunePorts

    def open(self, plan: RebuildPlan, version: int) -> StreamTrainer | None:
        """Continue with a rebuild, or begin it; None while the dense snapshot is not there.

        Its trainer learns the events after the snapshot under a prune phase, and publishes
        predictions over those on which the candidate is judged.

        Parameters
        ----------
        plan
            What was decided.
        version
            That the candidate will have if it is promoted.

        Raises
        ------
        learner.SnapshotError
            Where the snapshot will never be there: dense has written a later one.
        """
        ports, spec, online = self.ports, self.spec, self.build()
        checkpoints = Checkpoints(ports.folder / f"rebuild-{plan.number:06d}")
        kept = checkpoints.latest()
        begin = from_parts(kept.parts) if kept else self._dense(plan)
        if begin is None:
            return None
        online.load(begin.tensors)
        rng = np.random.default_rng([spec.seed, plan.number])
        trainer = StreamTrainer(
            online,
            ports.of_trainer(plan.candidate, checkpoints),
            spec,
            PrunePhase(recipe(self.config, spec), layers_of(online), rng),
            options=TrainerOptions(
                checkpoint_events=self.config.checkpoint_events,
                publish_from=plan.end - spec.judge_events,
                end=plan.end,
                check_predictions=True,
            ),
        )
        if kept is None:
            trainer.become(replace(begin, version=version))
        return trainer

    def _dense(self, plan: RebuildPlan) -> LearnerState | None:
        """Read the dense snapshot that a rebuild begins with; None while it is not there."""
        snapshots = self.ports.snapshots
        name = snapshots.find(_DENSE, plan.begin)
        if name is not None:
            return snapshots.read(name)
        later = [n for n in snapshots.names(_DENSE) if count_of(n) > plan.begin]
        if later:
            raise SnapshotError(
                f"rebuild {plan.number} begins at the dense snapshot of {plan.begin} events, which "
                f"is gone from {snapshots.folder}, and dense is past it ({later[-1]}); start afresh"
            )
        return None


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One ``step()`` of the prune worker: one decision, one batch or one verdict at most."""

    count: int
    """Events that the candidate has learned; without an open rebuild, the last window decided."""
    events: int = 0
    """Events learned in this step."""
    decided: Decision | None = None
    verdict: Verdict | None = None
    waiting_for: Waiting | None = None
    """What must come first, where nothing could be done."""
    done: bool = False
    """The input has ended and everything is decided; further steps do nothing."""


class PruneWorker:
    """Decides on every window of the trigger's size, and takes the rebuilds to their verdicts.

    What it knows it reads from the ledger and from the ``windows`` log; only an open rebuild has
    checkpoints of its own.

    Parameters
    ----------
    ports
        What it reads from and writes to.
    config
        How to prune.
    rules
        What decisions depend on.
    build
        Makes a model of the same kind as the dense one; its weights are replaced.
    """

    def __init__(
        self,
        ports: PrunePorts,
        config: PrunerConfig,
        rules: Rules,
        build: Callable[[], OnlineModel],
    ) -> None:
        self._ports = ports
        self._rules, self._spec = rules, rules.spec
        self._rebuilds = RebuildContext(config, rules.spec, build, ports)
        self._ledger = LedgerFollower(ports.ledger, ports.versions)
        self._windows = WindowFollower(ports.windows, rules.spec.window_events)
        self._requests = RequestFollower(ports.requests)
        self._end = InputEnd(ports.clicks, ports.snapshots, rules.spec.schema)
        self._rebuild: StreamTrainer | None = None
        self._failed: Verdict | None = None
        self._done = False
        self._ledger.poll()
        self._tidy()

    @property
    def history(self) -> History:
        """What the ledger says."""
        return self._ledger.history

    def step(self) -> PruneStep:
        """Do one thing, at once; decisions come first.

        1. Read what the evaluator has found.
        2. End the open rebuild, if a rollback has superseded it.
        3. Decide on the next window, if it is closed, and take one request into the decision.
        4. Otherwise, learn one batch of the open rebuild, or end it.
        """
        if self._done:
            return self._report()
        self._ports.registry.reconcile()
        self._windows.poll()
        history = self.history
        if history.open is not None and history.superseded is not None:
            return self._conclude(verdicts.superseded(history.open, history.superseded))
        decision = self._decide()
        if decision is not None:
            return self._report(decided=decision)
        if self.history.open is not None:
            return self._work(self.history.open)
        return self._rest()

    def close(self) -> None:
        """Write a checkpoint of the open rebuild, so that nothing is learned twice."""
        if self._rebuild is not None:
            self._rebuild.close()

    def _decide(self) -> Decision | None:
        count = self.history.decided + self._spec.window_events
        if self._windows.closed < count or missing(self.history, count) is not None:
            return None
        request = self._requests.next(self.history.answered)
        pending = PendingRequest(request, self._invalid(request)) if request is not None else None
        decision = decide(self.history, self._windows.scores, count, self._rules, pending)
        self._write(decision)
        tidy_dense(self._ports.snapshots, self.history, self._spec.snapshot_events)
        _log_decision(decision)
        return decision

    def _invalid(self, request: Request) -> str | None:
        """Return why a version cannot be gone back to though the ledger names it."""
        named = (one for one in self.history.promoted if one.version == request.version)
        try:
            for version in named:
                self._ports.snapshots.read(version.snapshot)
        except SnapshotError as error:
            return str(error)
        return None

    def _work(self, plan: RebuildPlan) -> PruneStep:
        """Take the open rebuild one batch further, or end it.

        Its verdict comes after the decisions on all windows through E and before those after it,
        however fast the evaluator is: so the ledger has one order.
        """
        if self._failed is None:
            try:
                return self._advance(plan)
            except _FAILURES as error:
                count = self._rebuild.count if self._rebuild else plan.begin
                self._failed = verdicts.failed(plan, count, error)
                self._rebuild = None
        total = self._end.total()
        through = plan.end if total is None else min(plan.end, total)
        return self._undecided(through) or self._conclude(self._failed)

    def _advance(self, plan: RebuildPlan) -> PruneStep:
        if self._rebuild is None:
            self._rebuild = self._rebuilds.open(plan, self.history.version + 1)
        rebuild = self._rebuild
        if rebuild is None:
            return self._report(
                waiting_for=Waiting(SNAPSHOTS, f"the dense snapshot at {plan.begin}")
            )
        if rebuild.count == plan.end:
            return self._judge(rebuild, plan)
        step = rebuild.step()
        if step.done:
            undecided = self._undecided(step.count)
            return undecided or self._conclude(verdicts.unfinished(plan, step.count))
        return self._report(events=step.events, waiting_for=step.waiting_for)

    def _judge(self, rebuild: StreamTrainer, plan: RebuildPlan) -> PruneStep:
        """End a rebuild that has come to E, once the evaluator has judged it.

        1. Write the snapshot of a candidate that takes over, and put its mask into the store.
        2. Write the verdict: from then on it is in force.
        """
        if undecided := self._undecided(plan.end):
            return undecided
        judgement = self._windows.judgement(plan.number)
        if judgement is None and plan.reason != FIRST:
            return self._report(
                waiting_for=Waiting(WINDOWS, f"the judgement of rebuild {plan.number}")
            )
        snapshot = rebuild.snapshot() if verdicts.promotes(judgement) else None
        online = rebuild.online
        masks = {name: online.masks[name].cpu() for name in online.prunable}
        if snapshot is not None:
            self._ports.registry.put(masks)
        before = self._masks_in_force()
        candidate = verdicts.Candidate(plan, rebuild.version, snapshot, masks, before)
        return self._conclude(verdicts.judged(candidate, judgement))

    def _conclude(self, verdict: Verdict) -> PruneStep:
        self._write(verdict)
        log.info("rebuild %d %s: %s", verdict.rebuild.number, verdict.verdict, verdict.reason)
        self._rebuild = self._failed = None
        self._windows.forget(self.history.swap_count)
        self._tidy()
        return self._report(verdict=verdict)

    def _rest(self) -> PruneStep:
        total = self._end.total()
        if total is not None and is_complete(self.history, total, self._spec.window_events):
            self._done = True
            self._log_what_came_too_late(total)
            return self._report()
        return self._report(waiting_for=self._next_window)

    def _log_what_came_too_late(self, total: int) -> None:
        """Log the swap and the requests for which the input ended too early."""
        if self.history.swap_count > total:
            log.warning(
                "version %d never took effect: the input ended after %d events, before %d",
                self.history.version,
                total,
                self.history.swap_count,
            )
        for request in self._requests.open(self.history.answered):
            log.warning(
                "the %s asked for (%s) was not decided on: the input ended after %d events",
                request.action,
                request.reason,
                total,
            )

    def _undecided(self, through: int) -> PruneStep | None:
        """Report that a window ending by ``through`` is still to be decided, None if none is."""
        due = self.history.decided + self._spec.window_events
        return self._report(waiting_for=self._next_window) if due <= through else None

    @property
    def _next_window(self) -> Waiting:
        due = self.history.decided + self._spec.window_events
        return Waiting(WINDOWS, f"the window ending at {due}")

    def _write(self, message: Decision | Verdict) -> None:
        """Write into the ledger what is decided, safely, and take note of it."""
        self._ports.decisions.append([Record(dump(message))])
        self._ports.decisions.flush()
        self._ledger.poll()

    def _masks_in_force(self) -> dict[str, Tensor] | None:
        promoted = self.history.promoted
        return masks_of(self._ports.snapshots.read(promoted[-1].snapshot)) if promoted else None

    def _tidy(self) -> None:
        """Delete what only rebuilds that have ended needed."""
        tidy_candidates(self._ports.snapshots, self.history)
        tidy_checkpoints(self._ports.folder, self.history)
        self._ports.registry.keep(self.history.promoted)

    def _report(
        self,
        events: int = 0,
        decided: Decision | None = None,
        verdict: Verdict | None = None,
        waiting_for: Waiting | None = None,
    ) -> PruneStep:
        count = self._rebuild.count if self._rebuild else self.history.decided
        return PruneStep(count, events, decided, verdict, waiting_for, self._done)


def _log_decision(decision: Decision) -> None:
    """Log the rebuild that begins, and how a request was answered."""
    if decision.rebuild is not None:
        log.info("rebuild %d: %s", decision.rebuild.number, decision.rebuild.cause)
    request = decision.request
    if request is None:
        return
    if decision.declined is not None:
        log.warning("no %s (%s): %s", request.action, request.reason, decision.declined)
    elif decision.rollback is not None:
        log.info("%s: %s", decision.why_not, request.reason)
