"""A run: workers that one process hosts, all of them from Python, and what came of it."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from torch import nn

from evaluator.run import RangeScores, RunHistory, place, warnings
from learner.export import Footprint, footprint
from pruner import LedgerFollower
from pruner.masks import sparsity as share_removed
from resprout.folder import RECORD, RunFolder
from resprout.monitoring.metrics import Metrics
from resprout.monitoring.page import Health, Page, pages, serve_health
from resprout.monitoring.progress import (
    AvailableEvents,
    InvalidLimit,
    ProgressLogs,
    Waits,
    Watch,
    name_writer,
)
from resprout.retention import retention
from resprout.runner import Observe, Runner, Worker, one_thread_each
from resprout.settings import DENSE, EVALUATOR, PRUNER, SOURCE, Settings, scaled
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import SourceStep, Wiring
from stream import END, FeatureSchema, Waiting, kind_of, messages, open_logs, topics
from stream.log import LogStore
from stream.sources import FileSource, Source

log = logging.getLogger(__name__)

_TO_FIRST_MASK = ("pruner.first_mask_events", "pruner.rebuild_events")
"""The events after which the first mask is in force, together."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSummary(_Record):
    """How a model did."""

    ce: float
    """Cross entropy, nats per event."""
    ne: float | None
    """CE over the entropy of the click rate of the same events; None with too few of a kind."""
    relative_ce: float | None = None
    """CE / CE(root) − 1 on the same events; None for the root."""
    sparsity: float | None = None
    """Share of weights removed, at the end; None for the root, and where it is not known."""


class RebuildSummary(_Record):
    """One rebuild, from its decision to its verdict."""

    number: int
    count: int
    """E: a promoted candidate takes over at the event after it."""
    decided: int
    """W: the end of the window that decided it."""
    begin: int
    """s: the count of the dense snapshot it was cut from."""
    reason: str
    """``first``, the name of the trigger, or ``request`` where a person asked for it."""
    cause: str
    verdict: messages.VerdictName
    verdict_reason: str
    version: int | None
    sparsity: float | None
    difference: messages.Interval | None
    """CE(candidate) − CE(incumbent), nats per event; None for the first mask."""
    cost_events: int
    """Events that the prune worker learned from or gathered evidence on."""

    @classmethod
    def of(cls, verdict: messages.Verdict) -> RebuildSummary:
        """Sum up a rebuild that ended."""
        plan, judgement = verdict.rebuild, verdict.judgement
        return cls(
            **plan.model_dump(include={"number", "decided", "begin", "reason", "cause"}),
            **verdict.model_dump(
                include={"count", "verdict", "version", "sparsity", "cost_events"}
            ),
            verdict_reason=verdict.reason,
            difference=judgement.difference if judgement else None,
        )


class RollbackSummary(_Record):
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


class GraftsSummary(_Record):
    """The changes of the served model's mask that were no rebuild."""

    number: int
    moved: float
    """Share of the kept weights that one replaced, on average."""
    last: int
    """The count of the last one."""


class Summary(_Record):
    """What ``--json`` prints: these fields, and those of :attr:`models` by their names.

    The models are scored on the same events: those after the first mask, or all of them where
    there was none.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, ModelSummary | None] = Field(init=False)

    events: int
    """Of the whole run, those of earlier calls too."""
    call_events: int
    """Of this call, which may have continued a run."""
    call_seconds: float
    """Of this call, by the wall clock."""
    events_per_second: float
    """``call_events`` over ``call_seconds``."""
    seed: int
    windows: int
    """Windows closed, of all sizes."""
    bayes_ce: float | None
    """CE of the true probabilities, where they are known."""
    last_half: dict[str, ModelSummary | None]
    """All models on the second half of the events that all have predicted."""
    rebuilds: tuple[RebuildSummary, ...]
    rollbacks: tuple[RollbackSummary, ...] = ()
    grafts: GraftsSummary | None = None
    """Left out where there was none."""
    dead_letters: int

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = write(self)
        if self.grafts is None:
            found.pop("grafts", None)
        return found

    @property
    def models(self) -> dict[str, ModelSummary | None]:
        """How each model did, by name; None for one that did not run."""
        return self.__pydantic_extra__

    @property
    def rebuild_counts(self) -> str:
        """How many rebuilds ended how, in words; the first mask, which replaces none, apart."""
        first = [one.verdict for one in self.rebuilds if one.reason == "first"]
        ended = [one.verdict for one in self.rebuilds if one.reason != "first"]
        counts = [f"{ended.count(verdict)} {verdict}" for verdict in dict.fromkeys(ended)]
        if self.rollbacks:
            counts.append(f"{len(self.rollbacks)} rolled back")
        return f"{', '.join(counts) or 'none'}, after the first mask" if first else "none"

    @property
    def graft_counts(self) -> str:
        """How many grafts there were, and how much one moves, in words."""
        if self.grafts is None:
            return "none"
        share = f"{self.grafts.moved:.1%} of the kept weights"
        return f"{self.grafts.number:,}, each moves {share} on average"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process did."""

    models: dict[str, nn.Module] = field(default_factory=dict)
    finished: bool = True
    events: int = 0
    """Of this process, and so are the seconds by the wall clock."""
    seconds: float = 0.0
    sparsity: Mapping[str, float] = field(default_factory=dict)
    """Of the models that have masks, by name: the share of the prunable weights that is removed."""


