"""A finished run in a few figures: a pure function of its windows and its ledger."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from torch import nn

from evaluator.metrics.entropy import normalized_entropy
from evaluator.sums import EventSums
from resprout.folder import RunFolder
from resprout.monitoring.health import Health, pages
from resprout.monitoring.metrics import Known, Metrics
from resprout.monitoring.page import Page
from resprout.monitoring.progress import ProgressLogs, Watch
from resprout.runner import Observe, Runner, one_thread_each
from resprout.settings import EVALUATOR, Settings
from resprout.spec import RunDefinition
from resprout.wiring import Wiring
from stream import topics
from stream.config import open_logs
from stream.follow import MessageLog
from stream.log import LogStore
from stream.messages import (
    DeadLetter,
    Decision,
    Interval,
    Judgement,
    Verdict,
    VerdictName,
    Window,
)
from stream.sources import Source


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


@dataclass(frozen=True, slots=True)
class Records:
    """All that the logs say of a run, each record once."""

    windows: tuple[Window, ...]
    judgements: tuple[Judgement, ...]
    ledger: tuple[Decision | Verdict, ...]
    dead_letters: tuple[DeadLetter, ...]

    @classmethod
    def read(cls, home: LogStore) -> Records:
        """Read the logs of a home."""
        ledger: Iterator[Decision | Verdict]
        ledger = MessageLog(home, topics.LEDGER).read(Decision, Verdict)
        windows = list(MessageLog(home, topics.WINDOWS).read(Window, Judgement))
        return cls(
            tuple(one for one in windows if isinstance(one, Window)),
            tuple(one for one in windows if isinstance(one, Judgement)),
            tuple(ledger),
            tuple(MessageLog(home, topics.DEAD_LETTERS).read(DeadLetter)),
        )

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """How each rebuild ended."""
        return tuple(one for one in self.ledger if isinstance(one, Verdict))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process did."""

    models: dict[str, nn.Module]
    finished: bool
    cost: Cost


