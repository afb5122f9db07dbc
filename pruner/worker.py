"""The prune worker: decides on every window, and takes rebuilds to their verdicts."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

import learner
import stream
from pruner import decisions
from pruner.config import PrunerConfig
from pruner.criterion import CriterionFailedError
from pruner.decisions import FIRST, History, LedgerFollower, PendingRequest, Rules
from pruner.evidence import layers_of
from pruner.masks import ReconcilingRegistry, content_hash, describe, pack, sparsity
from pruner.requests import RequestFollower
from pruner.triggers import Score
from pruner.updaters import FixedMask, PrunePhase, pruned_by_evidence, recipe
from stream import topics
from stream.log import LogReader, LogWriter, Record
from stream.messages import (
    Decision,
    Interval,
    Judgement,
    RebuildPlan,
    Request,
    Verdict,
    Window,
    dump,
)
from stream.state import Checkpoints

log = logging.getLogger(__name__)

_DENSE, _SPARSE = "dense", "sparse"
_LOOK_SECONDS = 0.25
"""The log of the clicks is asked this often whether it has ended: a broker takes a while."""


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

    def __init__(
        self, clicks: LogReader, snapshots: learner.SnapshotStore, schema: stream.FeatureSchema
    ) -> None:
        self._clicks = clicks
        self._snapshots = snapshots
        self._schema = schema
        self._looked, self._has_ended = -math.inf, False
        self._tried: str | None = None
        self._total: int | None = None

    def total(self) -> int | None:
        """Return the number of valid events of the whole input, None while it is not known."""
        now = time.monotonic()
        if not self._has_ended and now > self._looked + _LOOK_SECONDS:
            self._looked = now
            lasts = (self._clicks.last(partition) for partition in self._clicks.partitions)
            self._has_ended = all(last and stream.kind_of(last) == stream.END for last in lasts)
        if self._total is None and self._has_ended:
            newest = self._snapshots.names(_DENSE)[-1:]
            if newest and newest[0] != self._tried:
                self._tried = newest[0]
                cursor = self._snapshots.cursor(self._tried)
                if stream.nothing_follows(self._clicks, self._schema, cursor):
                    self._total = cursor.count
        return self._total


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
        self.judgements: dict[int, Judgement] = {}
        """On candidates, by the number of their rebuild."""
        self._window_events = window_events
        self._tail: stream.LogFollower[Window | Judgement]
        windows = stream.MessageLog(reader, topics.WINDOWS)
        self._tail = windows.follow(Window, Judgement, skips_trimmed=True)

    def poll(self) -> None:
        """Read some of what is new."""
        for message in self._tail.poll():
            if isinstance(message, Judgement):
                self.judgements[message.rebuild] = message
            elif message.size == self._window_events and not message.partial:
                self.closed = message.end
                relative = message.interval(_SPARSE, "relative_ce")
                if relative is not None:
                    error = _standard_error(relative, message.size)
                    score = Score(message.begin, message.end, relative.mean, error)
                    self.scores.append(score)

    def forget(self, count: int) -> None:
        """Drop the windows that began before a swap."""
        self.scores = [score for score in self.scores if score.begin >= count]


def _standard_error(interval: Interval, events: int) -> float | None:
    """Return the standard error behind a 95 % interval, by Student's t with n − 1 degrees.

    >>> _standard_error(Interval(mean=0.0, low=-0.196, high=0.196), 1_000_000)
    0.1
    """
    if interval.high is None or events == 1:
        return None
    return (interval.high - interval.mean) / float(stdtrit(events - 1, 0.975))


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
        if learner.count_of(name) + snapshot_events <= history.decided
        and learner.count_of(name) != named
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

    def __init__(
        self, ledger: LogReader, snapshots: learner.SnapshotStore, window_events: int
    ) -> None:
        self.first: stream.ClickCursor | None = None
        self._ledger, self._snapshots = LedgerFollower(ledger), snapshots
        self._window_events = window_events
        self._first_name = ""

    def poll(self) -> stream.RestartPoint:
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
        return stream.RestartPoint(
            clicks=[cursor for cursor in begins if cursor is not None],
            # The window before shows where the judgement of an open rebuild can be at the earliest.
            windows_after=min(decided, history.swap_count) - self._window_events,
        )

    def _cursor(self, name: str) -> stream.ClickCursor | None:
        """Return the place of a snapshot; None where it has been deleted."""
        with contextlib.suppress(learner.SnapshotError):
            return self._snapshots.cursor(name)
        return None


def tidy_candidates(snapshots: learner.SnapshotStore, history: History) -> None:
    """Delete the candidates that are neither being made nor among the last versions."""
    kept = {one.snapshot for one in history.promoted}
    for folder in sorted(snapshots.folder.glob("candidate-*")):
        if history.open is not None and folder.name == history.open.candidate:
            continue
        for name in snapshots.names(folder.name):
            if name not in kept:
                snapshots.delete(name)
        snapshots.sweep(folder.name)
        with contextlib.suppress(OSError):
            folder.rmdir()


def tidy_checkpoints(folder: Path, history: History) -> None:
    """Delete the checkpoints of rebuilds that have ended."""
    mine = f"rebuild-{history.open.number:06d}" if history.open else ""
    for path in sorted(folder.glob("rebuild-*")):
        if path.name != mine:
            shutil.rmtree(path)


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
    snapshots: learner.SnapshotStore
    registry: ReconcilingRegistry
    folder: Path
    """Holds the checkpoints of the open rebuild, and nothing else."""
    versions: int = 3
    """How many versions of the sparse model are kept."""
    order: LogReader | None = None
    """As in :class:`learner.Ports`."""


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One ``step()`` of the prune worker: one decision, one batch or one verdict at most."""

    count: int
    """Events that the candidate has learned; without an open rebuild, the last window decided."""
    events: int = 0
    """Events learned in this step."""
    decided: Decision | None = None
    verdict: Verdict | None = None
    waiting_for: stream.Waiting | None = None
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
        build: Callable[[], learner.OnlineModel],
    ) -> None:
        self._ports, self._config, self._build = ports, config, build
        self._rules, self._spec = rules, rules.spec
        self._ledger = LedgerFollower(ports.ledger, ports.versions, rules.spec.window_events)
        self._windows = WindowFollower(ports.windows, rules.spec.window_events)
        self._requests = RequestFollower(ports.requests)
        self._end = InputEnd(ports.clicks, ports.snapshots, rules.spec.schema)
        self._rebuild: learner.StreamTrainer | None = None
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
        2. End the open rebuild, if a rollback has superseded it. How far its candidate had come by
           then is a matter of time, so its cost is counted as if it had kept pace with the windows.
        3. Decide on the next window, if it is closed, and take one request into the decision.
        4. Otherwise, learn one batch of the open rebuild, or end it.
        """
        if self._done:
            return self._report()
        self._ports.registry.reconcile()
        self._windows.poll()
        plan, back = self.history.open, self.history.superseded
        if plan is not None and back is not None:
            reason = f"superseded at {back.count}: {back.why_not}"
            return self._conclude(decisions.ended_early(plan, "rejected", reason, back.count))
        if (decision := self._decide()) is not None:
            return replace(self._report(), decided=decision)
        return self._work(self.history.open) if self.history.open else self._rest()

    def close(self) -> None:
        """Write a checkpoint of the open rebuild, so that nothing is learned twice."""
        if self._rebuild is not None:
            self._rebuild.close()

    def open_rebuild(self, plan: RebuildPlan) -> learner.StreamTrainer | None:
        """Continue with a rebuild, or begin it; None while the dense snapshot is not there.

        Its trainer learns the events after the snapshot under a prune phase, and publishes
        predictions over those on which the candidate is judged.

        Raises
        ------
        learner.SnapshotError
            Where the snapshot is damaged, or will never be there: dense has written a later one.
        """
        ports, spec, snapshots = self._ports, self._spec, self._ports.snapshots
        checkpoints = Checkpoints(ports.folder / f"rebuild-{plan.number:06d}")
        kept, dense = checkpoints.latest(), snapshots.find(_DENSE, plan.begin)
        later = [name for name in snapshots.names(_DENSE) if learner.count_of(name) > plan.begin]
        if kept is None and dense is None and later:
            raise learner.SnapshotError(
                f"rebuild {plan.number} begins at the dense snapshot of {plan.begin} events, which "
                f"is gone from {snapshots.folder}, and dense is past it ({later[-1]})"
            )
        if kept is not None:
            begin = learner.from_parts(kept.parts)
        elif dense is not None:
            begin = replace(snapshots.read(dense), version=self.history.version + 1)
        else:
            return None
        online = self._build()
        online.load(begin.tensors)
        rng = np.random.default_rng([spec.seed, plan.number])
        how = recipe(self._config, spec)
        updater: learner.MaskUpdater = FixedMask()
        if self._config.evidence == "candidate":
            updater = PrunePhase(how, layers_of(online), rng)
        elif kept is None:
            begin = pruned_by_evidence(begin, how, online, rng)
        trainer = learner.StreamTrainer(
            online,
            learner.Ports(
                plan.candidate, ports.clicks, ports.predictions, checkpoints, snapshots, ports.order
            ),
            spec,
            updater,
            options=learner.TrainerOptions(
                checkpoint_events=self._config.checkpoint_events,
                publish_from=plan.end - spec.judge_events,
                end=plan.end,
            ),
        )
        if kept is None:
            trainer.become(begin)
        return trainer

    def _decide(self) -> Decision | None:
        count = self._due
        if self._windows.closed < count or decisions.missing(self.history, count) is not None:
            return None
        request = next(iter(self._requests.open(self.history.answered)), None)
        pending = PendingRequest(request, self._invalid(request)) if request else None
        decision = decisions.decide(self.history, self._windows.scores, count, self._rules, pending)
        self._write(decision)
        snapshots = self._ports.snapshots
        for name in unused(snapshots.names(_DENSE), self.history, self._spec.snapshot_events):
            snapshots.delete(name)
        if decision.rebuild is not None:
            log.info("rebuild %d: %s", decision.rebuild.number, decision.rebuild.cause)
        if request and decision.declined is not None:
            log.warning("no %s (%s): %s", request.action, request.reason, decision.declined)
        elif request and decision.rollback is not None:
            log.info("%s: %s", decision.why_not, request.reason)
        return decision

    def _invalid(self, request: Request) -> str | None:
        """Return why a version cannot be gone back to though the ledger names it."""
        try:
            for version in self.history.promoted:
                if version.version == request.version:
                    self._ports.snapshots.read(version.snapshot)
        except learner.SnapshotError as error:
            return str(error)
        return None

    def _work(self, plan: RebuildPlan) -> PruneStep:
        """Take the open rebuild one batch further, or end it.

        One that cannot begin, since its dense snapshot is lost, has failed: the next one begins at
        another.

        Its verdict comes after the decisions on all windows through E and before those after it,
        however fast the evaluator is: so the ledger has one order.
        """
        if self._failed is None:
            try:
                return self._advance(plan)
            except (CriterionFailedError, learner.NonFiniteError, learner.SnapshotError) as error:
                count = self._rebuild.count if self._rebuild else plan.begin
                self._failed = decisions.ended_early(plan, "failed", str(error), count)
                self._rebuild = None
        total = self._end.total()
        through = plan.end if total is None else min(plan.end, total)
        return self._undecided(through) or self._conclude(self._failed)

    def _advance(self, plan: RebuildPlan) -> PruneStep:
        if self._rebuild is None:
            self._rebuild = self.open_rebuild(plan)
        rebuild = self._rebuild
        if rebuild is None:
            return self._wait(f"the dense snapshot at {plan.begin}", topics.SNAPSHOTS)
        if rebuild.count == plan.end:
            return self._undecided(plan.end) or self._judge(rebuild, plan)
        step = rebuild.step()
        if step.done:
            reason = f"the input ended after {step.count:,} events"
            verdict = decisions.ended_early(plan, "unfinished", reason, step.count)
            return self._undecided(step.count) or self._conclude(verdict)
        return replace(self._report(), events=step.events, waiting_for=step.waiting_for)

    def _judge(self, rebuild: learner.StreamTrainer, plan: RebuildPlan) -> PruneStep:
        """End a rebuild that has come to E, once the evaluator has judged it.

        A candidate takes over that is shown better, and the first in any case; where the judgement
        does not tell, ``pruner.inconclusive`` says what follows.

        1. Write the snapshot of a candidate that takes over, and put its mask into the store.
        2. Write the verdict: from then on it is in force.
        """
        judgement = self._windows.judgements.get(plan.number)
        if judgement is None and plan.reason != FIRST:
            return self._wait(f"the judgement of rebuild {plan.number}")
        promoted, reason = decisions.is_promoted(judgement, self._config.inconclusive)
        snapshot = rebuild.snapshot() if promoted else None
        masks = {name: rebuild.online.masks[name].cpu() for name in rebuild.online.prunable}
        if promoted:
            self._ports.registry.put(masks)
        verdict = Verdict(
            count=plan.end,
            rebuild=plan,
            verdict="promoted" if promoted else "rejected",
            reason=reason,
            version=rebuild.version if promoted else None,
            snapshot=snapshot,
            mask=content_hash(pack(masks)),
            sparsity=sparsity(masks),
            layers=describe(masks, self._masks_before()),
            judgement=judgement,
            cost_events=plan.end - plan.begin,
        )
        return self._conclude(verdict)

    def _masks_before(self) -> dict[str, Tensor] | None:
        """Return the masks of the last version; None without one, or where its snapshot is lost."""
        for version in self.history.promoted[-1:]:
            try:
                return learner.masks_of(self._ports.snapshots.read(version.snapshot))
            except learner.SnapshotError as error:
                log.warning("what a candidate shares with the last version is not known: %s", error)
        return None

    def _conclude(self, verdict: Verdict) -> PruneStep:
        self._write(verdict)
        log.info("rebuild %d %s: %s", verdict.rebuild.number, verdict.verdict, verdict.reason)
        self._rebuild = self._failed = None
        self._windows.forget(self.history.swap_count)
        self._tidy()
        return replace(self._report(), verdict=verdict)

    def _rest(self) -> PruneStep:
        """Wait for the next window; where none comes any more, log what came too late."""
        total, history = self._end.total(), self.history
        if total is None or not decisions.is_complete(history, total, self._spec.window_events):
            return self._wait(f"the window ending at {self._due}")
        self._done = True
        if history.swap_count > total:
            never = "version %d never took effect: the input ended after %s events, before %s"
            log.warning(never, history.version, f"{total:,}", f"{history.swap_count:,}")
        for request in self._requests.open(history.answered):
            undecided = "the %s asked for (%s) was not decided on: the input ended after %s events"
            log.warning(undecided, request.action, request.reason, f"{total:,}")
        return self._report()

    def _undecided(self, through: int) -> PruneStep | None:
        """Report that a window ending by ``through`` is still to be decided, None if none is."""
        return self._wait(f"the window ending at {self._due}") if self._due <= through else None

    @property
    def _due(self) -> int:
        """The end of the next window to decide on."""
        return self.history.decided + self._spec.window_events

    def _wait(self, what: str, log: str = topics.WINDOWS) -> PruneStep:
        return replace(self._report(), waiting_for=stream.Waiting(log, what))

    def _write(self, message: Decision | Verdict) -> None:
        """Write into the ledger what is decided, safely, and take note of it.

        After a loss of power no decision is there without what it rests on: that is safe before.
        """
        for read in (self._ports.windows, self._ports.requests):
            read.sync()
        self._ports.decisions.append([Record(dump(message))])
        self._ports.decisions.flush()
        self._ledger.poll()

    def _tidy(self) -> None:
        """Delete what only rebuilds that have ended needed."""
        tidy_candidates(self._ports.snapshots, self.history)
        tidy_checkpoints(self._ports.folder, self.history)
        self._ports.registry.keep(self.history.promoted)

    def _report(self) -> PruneStep:
        """Say how far it is, of a step that did nothing."""
        count = self._rebuild.count if self._rebuild else self.history.decided
        return PruneStep(count, done=self._done)
