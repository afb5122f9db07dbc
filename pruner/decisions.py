"""The ledger: what was decided, and the pure function that decides.

The ledger log is the authority. A worker holds nothing of it that it could not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from learner.registry import Answer, Continue, NoModel, RollBackTo, Swap, Wait
from pruner.triggers import Fire, Score, Seen, Trigger
from stream.follow import LogFollower, MessageLog
from stream.log import LogReader
from stream.messages import Decision, Message, RebuildPlan, Request, Rollback, Verdict
from stream.spec import RunSpec, Waiting
from stream.topics import LEDGER

FIRST = "first"
"""The reason of the rebuilds that make the first mask."""
REQUEST = "request"
"""The reason of the rebuilds that a person asked for."""


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger says so far.

    Examples
    --------
    >>> plan = RebuildPlan(number=1, reason=FIRST, cause="", snapshot=500, decided=500, end=900)
    >>> history = History().after(Decision(count=500, rebuild=plan))
    >>> history.open.number, history.decided, history.version
    (1, 500, 0)
    """

    decided: int = 0
    """The end of the last window that was decided."""
    plan: RebuildPlan | None = None
    """The last rebuild that was decided."""
    verdict: Verdict | None = None
    """How that rebuild ended; None while it has not."""
    first_end: int | None = None
    """The end of the rebuild that made the first mask; None while there is no mask."""
    rebuilds: int = 0
    """Rebuilds decided, without those for the first mask."""
    promoted: tuple[Swap, ...] = ()
    """The last versions of the sparse model, oldest first; a rollback makes one too."""
    versions: int = 3
    """How many of those are remembered, and kept."""
    overruled: Decision | None = None
    """The rollback that ended the last rebuild before its E."""
    answered: frozenset[str] = frozenset()
    """The ids of the requests that decisions have answered."""

    @property
    def open(self) -> RebuildPlan | None:
        """The rebuild that waits for its verdict."""
        return self.plan if self.verdict is None else None

    @property
    def version(self) -> int:
        """The version of the sparse model after the last swap decided; 0 while there is none."""
        return self.promoted[-1].version if self.promoted else 0

    @property
    def swap(self) -> int:
        """The count of the last swap decided, which may be to come; 0 while there is none."""
        return self.promoted[-1].count if self.promoted else 0

    @property
    def busy(self) -> int:
        """The count through which the last rebuild keeps all others from beginning; 0 without."""
        if self.plan is None:
            return 0
        return self.overruled.count if self.overruled else self.plan.end

    def after(self, message: Message) -> History:
        """Return the history with one more record; what is no decision and no verdict is passed."""
        if isinstance(message, Decision):
            return self._decided(message)
        if isinstance(message, Verdict):
            return self._ended(message)
        return self

    def _decided(self, decision: Decision) -> History:
        known = replace(self, decided=decision.count)
        if decision.request is not None:
            known = replace(known, answered=self.answered | {decision.request.id})
        if decision.rollback is not None:
            overruled = decision if self.open else self.overruled
            known = replace(known, overruled=overruled)
            return known._with(swap_back(decision.rollback))
        plan = decision.rebuild
        if plan is None:
            return known
        rebuilds = self.rebuilds + (plan.reason != FIRST)
        return replace(known, plan=plan, verdict=None, overruled=None, rebuilds=rebuilds)

    def _ended(self, verdict: Verdict) -> History:
        known = replace(self, verdict=verdict)
        if verdict.verdict != "promoted":
            return known
        first_end = verdict.count if self.first_end is None else self.first_end
        return replace(known, first_end=first_end)._with(swap_of(verdict))

    def _with(self, swap: Swap) -> History:
        return replace(self, promoted=(*self.promoted, swap)[-self.versions :])


def swap_of(verdict: Verdict) -> Swap:
    """Say what a sparse model becomes by a promotion."""
    if verdict.version is None or verdict.snapshot is None:
        raise ValueError(f"rebuild {verdict.rebuild.number} was {verdict.verdict}: no swap")
    return Swap(verdict.version, verdict.snapshot, verdict.count, verdict.mask)


def swap_back(rollback: Rollback) -> Swap:
    """Say what a sparse model becomes by a rollback."""
    return Swap(rollback.version, rollback.snapshot, rollback.effective, rollback.mask)