class Result:
    """A run: what its logs say, and the models as they stand.

    Attributes
    ----------
    settings
        It was run with these.
    windows
        Of all sizes, in the order in which they closed.
    judgements
        Candidates against incumbents.
    ledger
        What was decided, in order.
    verdicts
        How each rebuild ended.
    dead_letters
        Events that did not validate.
    models
        ``dense``, ``sparse`` once it has begun, ``never_rebuilt``; pruned weights are zero.
    finished
        False if it was stopped before the end of its input.
    """

    def __init__(self, settings: Settings, outcome: Outcome, records: Records) -> None:
        self.settings = settings
        self.windows = records.windows
        self.judgements = records.judgements
        self.ledger = records.ledger
        self.verdicts = records.verdicts
        self.dead_letters = records.dead_letters
        self.models = outcome.models
        self.finished = outcome.finished
        self._cost = outcome.cost

    @cached_property
    def summary(self) -> Summary:
        """The run in a few figures."""
        dead = len(self.dead_letters)
        return summarise(self.windows, self.ledger, self._cost, self.settings, dead)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the figures do not tell: why there is no sparse model, and what was left out."""
        events, told = self.summary.events, []
        if self.finished and (events or not self.dead_letters):
            told += _ended_early(events, self.verdicts, self.settings)
        if self.dead_letters:
            told.append(_left_out(self.dead_letters, events))
        return tuple(told)


def _ended_early(events: int, verdicts: Sequence[Verdict], settings: Settings) -> list[str]:
    """Say where the first mask would have been, if only the input was too short for it."""
    if first_swap(verdicts) or (verdicts and verdicts[-1].verdict != "unfinished"):
        return []
    if verdicts:
        cut, swap = verdicts[-1].rebuild.decided, verdicts[-1].rebuild.end
    else:
        cut = settings.pruner.first_mask_events
        swap = cut + settings.pruner.rebuild_events
    return [
        f"no sparse model: the input ended at {_spaced(events)} events, the first mask "
        f"{'was' if verdicts else 'is'} cut at {_spaced(cut)} and takes over at {_spaced(swap)} "
        "(pruner.first_mask_events, pruner.rebuild_events)"
    ]


def _left_out(letters: Sequence[DeadLetter], events: int) -> str:
    """Say how many events did not validate, why, and where to look."""
    count, first = len(letters), letters[0]
    reasons = Counter(letter.reason for letter in letters).most_common()
    why = ", ".join(f"{_spaced(number)} {reason}" for reason, number in reasons)
    where = f"partition {first.partition}, offset {first.offset}, row {first.row}"
    if first.file is not None and first.line is not None:
        where = f"{first.file}:{first.line}"
    many = f"{_spaced(count)} dead letter{'s' if count > 1 else ''}"
    return (
        f"{many if events else f'no event was valid: {many}'} ({why}), the first at {where}; "
        f"kept in the log `{topics.DEAD_LETTERS}` of the state folder"
    )


def _spaced(number: int) -> str:
    """Write a count in groups of three digits.

    >>> _spaced(1_100_000)
    '1 100 000'
    """
    return f"{number:,}".replace(",", " ")


def run(
    settings: Settings,
    source: Source,
    *,
    state: Path | str | None = None,
    observe: Observe | None = None,
    init_from: Path | None = None,
) -> Result:
    """Learn from a source to its end: dense, sparse, prune worker and evaluator, a thread each.

    Parameters
    ----------
    settings
        All that the run depends on, beside its clicks.
    source
        Where the clicks come from.
    state
        A folder from which a run that was stopped or killed goes on, bit for bit. None: a
        temporary one, deleted at the end.
    observe
        Sees every step of every worker, in that worker's thread.
    init_from
        A safetensors state dict that the dense model begins with.
    """
    plan = RunDefinition(settings, source, init_from)
    if state is not None:
        return execute(plan, Path(state), observe)
    with tempfile.TemporaryDirectory(prefix="resprout-") as folder:
        return execute(plan, Path(folder), observe)


def execute(
    plan: RunDefinition,
    state: Path,
    observe: Observe | None = None,
    stop: threading.Event | None = None,
    *,
    show: bool = False,
) -> Result:
    """Run a plan in a state folder until it is done or ``stop`` is set.

    With ``show`` the live page is served where ``settings.serve`` says.

    Raises :class:`ValueError` where the folder was begun otherwise or the settings name something
    unknown, and :class:`stream.state.StateLockedError` where somebody else uses the folder.
    """
    folder = RunFolder(state)
    plan.check()
    with ExitStack() as opened:
        opened.enter_context(folder.lock())
        folder.begin(plan)
        logs = opened.enter_context(open_logs(plan.settings.stream, folder.home.folder))
        wiring = opened.enter_context(closing(Wiring(plan, folder, logs)))
        workers = wiring.every()
        names = tuple(worker.name for worker in workers)
        metrics = Metrics(Known.of(plan.settings, names))
        health = Health(names, {"masks": wiring.away})
        progress = opened.enter_context(closing(ProgressLogs(logs, names, metrics.lag)))
        if show and plan.settings.serve.port is not None:
            shown = Page(plan.settings, state, pages(metrics, health))
            page = opened.enter_context(closing(shown))
            page.show(logs)
        looking_on: list[Observe] = [metrics, health, progress, *([observe] if observe else [])]
        watch = Watch(EVALUATOR, looking_on)
        started = time.monotonic()
        with one_thread_each():
            watched = [health.watched(metrics.timed(worker)) for worker in workers]
            finished = Runner(watched, watch, stop).run()
        cost = Cost(watch.events, time.monotonic() - started)
        models = {name: model.module for name, model in wiring.models.items()}
        outcome = Outcome(models, finished, cost)
        return Result(plan.settings, outcome, Records.read(logs))
