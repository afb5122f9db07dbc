"""What a page knows: a history that follows its log, and the replies that are made of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from evaluator.config import DETECTORS
from evaluator.metrics import Metric
from evaluator.run.history import EDGES, OF_EVENTS, PSI, RunHistory, WorkerRates, score_figures
from stream import MODELS, LogFollower, LoggedMessage, MessageLog, ModelSpec
from stream.log import LogError, LogReader, StoredRecord
from stream.messages import AnyMessage, Lifetime, Progress, Scores, Segment, Window, parse
from stream.topics import WINDOWS

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
"""Pause between two readings of the log."""
RECENT: Final = 1_000
"""Records that are kept as they are in the log, for those who follow."""
_RECORDS: Final = 256
"""Taken in at once; in between, viewers are answered."""
FeedState = Literal["live", "finished", "stopped"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record for those who follow; its offset is what a viewer goes on from."""

    offset: int
    kind: str
    value: bytes = field(repr=False)
    """As it is in the log."""


class PageFeed:
    """Follows a log, and wakes those who wait for more of it.

    Its methods are called in one event loop, except :meth:`attach` and :meth:`catch_up`. The log
    is read in a thread, for it may be far away.

    Parameters
    ----------
    reader
        Of the log ``windows``, its own; the feed closes it. None: one may be attached later.
    about
        What is shown of the run in words: name and value.
    live
        Whether the run ends no later than the feed is closed; else the log alone says whether it
        goes on.
    recent
        Records that are kept as they are in the log.
    models
        The models that there can be.

    Attributes
    ----------
    history
        What the log says of the run.
    offset
        Of the last record taken; -1 before the first.
    forgotten
        Of the last record that is not kept as it is any more.
    """

    def __init__(
        self,
        reader: LogReader | None = None,
        about: Mapping[str, str] = MappingProxyType({}),
        *,
        live: bool = True,
        recent: int = RECENT,
        models: Sequence[ModelSpec] = MODELS,
    ) -> None:
        self.about, self._is_of_run = dict(about), live
        self.history = RunHistory(models)
        self.offset = self.forgotten = -1
        self._recent: deque[Entry] = deque(maxlen=recent)
        self._tail = _follow(reader) if reader else None
        self._reading = asyncio.Lock()
        self._more = asyncio.Event()
        self._closed = False

    @property
    def identity(self) -> str:
        """Of the log; empty before there is one."""
        return self._tail.reader.identity if self._tail else ""

    @property
    def state(self) -> FeedState:
        """Whether the run goes on, has come to its end, or neither as far as is known.

        A run that another process may still write is ``stopped`` too: its log does not say.
        """
        if self._is_of_run and not self._closed:
            return "live"
        return "finished" if self.history.is_finished else "stopped"

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return not self._closed and self.state != "finished"

    def attach(self, reader: LogReader) -> None:
        """Follow a log from now on; called in any thread, and once."""
        self._tail = _follow(reader)

    def catch_up(self) -> None:
        """Take in all that is there, before anybody sees it."""
        while self._tail and (found := self._tail.poll_logged(_RECORDS)):
            for one in found:
                self.take(one)

    def take(self, one: LoggedMessage[AnyMessage]) -> None:
        """Take a message in."""
        self.offset = one.offset
        self.history.take(one.message, one.value)
        if len(self._recent) == self._recent.maxlen:
            self.forgotten = self._recent[0].offset
        self._recent.append(Entry(one.offset, one.message.kind, one.value))

    def recent(self, offset: int) -> list[Entry]:
        """Return the records after an offset that is not before ``forgotten``."""
        found = []
        for entry in reversed(self._recent):
            if entry.offset <= offset:
                break
            found.append(entry)
        return found[::-1]

    async def follow(self) -> None:
        """Take in what comes, until closed; a log that cannot be read is tried again."""
        readable = True
        while not self._closed:
            try:
                more = await self._take()
            except LogError as error:
                if readable:
                    log.warning("the page does not see what comes: %s", error)
                readable, more = False, False
            else:
                readable = True
            if not more:
                await asyncio.sleep(POLL_SECONDS)

    async def after(self, offset: int) -> AsyncIterator[Entry]:
        """Yield every record after an offset, and then each as it comes, until no more may."""
        while True:
            more, is_last = self._more, not self.live
            found = await self._entries(offset)
            for entry in found:
                offset = entry.offset
                yield entry
            if not found and is_last:
                return
            if not found:
                await more.wait()

    async def close(self) -> None:
        """Take in all that is left; whoever waits for more gets that, and is released."""
        try:
            # What cannot be read now, nobody waits for: the process that shows it ends.
            with suppress(LogError):
                while await self._take():
                    pass
        finally:
            self._closed = True
            self._wake()

    async def release(self) -> None:
        """Release the log, once nobody reads it."""
        async with self._reading:
            if self._tail:
                await asyncio.to_thread(self._tail.reader.close)

    async def _take(self) -> bool:
        if self._tail is None:
            return False
        async with self._reading:
            found = await asyncio.to_thread(self._tail.poll_logged, _RECORDS)
        for one in found:
            self.take(one)
        if found:
            self._wake()
        return bool(found)

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def _entries(self, offset: int) -> list[Entry]:
        """Return records after an offset; old ones are read again, some at a time."""
        while self._tail and offset < self.forgotten:
            async with self._reading:
                records = await asyncio.to_thread(self._read, self._tail.reader, offset + 1)
            found = [
                Entry(stored.offset, parse(stored.record.value).kind, stored.record.value)
                for stored in records
                if stored.offset not in self._tail.repeats
            ]
            if found or not records:
                return found
            offset = records[-1].offset
        return self.recent(offset)

    def _read(self, reader: LogReader, offset: int) -> list[StoredRecord]:
        """Read some of the records from an offset on, up to the last one taken in."""
        begin, end = max(offset, reader.begin(0)), self.offset
        return [one for one in reader.read(0, begin, _RECORDS) if one.offset <= end]


