"""A finished run in a few figures: a pure function of its windows and its ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from evaluator.entropy import normalized_entropy
from evaluator.sums import EventSums
from resprout.settings import Settings
from stream.messages import Decision, Interval, Verdict, VerdictName, Window


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dense(_Figures):
    """How the dense model did."""

    ce: float
    """Cross entropy, nats per event."""
    ne: float | None
    """CE over the entropy of the click rate of the same events; None with too few of a kind."""


class Pruned(Dense):
    """How a pruned model did, beside the dense one on the same events."""

    relative_ce: float
    """CE / CE(dense) − 1."""


class Sparse(Pruned):
    """How the sparse model did."""

    sparsity: float | None
    """Share of weights removed, of its last version."""


class Half(_Figures):
    """All models on the second half of the events that all have predicted."""

    dense: Dense | None
    sparse: Sparse | None
    never_rebuilt: Pruned | None


class Rebuild(_Figures):
    """One rebuild, from its decision to its verdict."""

    number: int
    count: int
    """E: a promoted candidate takes over at the event after it."""
    decided: int
    """W: the end of the window that decided it."""
    snapshot: int
    """s: the count of the dense snapshot it was cut from."""
    reason: str
    """``first``, the name of the trigger, or ``request`` where a person asked for it."""
    cause: str
    verdict: VerdictName
    verdict_reason: str
    version: int | None
    sparsity: float | None
    difference: Interval | None
    """CE(candidate) − CE(incumbent), nats per event; None for the first mask."""
    cost_events: int
    """Events that the prune worker learned from or gathered evidence on."""


class RolledBack(_Figures):
    """One rollback."""

    count: int
    """The earlier version serves again from the event after it."""
    decided: int
    """W: the end of the window with which it was decided."""
    version: int
    to_version: int
    reason: str
    """In the words of whoever asked for it."""
    took_effect: bool
    """False where the input ended before ``count``."""


class Summary(_Figures):
    """What ``--json`` prints.

    ``dense``, ``sparse`` and ``never_rebuilt`` are scored on the same events: those after the
    first mask, or all of them where there was none.
    """

    events: int
    seconds: float
    """By the wall clock, of this process."""
    events_per_second: float
    """Events of this process over its seconds."""
    seed: int
    windows: int
    """Windows closed, of all sizes."""
    bayes_ce: float | None
    """CE of the true probabilities, where they are known."""
    dense: Dense | None
    sparse: Sparse | None
    never_rebuilt: Pruned | None
    last_half: Half
    rebuilds: tuple[Rebuild, ...]
    rollbacks: tuple[RolledBack, ...] = ()
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process did by the wall clock."""

    events: int
    seconds: float


def summarise(
    windows: Sequence[Window],
    ledger: Sequence[Decision | Verdict],
    cost: Cost,
    settings: Settings,
    dead_letters: int,
) -> Summary:
    """Put a run into figures."""
    enough = settings.evaluator.min_clicks
    rows, verdicts = finest(windows), [one for one in ledger if isinstance(one, Verdict)]
    events = max((w.end for w in rows), default=0)
    scored = common(rows, first_swap(verdicts))
    sparsity = _sparsity(ledger, events)
    whole = _half(scored, sparsity, enough)
    return Summary(
        events=events,
        seconds=cost.seconds,
        events_per_second=cost.events / cost.seconds if cost.seconds else 0.0,
        seed=settings.seed,
        windows=len(windows),
        bayes_ce=_bayes(scored),
        dense=whole.dense,
        sparse=whole.sparse,
        never_rebuilt=whole.never_rebuilt,
        last_half=_half(second_half(scored), sparsity, enough),
        rebuilds=tuple(_rebuild(verdict) for verdict in verdicts),
        rollbacks=tuple(_rolled_back(ledger, events)),
        dead_letters=dead_letters,
    )


def finest(windows: Iterable[Window]) -> list[Window]:
    """Return the windows of the smallest size, in order."""
    every = list(windows)
    size = min((window.size for window in every), default=0)
    return sorted((w for w in every if w.size == size), key=lambda window: window.begin)


