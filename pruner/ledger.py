"""The ledger: what was decided, and the pure function that decides.

The ledger log is the authority. A worker holds nothing of it that it could not read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pruner.trigger import Fire, Score, Seen, Trigger
from stream.keyed import FirstWins, Tail
from stream.log import LogReader
from stream.messages import Decision, Message, RebuildPlan, Verdict, parse

FIRST = "first"
"""The reason of the rebuilds that make the first mask."""


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
    promoted: tuple[Verdict, ...] = ()
    """The last versions of the sparse model, oldest first."""
    versions: int = 3
    """How many of those are remembered."""

    @property
    def open(self) -> RebuildPlan | None:
        """The rebuild that waits for its verdict."""
        return self.plan if self.verdict is None else None

    @property
    def version(self) -> int:
        """The version of the sparse model after the last swap decided; 0 while there is none."""
        return self.promoted[-1].version or 0 if self.promoted else 0

    @property
    def swap(self) -> int:
        """The count of the last swap; 0 while there was none."""
        return self.promoted[-1].count if self.promoted else 0

    def after(self, message: Message) -> History:
        """Return the history with one more record; what is no decision and no verdict is passed."""
        if isinstance(message, Decision):
            return self._decided(message)
        if isinstance(message, Verdict):
            return self._ended(message)
        return self

    def _decided(self, decision: Decision) -> History:
        plan = decision.rebuild
        if plan is None:
            return replace(self, decided=decision.count)
        rebuilds = self.rebuilds + (plan.reason != FIRST)
        return replace(self, decided=decision.count, plan=plan, verdict=None, rebuilds=rebuilds)

    def _ended(self, verdict: Verdict) -> History:
        if verdict.verdict != "promoted":
            return replace(self, verdict=verdict)
        first_end = verdict.count if self.first_end is None else self.first_end
        promoted = (*self.promoted, verdict)[-self.versions :]
        return replace(self, verdict=verdict, first_end=first_end, promoted=promoted)


class LedgerTail:
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
        self._tail = Tail(reader)
        self._first = FirstWins()

    def poll(self) -> list[Decision | Verdict]:
        """Read everything that is new into :attr:`history`, and return it."""
        new: list[Decision | Verdict] = []
        while records := self._tail.poll():
            for stored in records:
                message = parse(stored.record.value)
                if not isinstance(message, Decision | Verdict):
                    continue
                if self._first.accept(message.key, stored.record.value):
                    self.history = self.history.after(message)
                    new.append(message)
        return new


@dataclass(frozen=True, slots=True)
class Rules:
    """What decisions depend on, beside windows and ledger."""

    trigger: Trigger
    window_events: int = 50_000
    first_mask_events: int = 1_000_000
    rebuild_events: int = 150_000
    snapshot_events: int = 50_000
    """The grid at which the dense model leaves snapshots."""


def missing(history: History, count: int) -> str | None:
    """Name what must be in the ledger before the window ending at ``count`` can be decided."""
    plan = history.open
    return f"the verdict on rebuild {plan.number}" if plan and plan.end < count else None


def decide(history: History, scores: Sequence[Score], count: int, rules: Rules) -> Decision:
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

    Returns
    -------
    The decision: a rebuild, or the reason why there is none.

    Examples
    --------
    >>> from pruner.trigger import Periodic
    >>> rules = Rules(Periodic(every_events=200), 50, 500, 150, 50)
    >>> decide(History(), [], 450, rules).why_not
    'maturing: the first mask is cut at 500'
    >>> plan = decide(History(), [], 500, rules).rebuild
    >>> plan.reason, plan.snapshot, plan.end, plan.candidate
    ('first', 500, 650, 'candidate-1')
    """
    if (needed := missing(history, count)) is not None:
        raise ValueError(f"the window ending at {count} cannot be decided without {needed}")
    if history.plan is not None and history.plan.end >= count:
        plan = history.plan
        return _none(count, f"rebuild {plan.number} is open until {plan.end}")
    if history.first_end is None:
        return _first(history, count, rules)
    since = tuple(score for score in scores if score.begin >= history.swap and score.end <= count)
    if not since or since[-1].end != count:
        return _none(count, f"the window began before the swap at {history.swap}")
    answer = rules.trigger.decide(_seen(history, since))
    if isinstance(answer, Fire):
        return _rebuild(history, count, rules, (rules.trigger.name, answer.cause))
    return _none(count, answer.why_not)


def _none(count: int, why_not: str) -> Decision:
    return Decision(count=count, why_not=why_not)


def _first(history: History, count: int, rules: Rules) -> Decision:
    if count < rules.first_mask_events:
        return _none(count, f"maturing: the first mask is cut at {rules.first_mask_events}")
    ended = history.verdict
    again = f"; rebuild {ended.rebuild.number} {ended.verdict}" if ended else ""
    cause = f"the dense model has matured over {count} events{again}"
    return _rebuild(history, count, rules, (FIRST, cause))


def _rebuild(history: History, count: int, rules: Rules, why: tuple[str, str]) -> Decision:
    plan = RebuildPlan(
        number=history.plan.number + 1 if history.plan else 1,
        reason=why[0],
        cause=why[1],
        snapshot=count // rules.snapshot_events * rules.snapshot_events,
        decided=count,
        end=count + rules.rebuild_events,
    )
    return Decision(count=count, rebuild=plan)


def _seen(history: History, since: tuple[Score, ...]) -> Seen:
    plan = history.plan
    return Seen(
        scores=since,
        first_end=history.first_end or 0,
        last_decided=plan.decided if plan else 0,
        last_end=plan.end if plan else 0,
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