class LedgerFollower:
    """Follows the ledger log.

    Parameters
    ----------
    reader
        The log.
    versions
        How many versions of the sparse model to remember.
    """

    def __init__(self, reader: LogReader, versions: int = 3) -> None:
        self.history = History(versions=versions)
        self._tail: LogFollower[Decision | Verdict]
        self._tail = MessageLog(reader, LEDGER).follow(Decision, Verdict)

    def poll(self) -> list[Decision | Verdict]:
        """Read everything that is new into :attr:`history`, and return it."""
        new: list[Decision | Verdict] = []
        while found := self._tail.poll():
            new += found
        for message in new:
            self.history = self.history.after(message)
        return new


@dataclass(frozen=True, slots=True)
class Rules:
    """What decisions depend on, beside windows and ledger."""

    spec: RunSpec
    """Its ``lead_events`` lie between the window that decides a rollback and where that takes
    effect."""
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is to be answered."""

    request: Request
    unfit: str | None = None
    """Why it cannot be granted whatever the ledger says; None where nothing is known against it."""


def missing(history: History, count: int) -> str | None:
    """Name what must be in the ledger before the window ending at ``count`` can be decided."""
    plan = history.open
    return f"the verdict on rebuild {plan.number}" if plan and history.busy < count else None


def decide(
    history: History,
    scores: Sequence[Score],
    count: int,
    rules: Rules,
    asked: PendingRequest | None = None,
) -> Decision:
    """Decide on the window that ends at ``count``: a pure function.

    Parameters
    ----------
    history
        All earlier decisions, and the verdicts on rebuilds that end before ``count``.
    scores
        The windows ending through ``count`` on which the sparse model was scored, oldest first.
    count
        W: the end of the window.
    rules
        The configuration.
    asked
        The request that this decision answers, granted or declined.

    Returns
    -------
    The decision: a rebuild, or the reason why there is none.

    Examples
    --------
    >>> from pruner.triggers import Periodic
    >>> rules = Rules(RunSpec.small(), Periodic(every_events=200))
    >>> decide(History(), [], 400, rules).why_not
    'maturing: the first mask is cut at 500'
    >>> plan = decide(History(), [], 500, rules).rebuild
    >>> plan.reason, plan.snapshot, plan.end, plan.candidate
    ('first', 500, 700, 'candidate-1')
    """
    if (needed := missing(history, count)) is not None:
        raise ValueError(f"the window ending at {count} cannot be decided without {needed}")
    if asked is None:
        return _unasked(history, scores, count, rules)
    request = asked.request
    declined = asked.unfit or declines(history, request, count, rules)
    if declined is not None:
        decision = _unasked(history, scores, count, rules)
    elif request.action == "rebuild":
        decision = _rebuild(history, count, rules, (REQUEST, f"asked for: {request.reason}"))
    else:
        decision = _back(history, count, rules, request)
    return decision.model_copy(update={"request": request, "declined": declined})


def declines(history: History, request: Request, count: int, rules: Rules) -> str | None:
    """Say why a request cannot be granted with the decision on ``count``; None where it can.

    >>> from pruner.triggers import Periodic
    >>> request = Request(id="7f", action="rollback", version=1, reason="clicks fell", time_ms=0)
    >>> declines(History(), request, 400, Rules(RunSpec.small(), Periodic(every_events=200)))
    'there is no version yet: the first mask is cut at 500'
    """
    if history.first_end is None:
        plan = history.plan if history.busy >= count else None
        first = f"cut at {max(count, rules.spec.first_mask_events):,}"
        first = f"made, and takes over at {plan.end:,}" if plan else first
        return f"there is no version yet: the first mask is {first}"
    if request.action == "rebuild":
        return _open(history, count)
    if request.version == history.version:
        return f"version {request.version} is in force already"
    kept = [swap.version for swap in history.promoted]
    if request.version in kept:
        return None
    return f"version {request.version} is not kept; kept are {', '.join(map(str, kept))}"


def _unasked(history: History, scores: Sequence[Score], count: int, rules: Rules) -> Decision:
    if why_not := _open(history, count):
        return _none(count, why_not)
    if history.first_end is None:
        return _first(history, count, rules)
    since = tuple(score for score in scores if score.begin >= history.swap and score.end <= count)
    if not since or since[-1].end != count:
        return _none(count, f"the window began before the swap at {history.swap}")
    answer = rules.trigger.decide(_seen(history, since))
    if isinstance(answer, Fire):
        return _rebuild(history, count, rules, (rules.trigger.name, answer.cause))
    return _none(count, answer.why_not)


def _open(history: History, count: int) -> str | None:
    plan = history.plan
    if plan is None or history.busy < count:
        return None
    return f"rebuild {plan.number} is open until {plan.end}"


def _back(history: History, count: int, rules: Rules, request: Request) -> Decision:
    old = next(swap for swap in history.promoted if swap.version == request.version)
    back = Rollback(
        to_version=old.version,
        version=history.version + 1,
        snapshot=old.snapshot,
        mask=old.mask,
        effective=count + rules.spec.lead_events,
    )
    why_not = f"back to version {old.version} as version {back.version} at {back.effective}"
    return Decision(count=count, why_not=why_not, rollback=back)


def _none(count: int, why_not: str) -> Decision:
    return Decision(count=count, why_not=why_not)


def _first(history: History, count: int, rules: Rules) -> Decision:
    if count < rules.spec.first_mask_events:
        return _none(count, f"maturing: the first mask is cut at {rules.spec.first_mask_events:,}")
    ended = history.verdict
    again = f"; rebuild {ended.rebuild.number} {ended.verdict}" if ended else ""
    cause = f"the dense model has matured over {count:,} events{again}"
    return _rebuild(history, count, rules, (FIRST, cause))


def _rebuild(history: History, count: int, rules: Rules, why: tuple[str, str]) -> Decision:
    plan = RebuildPlan(
        number=history.plan.number + 1 if history.plan else 1,
        reason=why[0],
        cause=why[1],
        snapshot=count // rules.spec.snapshot_events * rules.spec.snapshot_events,
        decided=count,
        end=count + rules.spec.rebuild_events,
    )
    return Decision(count=count, rebuild=plan)


def _seen(history: History, since: tuple[Score, ...]) -> Seen:
    plan = history.plan
    return Seen(
        scores=since,
        first_end=history.first_end or 0,
        last_decided=plan.decided if plan else 0,
        last_end=history.busy,
        rebuilds=history.rebuilds,
    )


def settled(history: History, total: int, window_events: int) -> bool:
    """Say whether nothing more will be decided on an input of ``total`` events.

    >>> settled(History(decided=1000), total=1070, window_events=50)
    False
    >>> settled(History(decided=1050), total=1070, window_events=50)
    True
    """
    return history.open is None and history.decided >= total // window_events * window_events


class LedgerMaskSource:
    """The regime of the sparse model: every promoted candidate takes over at its E.

    A rollback takes effect where its decision says, which no model passes before it.

    Parameters
    ----------
    ledger
        Its own reader of the ledger.
    spec
        Says how far the model may run ahead.
    total
        Returns the number of events of the whole input, None while that is not known.
    """

    def __init__(self, ledger: LogReader, spec: RunSpec, total: Callable[[], int | None]) -> None:
        self._tail = LedgerFollower(ledger)
        self._spec = spec
        self._total = total
        self._first: Swap | None = None
        self._changes: dict[int, Swap | RollBackTo] = {}

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        The ledger is read only where what is known of it would make the model wait: every rebuild
        that could end within the lead is decided already.
        """
        answer = self._known(count)
        if isinstance(answer, Wait):
            self._read()
            answer = self._known(count)
        return answer

    def swaps(self) -> tuple[Swap, ...]:
        """Return all versions that the ledger told of so far, oldest first."""
        known = [one.to if isinstance(one, RollBackTo) else one for one in self._changes.values()]
        return tuple(sorted(known, key=lambda swap: swap.version))

    def _read(self) -> None:
        for message in self._tail.poll():
            if isinstance(message, Verdict) and message.verdict == "promoted":
                swap = swap_of(message)
                self._first = self._first or swap
                self._changes[swap.count] = swap
            if isinstance(message, Decision) and message.rollback is not None:
                back = swap_back(message.rollback)
                self._changes[back.count] = RollBackTo(back)

    def _known(self, count: int | None) -> Answer:
        if count is None:
            return self._start()
        history, spec = self._tail.history, self._spec
        due = history.decided + spec.window_events
        if count >= due + spec.lead_events:
            return Wait(Waiting(LEDGER, f"the decision on the window ending at {due}"))
        if history.open is not None and history.open.end == count:
            return Wait(Waiting(LEDGER, f"the verdict on rebuild {history.open.number}"))
        return self._changes.get(count, Continue())

    def _start(self) -> Answer:
        if self._first is not None:
            return self._first
        total = self._total()
        if total is not None and settled(self._tail.history, total, self._spec.window_events):
            return NoModel()
        return Wait(Waiting(LEDGER, "the first mask"))


class FirstMaskSource:
    """The regime of the twin that keeps the first mask for ever.

    Parameters
    ----------
    regime
        The sparse model's, with a reader of its own; only its start is used.
    """

    def __init__(self, regime: LedgerMaskSource) -> None:
        self._regime = regime

    def at(self, count: int | None) -> Answer:
        """Answer with the first mask, and let the model go on with it."""
        return self._regime.at(None) if count is None else Continue()
