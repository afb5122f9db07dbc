"""Where the input ends, for those who do not read all of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from learner.online import OnlineModel
from learner.snapshots import SnapshotError, SnapshotStore
from learner.trainer import NonFiniteError
from pruner import verdicts
from pruner.config import PrunerConfig
from pruner.decisions import (
    FIRST,
    History,
    LedgerFollower,
    PendingRequest,
    Rules,
    decide,
    missing,
    settled,
)
from pruner.masks.projection import Projection, masks_of
from pruner.pruning import CriterionFailedError
from pruner.rebuild import Rebuild, RebuildContext
from pruner.requests import RequestFollower
from pruner.triggers import Score
from stream.codec import END, kind_of
from stream.follow import LogFollower, MessageLog
from stream.log import LogReader, LogWriter, Record
from stream.messages import Decision, Judgement, RebuildPlan, Request, Verdict, Window, dump
from stream.reader import nothing_follows
from stream.schema import FeatureSchema
from stream.spec import Waiting
from stream.topics import SNAPSHOTS, WINDOWS

_DENSE = "dense"


class InputEnd:
    """Finds out how many events the input has, once the dense model has learned all of them.

    The dense model leaves a last snapshot where the input ends: behind its places there is nothing
    but the end records.

    Parameters
    ----------
    clicks
        The clicks log.
    snapshots
        Where dense leaves its snapshots.
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
        cursor = self._snapshots.read(snapshot).cursor
        return cursor.count if nothing_follows(self._clicks, self._schema, cursor) else None


_SPARSE = "sparse"


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
        self._tail = MessageLog(reader, WINDOWS).follow(Window, Judgement)

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
        relative = message.relative_ce.get(_SPARSE)
        if relative is not None:
            self.scores.append(Score(message.begin, message.end, relative.mean))


