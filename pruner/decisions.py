"""What is decided, as pure functions of the windows and the ledger; and how the ledger is followed.

The ledger log is the authority. A worker holds nothing of it that it could not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from learner import Answer, Continue, ModelVersion, NoModel, RollBackTo, SwitchTo
from pruner.triggers import Fire, Score, Seen, Trigger
from stream import LogFollower, MessageLog, RunSpec, Waiting, check_decided
from stream.log import LogReader
from stream.messages import Decision, Judgement, Message, RebuildPlan, Request, Rollback, Verdict
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
    >>> plan = RebuildPlan(number=1, reason=FIRST, cause="", begin=500, decided=500, end=900)
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
    promoted: tuple[ModelVersion, ...] = ()
    """The last versions of the sparse model, oldest first; a rollback makes one too."""
    versions: int = 3
    """How many of those are remembered, and kept."""
    superseded: Decision | None = None
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
    def swap_count(self) -> int:
        """The count of the last swap decided, which may be to come; 0 while there is none."""
        return self.promoted[-1].count if self.promoted else 0

    @property
    def busy_until(self) -> int:
        """The count up to which the last rebuild keeps others from beginning; 0 without one."""
        if self.plan is None:
            return 0
        return self.superseded.count if self.superseded else self.plan.end

    def after(self, message: Message) -> History:
        """Return the history with one more record, which changes it if it is of the ledger."""
        if isinstance(message, Verdict):
            known = replace(self, verdict=message)
            if message.verdict != "promoted":
                return known
            return replace(known, first_end=self.first_end or message.count)._with(
                version_of(message)
            )
        if not isinstance(message, Decision):
            return self
        answered = {message.request.id} if message.request is not None else frozenset[str]()
        known = replace(self, decided=message.count, answered=self.answered | answered)
        if message.rollback is not None:
            superseded = message if self.open else self.superseded
            return replace(known, superseded=superseded)._with(version_after(message.rollback))
        plan = message.rebuild
        if plan is None:
            return known
        rebuilds = self.rebuilds + (plan.reason != FIRST)
        return replace(known, plan=plan, verdict=None, superseded=None, rebuilds=rebuilds)

    def _with(self, version: ModelVersion) -> History:
        return replace(self, promoted=(*self.promoted, version)[-self.versions :])


def version_of(verdict: Verdict) -> ModelVersion:
    """Return the version that a promotion makes of a candidate."""
    if verdict.version is None or verdict.snapshot is None:
        raise ValueError(f"rebuild {verdict.rebuild.number} was {verdict.verdict}: no swap")
    return ModelVersion(verdict.version, verdict.snapshot, verdict.count, verdict.mask)


def version_after(rollback: Rollback) -> ModelVersion:
    """Return the version that a rollback makes."""
    return ModelVersion(rollback.version, rollback.snapshot, rollback.count, rollback.mask)


def ended_early(
    plan: RebuildPlan, verdict: Literal["rejected", "failed", "unfinished"], reason: str, count: int
) -> Verdict:
    """End a rebuild without a candidate.

    Parameters
    ----------
    plan
        Of the rebuild.
    verdict, reason
        How and why it ends.
    count
        How far it came, for its cost.

    Examples
    --------
    >>> plan = RebuildPlan(number=2, reason="", cause="", begin=500, decided=500, end=900)
    >>> verdict = ended_early(plan, "failed", "no gradient", 700)
    >>> verdict.verdict, verdict.reason, verdict.count, verdict.cost_events
    ('failed', 'no gradient', 900, 200)
    """
    cost = count - plan.begin
    return Verdict(count=plan.end, rebuild=plan, verdict=verdict, reason=reason, cost_events=cost)


def is_promoted(
    judgement: Judgement | None, inconclusive: Literal["keep_incumbent", "lower_mean"]
) -> tuple[bool, str]:
    """Return whether a candidate takes over from the incumbent, and why in words.

    It is *shown better* where the whole 95 % interval of its CE against the incumbent's, paired by
    event, is below zero, and *shown worse* where it is above. Where it reaches across zero, or one
    event alone has no interval, the events do not tell which of both is better.

    Parameters
    ----------
    judgement
        None for the first mask, which takes over in any case.
    inconclusive
        What follows where it is not shown which one is better: ``pruner.inconclusive``.

    Examples
    --------
    >>> from stream.messages import Interval
    >>> interval = Interval(mean=-0.001, low=-0.003, high=0.001)
    >>> judgement = Judgement.model_construct(begin=500, end=600, relative=interval)
    >>> is_promoted(judgement, "keep_incumbent")
    (False, "not shown better, so the incumbent stays: CE -0.100 % against the incumbent's
        (95 %: -0.300 to +0.100 %) over events 501 to 600")
    >>> is_promoted(judgement, "lower_mean")[0]
    True
    """
    if judgement is None:
        return True, "the first mask, with no incumbent to be judged against"
    one, interval = judgement.relative, ""
    if one.low is not None and one.high is not None:
        interval = f" (95 %: {100 * one.low:+.3f} to {100 * one.high:+.3f} %)"
    if one.high is not None and one.high < 0:
        promoted, words = True, "shown better"
    elif one.low is not None and one.low > 0:
        promoted, words = False, "shown worse"
    elif inconclusive == "lower_mean" and one.mean < 0:
        promoted, words = True, "not shown better, promoted for its lower mean"
    else:
        promoted, words = False, "not shown better, so the incumbent stays"
    return promoted, (
        f"{words}: CE {100 * one.mean:+.3f} % against the incumbent's{interval} "
        f"over events {judgement.begin + 1:,} to {judgement.end:,}"
    )


class LedgerFollower:
    """Follows the ledger log.

    Parameters
    ----------
    reader
        The log.
    versions
        How many versions of the sparse model to remember.
    window_events
        Events a window: a ledger that lacks a decision is refused, as one whose head is lost. None:
        it is taken as it is.
    """

    def __init__(
        self, reader: LogReader, versions: int = 3, window_events: int | None = None
    ) -> None:
        self.history = History(versions=versions)
        self._window_events = window_events
        self._tail: LogFollower[Decision | Verdict]
        self._tail = MessageLog(reader, LEDGER).follow(Decision, Verdict)

    def poll(self) -> list[Decision | Verdict]:
        """Read everything that is new into :attr:`history`, and return it."""
        new = [one for found in iter(self._tail.poll, []) for one in found]
        for message in new:
            if isinstance(message, Decision) and self._window_events is not None:
                check_decided(message.count, self.history.decided, self._window_events)
            self.history = self.history.after(message)
        return new


@dataclass(frozen=True, slots=True)
class Rules:
    """What decisions depend on, beside windows and ledger."""

    spec: RunSpec
    """A rollback takes effect its ``lead_events`` after the window that decides it."""
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is to be answered."""

    request: Request
    invalid: str | None = None
    """Why it cannot be granted whatever the ledger says; None where nothing is known against it."""


def missing(history: History, count: int) -> str | None:
    """Return what must be in the ledger before the window ending at ``count`` can be decided."""
    plan = history.open
    return f"the verdict on rebuild {plan.number}" if plan and history.busy_until < count else None


def decide(
    history: History,
    scores: Sequence[Score],
    count: int,
    rules: Rules,
    pending: PendingRequest | None = None,
) -> Decision:
    """Decide on the window that ends at ``count``: a pure function.

    Parameters
    ----------
    history
        All earlier decisions, and the verdicts on rebuilds that end before ``count``.
    scores
        The windows ending at ``count`` or before on which the sparse model was scored, oldest
        first.
    count
        W: the end of the window.
    rules
        The configuration.
    pending
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
    >>> plan.reason, plan.begin, plan.end, plan.candidate
    ('first', 500, 700, 'candidate-1')
    """
    if (needed := missing(history, count)) is not None:
        raise ValueError(f"the window ending at {count} cannot be decided without {needed}")
    if pending is None:
        return _decide_alone(history, scores, count, rules)
    request = pending.request
    declined = pending.invalid or reason_to_decline(history, request, count, rules)
    if declined is not None:
        decision = _decide_alone(history, scores, count, rules)
    elif request.action == "rebuild":
        decision = _rebuild(history, count, rules, REQUEST, f"asked for: {request.reason}")
    else:
        old = next(one for one in history.promoted if one.version == request.version)
        back = Rollback(
            to_version=old.version,
            version=history.version + 1,
            snapshot=old.snapshot,
            mask=old.mask,
            count=count + rules.spec.lead_events,
        )
        why_not = f"back to version {old.version} as version {back.version} at {back.count}"
        decision = Decision(count=count, why_not=why_not, rollback=back)
    return decision.model_copy(update={"request": request, "declined": declined})


def reason_to_decline(history: History, request: Request, count: int, rules: Rules) -> str | None:
    """Return why a request cannot be granted with the decision on ``count``; None if it can.

    >>> from pruner.triggers import Periodic
    >>> request = Request(id="7f", action="rollback", version=1, reason="clicks fell", time_ms=0)
    >>> rules = Rules(RunSpec.small(), Periodic(every_events=200))
    >>> reason_to_decline(History(), request, 400, rules)
    'there is no version yet: the first mask is cut at 500'
    """
    if history.first_end is None:
        plan = history.plan if history.busy_until >= count else None
        first = f"cut at {max(count, rules.spec.first_mask_events):,}"
        first = f"made, and takes over at {plan.end:,}" if plan else first
        return f"there is no version yet: the first mask is {first}"
    if request.action == "rebuild":
        return _open_rebuild(history, count)
    if request.version == history.version:
        return f"version {request.version} is in force already"
    kept = [one.version for one in history.promoted]
    if request.version in kept:
        return None
    return f"version {request.version} is not kept; kept are {', '.join(map(str, kept))}"


def _decide_alone(history: History, scores: Sequence[Score], count: int, rules: Rules) -> Decision:
    """Decide without any request."""
    if why_not := _open_rebuild(history, count):
        return Decision(count=count, why_not=why_not)
    if history.first_end is None:
        first, ended = rules.spec.first_mask_events, history.verdict
        if count < first:
            return Decision(count=count, why_not=f"maturing: the first mask is cut at {first:,}")
        again = f"; rebuild {ended.rebuild.number} {ended.verdict}" if ended else ""
        cause = f"the dense model has matured over {count:,} events{again}"
        return _rebuild(history, count, rules, FIRST, cause)
    swap = history.swap_count
    since = tuple(score for score in scores if score.begin >= swap and score.end <= count)
    if not since or since[-1].end != count:
        return Decision(count=count, why_not=f"the window began before the swap at {swap}")
    seen = Seen(
        scores=since,
        first_end=history.first_end,
        last_decided=history.plan.decided if history.plan else 0,
        last_end=history.busy_until,
        rebuilds=history.rebuilds,
    )
    answer = rules.trigger.decide(seen)
    if isinstance(answer, Fire):
        return _rebuild(history, count, rules, rules.trigger.name, answer.cause)
    return Decision(count=count, why_not=answer.why_not)


def _open_rebuild(history: History, count: int) -> str | None:
    plan = history.plan if history.busy_until >= count else None
    return f"rebuild {plan.number} is open until {plan.end}" if plan else None


def _rebuild(history: History, count: int, rules: Rules, reason: str, cause: str) -> Decision:
    plan = RebuildPlan(
        number=history.plan.number + 1 if history.plan else 1,
        reason=reason,
        cause=cause,
        begin=count // rules.spec.snapshot_events * rules.spec.snapshot_events,
        decided=count,
        end=count + rules.spec.rebuild_events,
    )
    return Decision(count=count, rebuild=plan)


def is_complete(history: History, total: int, window_events: int) -> bool:
    """Return whether nothing more will be decided on an input of ``total`` events.

    >>> is_complete(History(decided=1000), total=1070, window_events=50)
    False
    >>> is_complete(History(decided=1050), total=1070, window_events=50)
    True
    """
    return history.open is None and history.decided >= total // window_events * window_events


class LedgerMaskSource:
    """The mask source of the served model: every promoted candidate takes over at its E.

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
        self._ledger = LedgerFollower(ledger, window_events=spec.window_events)
        self._spec = spec
        self._total = total
        self._changes: dict[int, SwitchTo | RollBackTo] = {}

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        The ledger is read only where what is known of it would make the model wait: every rebuild
        that could end within the lead is decided already.
        """
        answer = Waiting(LEDGER) if count is None else self._known(count)
        if isinstance(answer, Waiting):
            for message in self._ledger.poll():
                if isinstance(message, Verdict) and message.verdict == "promoted":
                    self._changes[message.count] = SwitchTo(version_of(message))
                if isinstance(message, Decision) and message.rollback is not None:
                    back = RollBackTo(version_after(message.rollback))
                    self._changes[back.to.count] = back
            answer = self._known(count)
        return answer

    def versions(self) -> tuple[ModelVersion, ...]:
        """Return all versions that the ledger has named so far, oldest first."""
        return tuple(sorted((one.to for one in self._changes.values()), key=lambda v: v.version))

    def _known(self, count: int | None) -> Answer:
        history, spec = self._ledger.history, self._spec
        if count is None:
            if self._changes:
                return next(iter(self._changes.values()))
            total = self._total()
            ended = total is not None and is_complete(history, total, spec.window_events)
            return NoModel() if ended else Waiting(LEDGER, "the first mask")
        due = history.decided + spec.window_events
        if count >= due + spec.lead_events:
            return Waiting(LEDGER, f"the decision on the window ending at {due}")
        if history.open is not None and history.open.end == count:
            return Waiting(LEDGER, f"the verdict on rebuild {history.open.number}")
        return self._changes.get(count, Continue())


class FirstMaskSource:
    """The mask source of comparisons: they begin as the first version, and never swap.

    Parameters
    ----------
    served
        The mask source of the served model, with a reader of its own; only its start is used.
    """

    def __init__(self, served: LedgerMaskSource) -> None:
        self._served = served

    def at(self, count: int | None) -> Answer:
        """Answer with the first version, and let the model continue from there."""
        return self._served.at(None) if count is None else Continue()