def first_swap(verdicts: Iterable[Verdict]) -> int:
    """Return the E after which the sparse model lives; 0 where it never did."""
    return next((v.count for v in verdicts if v.verdict == "promoted"), 0)


def common(rows: Iterable[Window], start: int) -> list[Window]:
    """Return the windows that begin at or after ``start``: all models have predicted them."""
    return [window for window in rows if window.begin >= start]


def second_half(rows: Sequence[Window]) -> list[Window]:
    """Return the windows that begin in the second half of the events of ``rows``."""
    if not rows:
        return []
    return common(rows, (rows[0].begin + rows[-1].end + 1) // 2)


def _half(rows: Sequence[Window], sparsity: float | None, enough: int) -> Half:
    dense = _score(rows, "dense", enough)
    sparse = _beside(dense, _score(rows, "sparse", enough))
    never = _beside(dense, _score(rows, "never_rebuilt", enough))
    return Half(
        dense=dense,
        sparse=Sparse(**sparse.model_dump(), sparsity=sparsity) if sparse else None,
        never_rebuilt=never,
    )


def _beside(dense: Dense | None, score: Dense | None) -> Pruned | None:
    if score is None or dense is None:
        return None
    return Pruned(ce=score.ce, ne=score.ne, relative_ce=score.ce / dense.ce - 1)


def _score(rows: Sequence[Window], model: str, enough: int) -> Dense | None:
    """Score a model over windows; None where it did not predict all of them."""
    scores = [window.models.get(model) for window in rows]
    known = [score for score in scores if score is not None]
    if not rows or len(known) < len(rows):
        return None
    weight = sum(window.weight for window in rows)
    ce = sum(w.weight * s.ce for w, s in zip(rows, known, strict=True)) / weight
    ne = normalized_entropy(ce, sum(w.clicks for w in rows) / weight)
    has_both = any(one.ne is not None for one in known) or _events(rows).has_both(enough)
    return Dense(ce=ce, ne=ne if has_both else None)


def _events(rows: Sequence[Window]) -> EventSums:
    """Add windows up; where events differ in weight, the number clicked goes by the rate."""
    events = sum(w.end - w.begin for w in rows)
    weight, clicks = sum(w.weight for w in rows), sum(w.clicks for w in rows)
    return EventSums(events, round(events * clicks / weight), weight, clicks)


def _bayes(rows: Sequence[Window]) -> float | None:
    known = [(window.weight, window.bayes_ce) for window in rows if window.bayes_ce is not None]
    if not rows or len(known) < len(rows):
        return None
    return sum(weight * ce for weight, ce in known) / sum(weight for weight, _ in known)


def _sparsity(ledger: Iterable[Decision | Verdict], events: int) -> float | None:
    """Return the sparsity of the version in force after so many events; None without one."""
    found: dict[int | None, float | None] = {}
    in_force = None
    for one in ledger:
        if isinstance(one, Verdict) and one.verdict == "promoted":
            in_force = found[one.version] = one.sparsity
        elif isinstance(one, Decision) and one.rollback is not None:
            back = one.rollback
            found[back.version] = found.get(back.to_version)
            in_force = found[back.version] if back.effective <= events else in_force
    return in_force


def _rolled_back(ledger: Iterable[Decision | Verdict], events: int) -> Iterator[RolledBack]:
    for one in ledger:
        if isinstance(one, Decision) and one.rollback is not None:
            yield RolledBack(
                count=one.rollback.effective,
                decided=one.count,
                version=one.rollback.version,
                to_version=one.rollback.to_version,
                reason=one.request.reason if one.request else "",
                took_effect=one.rollback.effective <= events,
            )


def _rebuild(verdict: Verdict) -> Rebuild:
    plan, judgement = verdict.rebuild, verdict.judgement
    return Rebuild(
        number=plan.number,
        count=verdict.count,
        decided=plan.decided,
        snapshot=plan.snapshot,
        reason=plan.reason,
        cause=plan.cause,
        verdict=verdict.verdict,
        verdict_reason=verdict.reason,
        version=verdict.version,
        sparsity=verdict.sparsity,
        difference=judgement.difference if judgement else None,
        cost_events=verdict.cost_events,
    )