def summarise(history: RunHistory, settings: Settings, outcome: Outcome) -> Summary:
    """Put a run into figures."""
    whole, half = history.whole_and_last_half(settings.evaluator.min_clicks)
    served = in_force(history)
    sparsity, masked = served.sparsity if served else None, outcome.sparsity

    def models(scores: RangeScores | None) -> dict[str, ModelSummary | None]:
        """Sum up all models that there can be."""
        found: dict[str, ModelSummary | None] = {}
        for model in history.specs:
            known = scores.models.get(model.name) if scores else None
            more = {"sparsity": sparsity if model.role == "served" else masked.get(model.name)}
            found[model.name] = ModelSummary(**known | more) if known else None
        return found

    return Summary(
        events=history.events,
        call_events=outcome.events,
        call_seconds=outcome.seconds,
        events_per_second=outcome.events / outcome.seconds if outcome.seconds else 0.0,
        seed=settings.seed,
        windows=history.windows,
        bayes_ce=whole.bayes_ce if whole else None,
        last_half=models(half),
        rebuilds=tuple(map(RebuildSummary.of, history.verdicts)),
        rollbacks=tuple(
            RollbackSummary(
                count=one.rollback.count,
                decided=one.count,
                version=one.rollback.version,
                to_version=one.rollback.to_version,
                reason=one.request.reason if one.request else "",
                took_effect=one.rollback.count <= history.events,
            )
            for one in history.rollbacks
            if one.rollback is not None
        ),
        grafts=_grafts(history),
        dead_letters=sum(one.count for one in history.invalid.values()),
        **models(whole),
    )


def _grafts(history: RunHistory) -> GraftsSummary | None:
    found = history.grafts
    if found.last is None:
        return None
    return GraftsSummary(number=len(found), moved=found.mean(), last=found.last)


def in_force(history: RunHistory) -> messages.Verdict | None:
    """Return the verdict on the version that is in force at the end; None without one."""
    found: dict[int | None, messages.Verdict | None] = {}
    last = None
    for message, _ in history.happened:
        if isinstance(message, messages.Verdict) and message.verdict == "promoted":
            last = found[message.version] = message
        elif isinstance(message, messages.Decision) and message.rollback is not None:
            back = message.rollback
            found[back.version] = found.get(back.to_version)
            last = found[back.version] if back.count <= history.events else last
    return last


def footprint_in_force(
    history: RunHistory, module: nn.Module, schema: FeatureSchema
) -> Footprint | None:
    """Say what the sparse model in force takes; None without one. ``module`` is any of its kind."""
    verdict = in_force(history)
    if verdict is None:
        return None
    return footprint(module, schema, {name: one.kept for name, one in verdict.layers.items()})