def _follow(reader: LogReader) -> LogFollower[AnyMessage]:
    return MessageLog(reader, WINDOWS).follow(skips_trimmed=True)


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PanelReply(Reply):
    """What is drawn over the count of events: a metric of every model, or columns of its own.

    What it has in common with a :class:`evaluator.metrics.Metric` is explained there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    name: str
    label: str
    title: str
    format: str
    view: Literal["main", "panel", "choice"]
    level: float | None = None
    band: float | None = None
    compares: bool = False
    of_models: bool = True
    """It has a line for each model, except for the root where it compares with that."""
    columns: dict[str, str] = {}
    """Further lines: column and label."""
    alarms: tuple[str, ...] = ()
    """The detectors whose alarms are marked."""
    lacking: str | None = None
    """Why there may be nothing to draw."""


class WindowsReply(Reply):
    """Figures of the whole windows of a size: ``/api/windows``."""

    size: int
    offset: int
    windows: int
    """How many there were before downsampling."""
    end: list[int]
    """The count at which each window that is shown ends."""
    columns: dict[str, list[float | None]]


class ScoresReply(Reply):
    """The newest scores in full: ``/api/scores``."""

    window: Window | None
    """The newest whole window of the size asked for."""
    lifetimes: list[Lifetime]
    """So far, by where they begin."""


class LayerHistory(Reply):
    """One pruned layer over the promoted rebuilds."""

    name: str
    sparsity: list[float | None]
    overlap: list[float | None]
    """Share of the kept weights that the mask before kept too; None for the first."""


class LayersReply(Reply):
    """What the masks of the promoted rebuilds look like: ``/api/layers``."""

    counts: list[int]
    """At which each took over."""
    numbers: list[int]
    """Of the rebuilds; 1 is the first mask."""
    kept: list[float | None]
    """Share of all prunable weights that each mask keeps."""
    layers: list[LayerHistory]


class WorkerReply(Reply):
    """One worker over the wall clock."""

    name: str
    last: Progress
    time_ms: list[int]
    columns: dict[str, list[float | None]]


class WorkersReply(Reply):
    """How fast the workers are: ``/api/workers``."""

    now_ms: int
    workers: list[WorkerReply]


_ALARMS: Final = {"ne": ("dense_loss",), "relative_ce": DETECTORS}
"""By metric, the detectors whose alarms are marked."""
_RATE: Final = PanelReply(
    name="click_rate",
    label="click rate",
    title="Click rate, observed",
    format=".4f",
    view="panel",
    of_models=False,
    columns={"click_rate": "click rate"},
    alarms=("click_rate",),
)
_PSI: Final = PanelReply(
    name=PSI,
    label="PSI",
    title="input: population stability index",
    format=".3f",
    view="choice",
    of_models=False,
    columns={PSI: "worst feature"},
    alarms=("input",),
    lacking="the input is compared over windows of one size only, the smallest unless "
    "evaluator.alarms says otherwise",
)


def panels(root: str, metrics: Sequence[Metric]) -> list[PanelReply]:
    """List all panels; ``root`` is what people call the root model."""
    made = []
    for metric in metrics:
        if metric.view != "data":
            names = {one: getattr(metric, one).format(root=root) for one in ("label", "title")}
            more = {"columns": {"bayes_ce": "true probability"}} if metric.name == "ce" else {}
            panel = PanelReply.model_validate(metric)
            alarms = _ALARMS.get(metric.name, ())
            made.append(panel.model_copy(update={**names, **more, "alarms": alarms}))
    return sorted((*made, _RATE, _PSI), key=lambda one: ("main", "panel", "choice").index(one.view))


def columns_of(models: Sequence[ModelSpec], metrics: Sequence[Metric]) -> list[str]:
    """Name every column that windows of some models can have, without errors and intervals.

    >>> from evaluator.metrics import METRICS
    >>> from stream.spec import MODELS
    >>> [name for name in columns_of(MODELS[:2], METRICS) if "ce" in name][:4]
    ['bayes_ce', 'dense.ce', 'dense.ece', 'sparse.ce']
    """
    own = [
        f"{model.name}.{metric.name}"
        for model in models
        for metric in metrics
        if not (metric.compares and model.role == "root")
    ]
    return [*OF_EVENTS, PSI, *own]


def scores_reply(history: RunHistory, size: int) -> ScoresReply:
    """Return the newest scores."""
    table = history.tables.get(size)
    newest = [lifetime for _, lifetime in sorted(history.lifetimes.items())]
    return ScoresReply(window=table.newest if table else None, lifetimes=newest)


def layers_reply(history: RunHistory) -> LayersReply:
    """Gather sparsity and overlap, layer by layer, over the promoted rebuilds."""
    promoted = [verdict for verdict in history.verdicts if verdict.verdict == "promoted"]
    names = list(dict.fromkeys(name for verdict in promoted for name in verdict.layers))
    found = {name: [verdict.layers.get(name) for verdict in promoted] for name in names}
    return LayersReply(
        counts=[verdict.count for verdict in promoted],
        numbers=[verdict.rebuild.number for verdict in promoted],
        kept=[None if one.sparsity is None else 1 - one.sparsity for one in promoted],
        layers=[
            LayerHistory(
                name=name,
                sparsity=[one.sparsity if one else None for one in layers],
                overlap=[one.overlap if one else None for one in layers],
            )
            for name, layers in found.items()
        ],
    )


def workers_reply(history: RunHistory, points: int, now_ms: int) -> WorkersReply:
    """Return how fast the workers are, and how large their lags are."""
    workers = []
    for name, rates in history.workers.items():
        lines = rates.lines(points)
        workers.append(
            WorkerReply(name=name, last=rates.last, time_ms=lines.at, columns=lines.columns)
        )
    return WorkersReply(now_ms=now_ms, workers=workers)


Row = tuple[object, ...]
Csv = tuple[Sequence[str], Iterable[Row]]
"""Head and rows of a table."""
_FIGURE: Final = ("model", "figure", "value", *EDGES)


def score_rows(reply: ScoresReply) -> Csv:
    """List every figure of the newest window, and of the events since each beginning so far."""
    windows = [("window", reply.window)] if reply.window else []
    rows = [
        (*row, on, scores.begin, scores.end)
        for on, scores in [*windows, *(("lifetime", one) for one in reply.lifetimes)]
        for row in _figure_rows(scores)
    ]
    return (*_FIGURE, "on", "begin", "end"), rows


def segment_rows(reply: ScoresReply) -> Csv:
    """List every figure of every segment of the newest window."""
    window = reply.window
    rows = [
        (one.feature, one.value, *row, one.events, one.click_rate, window.begin, window.end)
        for one in (window.segments if window else ())
        for row in _figure_rows(one)
        if window
    ]
    return ("feature", "segment", *_FIGURE, "events", "click_rate", "begin", "end"), rows


def _figure_rows(scores: Scores | Segment) -> Iterator[Row]:
    """Yield the figures that are known, with the bound of the error or the interval of each."""
    for model, score in scores.models.items():
        for metric, value, beside in score_figures(score) if score else ():
            yield model, metric, value, *(beside.get(edge) for edge in EDGES)


def layer_rows(reply: LayersReply) -> Csv:
    """List sparsity and overlap of every layer of every mask."""
    rows = [
        (count, reply.numbers[at], layer.name, layer.sparsity[at], layer.overlap[at])
        for at, count in enumerate(reply.counts)
        for layer in reply.layers
    ]
    return ("count", "rebuild", "layer", "sparsity", "overlap"), rows


def worker_rows(reply: WorkersReply) -> Csv:
    """List every report of every worker."""
    rows = [
        (worker.name, *row)
        for worker in reply.workers
        for row in zip(worker.time_ms, *worker.columns.values(), strict=True)
    ]
    return ("worker", "time_ms", *WorkerRates.COLUMNS), rows