def stale(names: list[str], history: History, snapshot_events: int) -> list[str]:
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
    >>> [name[18:21] for name in stale(names, History(decided=350), snapshot_events=100)]
    ['100', '200']
    """
    named = history.open.snapshot if history.open else None
    counts = {name: int(name.partition("/")[2].partition("-")[0]) for name in names}
    return [
        name
        for name in names[:-1]
        if counts[name] + snapshot_events <= history.decided and counts[name] != named
    ]


def tidy_dense(snapshots: SnapshotStore, history: History, snapshot_events: int) -> None:
    """Delete the dense snapshots from which no rebuild can start."""
    for name in stale(snapshots.names(_DENSE), history, snapshot_events):
        snapshots.delete(name)


def tidy_candidates(snapshots: SnapshotStore, history: History) -> None:
    """Delete the candidates that are neither in the making nor among the last versions."""
    kept = {swap.snapshot for swap in history.promoted}
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


log = logging.getLogger(__name__)

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
    masks: Projection
    folder: Path
    """Holds the checkpoints of the open rebuild, and nothing else."""
    versions: int = 3
    """How many versions of the sparse model are kept."""
    order: LogReader | None = None
    """As in :class:`learner.trainer.Ports`."""


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
        self._shop = RebuildContext(
            config=config,
            spec=rules.spec,
            build=build,
            clicks=ports.clicks,
            predictions=ports.predictions,
            snapshots=ports.snapshots,
            folder=ports.folder,
            order=ports.order,
        )
        self._ledger = LedgerFollower(ports.ledger, ports.versions)
        self._board = WindowFollower(ports.windows, rules.spec.window_events)
        self._requests = RequestFollower(ports.requests)
        self._end = InputEnd(ports.clicks, ports.snapshots, rules.spec.schema)
        self._rebuild: Rebuild | None = None
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
        2. End the open rebuild, if a rollback has overruled it.
        3. Decide on the next window, if it is closed, and take one request into the decision.
        4. Otherwise, learn one batch of the open rebuild, or end it.
        """
        if self._done:
            return self._report()
        self._ports.masks.tend()
        self._board.poll()
        history = self.history
        if history.open is not None and history.overruled is not None:
            return self._conclude(verdicts.overruled(history.open, history.overruled))
        decision = self._decide()
        if decision is not None:
            return self._report(decided=decision)
        if self.history.open is not None:
            return self._work(self.history.open)
        return self._rest()

    def close(self) -> None:
        """Checkpoint the open rebuild where it stands, so that nothing is learned twice."""
        if self._rebuild is not None:
            self._rebuild.checkpoint()

    def _decide(self) -> Decision | None:
        count = self.history.decided + self._spec.window_events
        if self._board.closed < count or missing(self.history, count) is not None:
            return None
        request = self._requests.next(self.history.answered)
        asked = PendingRequest(request, self._unfit(request)) if request is not None else None
        decision = decide(self.history, self._board.scores, count, self._rules, asked)
        self._write(decision)
        tidy_dense(self._ports.snapshots, self.history, self._spec.snapshot_events)
        _tell(decision)
        return decision

    def _unfit(self, request: Request) -> str | None:
        """Say why a version cannot be gone back to though the ledger names it."""
        named = (one for one in self.history.promoted if one.version == request.version)
        try:
            for swap in named:
                self._ports.snapshots.read(swap.snapshot)
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
                count = self._rebuild.count if self._rebuild else plan.snapshot
                self._failed = verdicts.failed(plan, count, error)
                self._rebuild = None
        total = self._end.total()
        through = plan.end if total is None else min(plan.end, total)
        return self._undecided(through) or self._conclude(self._failed)

    def _advance(self, plan: RebuildPlan) -> PruneStep:
        if self._rebuild is None:
            self._rebuild = Rebuild.open(plan, self.history.version + 1, self._shop)
        rebuild = self._rebuild
        if rebuild is None:
            return self._report(
                waiting_for=Waiting(SNAPSHOTS, f"the dense snapshot at {plan.snapshot}")
            )
        if rebuild.done:
            return self._judge(rebuild)
        events = rebuild.step()
        if not events and rebuild.ended:
            undecided = self._undecided(rebuild.count)
            return undecided or self._conclude(verdicts.unfinished(plan, rebuild.count))
        return self._report(events=events, waiting_for=None if events else rebuild.waits_for)

    def _judge(self, rebuild: Rebuild) -> PruneStep:
        """End a rebuild that has come to E, once the evaluator has judged it.

        1. Leave the snapshot of a candidate that takes over, and put its mask into the store.
        2. Write the verdict: from then on it is in force.
        """
        plan = rebuild.plan
        if undecided := self._undecided(plan.end):
            return undecided
        judgement = self._board.judgement(plan.number)
        if judgement is None and plan.reason != FIRST:
            return self._report(
                waiting_for=Waiting(WINDOWS, f"the judgement of rebuild {plan.number}")
            )
        snapshot = rebuild.snapshot() if verdicts.promotes(judgement) else None
        if snapshot is not None:
            self._ports.masks.put(rebuild.masks)
        candidate = verdicts.Candidate(
            plan, rebuild.version, snapshot, rebuild.masks, self._masks_in_force()
        )
        return self._conclude(verdicts.judged(candidate, judgement))

    def _conclude(self, verdict: Verdict) -> PruneStep:
        self._write(verdict)
        log.info("rebuild %d %s: %s", verdict.rebuild.number, verdict.verdict, verdict.reason)
        self._rebuild = self._failed = None
        self._board.forget(self.history.swap)
        self._tidy()
        return self._report(verdict=verdict)

    def _rest(self) -> PruneStep:
        total = self._end.total()
        if total is not None and settled(self.history, total, self._spec.window_events):
            self._done = True
            self._tell_what_came_too_late(total)
            return self._report()
        return self._report(waiting_for=self._next_window)

    def _tell_what_came_too_late(self, total: int) -> None:
        """Say which swap and which requests the end of the input has left behind."""
        if self.history.swap > total:
            log.warning(
                "version %d never took effect: the input ended after %d events, before %d",
                self.history.version,
                total,
                self.history.swap,
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
        self._ports.masks.keep(self.history.promoted)

    def _report(
        self,
        events: int = 0,
        decided: Decision | None = None,
        verdict: Verdict | None = None,
        waiting_for: Waiting | None = None,
    ) -> PruneStep:
        count = self._rebuild.count if self._rebuild else self.history.decided
        return PruneStep(count, events, decided, verdict, waiting_for, self._done)


def _tell(decision: Decision) -> None:
    """Log what was begun, and how a request was answered."""
    if decision.rebuild is not None:
        log.info("rebuild %d: %s", decision.rebuild.number, decision.rebuild.cause)
    request = decision.request
    if request is None:
        return
    if decision.declined is not None:
        log.warning("no %s (%s): %s", request.action, request.reason, decision.declined)
    elif decision.rollback is not None:
        log.info("%s: %s", decision.why_not, request.reason)