class Result:
    """A run: what its logs say, and the models as they are now.

    Parameters
    ----------
    settings
        It was run with these.
    history
        What its logs say; with its messages, for the attributes that are lists of them.
    outcome
        What the process did.

    Attributes
    ----------
    models
        By name those that have begun to learn, comparisons too; pruned weights are zero.
    finished
        False if it was stopped before the end of its input.
    """

    def __init__(self, settings: Settings, history: RunHistory, outcome: Outcome) -> None:
        self.settings, self.history, self._outcome = settings, history, outcome
        self.models, self.finished = outcome.models, outcome.finished

    @property
    def windows(self) -> tuple[messages.Window, ...]:
        """Of all sizes, in the order in which they closed."""
        return self.history.of_kind(messages.Window)

    @property
    def judgements(self) -> tuple[messages.Judgement, ...]:
        """Candidates against incumbents."""
        return self.history.of_kind(messages.Judgement)

    @property
    def ledger(self) -> tuple[messages.Decision | messages.Verdict, ...]:
        """What was decided, in order."""
        kinds = messages.Decision | messages.Verdict
        return tuple(one for one in self.history.messages if isinstance(one, kinds))

    @property
    def verdicts(self) -> tuple[messages.Verdict, ...]:
        """How each rebuild ended."""
        return tuple(self.history.verdicts)

    @property
    def dead_letters(self) -> tuple[messages.DeadLetter, ...]:
        """Events that did not validate."""
        return self.history.of_kind(messages.DeadLetter)

    @cached_property
    def summary(self) -> Summary:
        """The run in a few figures."""
        return summarise(self.history, self.settings, self._outcome)

    @property
    def without_sparse(self) -> str | None:
        """Why a run that has come to its end has no sparse model, and the way to one.

        None where it has one, or has not ended.
        """
        history = self.history
        if history.start is not None or not self.finished:
            return None
        last = history.verdicts[-1] if history.verdicts else None
        if not history.events:
            return "no sparse model: no event was valid"
        if last is not None and last.verdict != "unfinished":
            return f"no sparse model: rebuild {last.rebuild.number} {last.verdict}: {last.reason}"
        small = scaled(history.events)
        needed = sum(small.get(name, 0) for name in _TO_FIRST_MASK)
        if needed >= history.events:
            return f"no sparse model: an input needs more than {needed:,} events for one"
        return (
            f"no sparse model: begin anew with --scale {history.events}, which derives all that is "
            f"counted in events (a first mask in force from {needed:,} on); or with "
            f"{' and '.join(_TO_FIRST_MASK)} that come to less than {history.events:,} "
            "together"
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the figures do not say: why there is no sparse model, and what was left out."""
        return tuple(_remarks(self.history, self.settings, finished=self.finished))


def _remarks(history: RunHistory, settings: Settings, *, finished: bool) -> Iterator[str]:
    last = history.verdicts[-1] if history.verdicts else None
    early = history.start is None and (last is None or last.verdict == "unfinished")
    if early and finished and (history.events or not history.invalid):
        cut = settings.pruner.first_mask_events
        swap = cut + settings.pruner.rebuild_events
        if last:
            cut, swap = last.rebuild.decided, last.rebuild.end
        yield (
            f"no sparse model: the input ended at {history.events:,} events, the first mask "
            f"{'was' if last else 'is'} cut at {cut:,} and takes over at {swap:,} "
            "(pruner.first_mask_events, pruner.rebuild_events)"
        )
    rebuilt = any(one.rebuild.reason != "first" for one in history.verdicts)
    if finished and history.start is not None and not rebuilt:
        earliest = earliest_rebuild(settings, history.start)
        if history.events < earliest:
            yield (
                f"no rebuild: the input ended at {history.events:,} events, and none can take over "
                f"before {earliest:,}"
            )
    yield from warnings(history, settings.evaluator.min_clicks)
    if history.invalid:
        first = next(iter(history.invalid.values())).first
        ranked = sorted(history.invalid.items(), key=lambda item: -item[1].count)
        count = sum(one.count for _, one in ranked)
        why = ", ".join(f"{one.count:,} {reason}" for reason, one in ranked)
        many = f"{count:,} dead letter{'s' if count > 1 else ''}"
        yield (
            f"{many if history.events else f'no event was valid: {many}'} ({why}), the first at "
            f"{place(first)}; kept in the log `{topics.DEAD_LETTERS}` of the state folder"
        )
    if history.tables and (begin := history.tables[min(history.tables)].begin):
        yield (
            f"windows of the first {begin:,} events are no longer kept: figures and "
            "pictures begin there (stream.retention.windows_events)"
        )


def earliest_rebuild(settings: Settings, swap: int | None = None) -> int:
    """Return the count before which no rebuild after the first mask can take over.

    It is decided at the end of a whole window after the first mask takes over, at ``swap``; the
    trigger ``divergence`` compares two of them, and waits for its cooldown.

    >>> earliest_rebuild(Settings())
    1300000
    """
    pruner, trigger = settings.pruner, settings.trigger
    if swap is None:
        swap = pruner.first_mask_events + pruner.rebuild_events
    window = trigger.window_events
    compares = trigger.name == "divergence"
    windows = -(-swap // window) + (2 if compares else 1)
    if compares:
        windows = max(windows, -(-(swap + trigger.cooldown_events) // window))
    return windows * window + pruner.rebuild_events


def check(plan: RunDefinition, folder: RunFolder) -> None:
    """Check, before anything is opened, that a plan can be carried out in a folder.

    Where a file is only replayed, its schema alone is compared: the settings are those of the
    processes that learn from it.
    """
    plan.check()
    folder.check(plan, "schema" if isinstance(plan.source, FileSource) else "")


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """Workers with everything that they need, ready to work."""

    workers: Sequence[Worker]
    observe: Watch
    wiring: Wiring
    logs: LogStore
    expendable: Collection[str]
    """Those that fail alone."""
    limit: InvalidLimit | None = None
    """Of invalid events, where the evaluator is among the workers."""

    def work(self, stop: threading.Event | None = None) -> Outcome:
        """Work until the input has ended, or ``stop`` is set.

        A stop comes after the batch: what was published is flushed, and every position is kept.

        Raises :class:`ValueError` where too many events are invalid, after such a stop.
        """
        started, stop = time.monotonic(), stop or threading.Event()
        if self.limit is not None:
            self.limit.stop = stop.set
        finished = Runner(self.workers, self.observe, stop, self.expendable).run()
        if self.limit is not None and self.limit.exceeded is not None:
            raise ValueError(self.limit.exceeded)
        seconds = time.monotonic() - started
        online = self.wiring.models
        models = {name: model.module for name, model in online.items()}
        masks = {name: model.masks for name, model in online.items() if model.masks}
        sparsity = {name: share_removed(of_model) for name, of_model in masks.items()}
        return Outcome(models, finished, self.observe.events, seconds, sparsity)


@contextmanager
def worker_process(
    plan: RunDefinition,
    state: Path,
    names: Sequence[str],
    observe: Observe | None = None,
    *,
    show: bool = True,
) -> Iterator[WorkerProcess]:
    """Open all that some workers of a run need, and let others see how they are.

    Several processes share a state folder, each with other workers: each worker fails alone, only
    without the dense model no other can continue. Where all workers are named, this process takes
    the whole folder, and the first fault ends all of them.

    Parameters
    ----------
    plan
        What the whole run is to do.
    state
        The state folder.
    names
        Of the workers.
    observe
        Sees every step of every worker, in that worker's thread.
    show
        Whether to answer where ``settings.serve`` says.

    Raises
    ------
    ValueError
        If the folder was begun otherwise, or the settings name something unknown.
    stream.state.StateLockedError
        If another process is one of these workers, or runs all workers in this folder.
    """
    folder, names = RunFolder(state), tuple(names)
    whole = names == plan.workers
    plan.check()
    plan.check_workers(names)
    with ExitStack() as opened:
        _take(plan, folder, () if whole else names, opened)
        wiring: Wiring | None = None
        health = Health(names, {"masks": lambda: wiring.away() if wiring else None})
        for name in names:
            health(name, SourceStep(0, waiting_for=Waiting("", "its logs and its checkpoint")))
        metrics = Metrics(plan.settings, names)
        page = _serve(plan, state, metrics, health, opened) if show else None
        # Lag monitors see one group of readers for each process.
        group = None if whole else "-".join(names)
        logs = opened.enter_context(open_logs(plan.settings.stream, folder.home.folder, group))
        if page is not None:
            page.show(logs)
            opened.callback(page.close)
        opened.enter_context(one_thread_each())
        wiring = opened.enter_context(closing(Wiring(plan, folder, logs, names)))
        if not whole:
            _follow(metrics, logs, wiring.begins, opened)
        progress = opened.enter_context(closing(ProgressLogs(logs, names, metrics.lag)))
        observers: list[Observe] = [health, metrics, progress]
        limit = _invalid_limit(plan, logs) if EVALUATOR in names else None
        if limit is not None:
            observers += [opened.enter_context(retention(plan, folder)), limit]
        observers += [observe] if observe else []
        # The other workers are other processes: each wait names the one to look at.
        tell = partial(name_writer, external_clicks=isinstance(plan.source, ExternalSource))
        yield WorkerProcess(
            [health.watched(metrics.timed(worker)) for worker in wiring.workers()],
            Watch(EVALUATOR, observers) if whole else Watch(names[0], [*observers, Waits()], tell),
            wiring,
            logs,
            () if whole or len(names) == 1 else {*names} - {DENSE},
            limit,
        )


def _invalid_limit(plan: RunDefinition, logs: LogStore) -> InvalidLimit:
    stream = plan.settings.stream
    return InvalidLimit(logs, stream.max_invalid_ratio, stream.batch_events)


def _take(plan: RunDefinition, folder: RunFolder, names: Sequence[str], opened: ExitStack) -> None:
    """Take what belongs to some workers, or the whole folder, and begin the run in it."""
    if not names:
        opened.enter_context(folder.lock(plan.settings.workers))
    for name in names:
        opened.enter_context(closing(folder.lock_worker(name)))
    if names and isinstance(plan.source, FileSource):
        folder.check(plan, "schema")
    else:
        folder.begin(plan)


def _serve(
    plan: RunDefinition, state: Path, metrics: Metrics, health: Health, opened: ExitStack
) -> Page | None:
    """Serve health and metrics of the workers; with the evaluator among them, the page as well."""
    serve, names, page = plan.settings.serve, metrics.workers, None
    if serve.port is None:
        return None
    if EVALUATOR in names:
        page = opened.enter_context(closing(Page(plan.settings, state, pages(metrics, health))))
        url = page.url.rstrip("/")
    else:
        server = serve_health(serve, metrics, health)
        url = opened.enter_context(closing(server)).url.rstrip("/")
    if names != plan.workers:
        log.info("%s answers at %s/healthz and %s/metrics", ", ".join(names), url, url)
    return page


def _follow(metrics: Metrics, logs: LogStore, begins: Mapping[int, int], opened: ExitStack) -> None:
    """Tell the metrics of a few workers what these themselves do not report."""
    for name in metrics.workers:
        if name != SOURCE:
            available = AvailableEvents(logs, name, begins)
            metrics.follow(name, opened.enter_context(closing(available)))
    if PRUNER in metrics.workers:
        with closing(logs.reader(topics.LEDGER)) as ledger:
            metrics.remember(LedgerFollower(ledger).poll())


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
        A folder from which a run that was stopped or killed continues, bit for bit. None: a
        temporary one, deleted at the end.
    observe
        Sees every step of every worker, in that worker's thread.
    init_from
        A safetensors state dict that the dense model begins with, or a snapshot of one.
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
    before = Outcome()
    if _continues(plan, state):
        # All workers come to the end that the clicks have, before anything continues them: what is
        # decided there does not depend on which of them had come to it when the run was stopped.
        ending = replace(plan, feeds=False)
        # What is said on the way in, and the page, come with the process that continues.
        with ExitStack() as opened:
            with _quiet():
                process = opened.enter_context(
                    worker_process(ending, state, ending.workers, observe, show=False)
                )
            before = process.work(stop)
    with worker_process(plan, state, plan.workers, observe, show=show) as process:
        outcome = process.work(stop)
        events, seconds = before.events + outcome.events, before.seconds + outcome.seconds
        history = RunHistory.read(process.logs, plan.settings.models, keeps_messages=True)
        return Result(plan.settings, history, replace(outcome, events=events, seconds=seconds))


def _continues(plan: RunDefinition, state: Path) -> bool:
    """Whether the source continues clicks that have ended."""
    continues = getattr(plan.source, "continues", None)
    stream, folder = plan.settings.stream, RunFolder(state)
    if continues is None or not (state / RECORD).exists():
        return False
    with open_logs(stream, folder.home.folder, writable=False) as logs:
        if not logs.exists(topics.CLICKS):
            return False
        with closing(plan.clicks_of(logs).reader(topics.CLICKS)) as clicks:
            last = clicks.last(clicks.partitions[0])
    if last is None or kind_of(last) != END:
        return False
    if continues(last):
        return True
    log.info("nothing new: the clicks end where they had ended already")
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back messages that the next process says again."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
