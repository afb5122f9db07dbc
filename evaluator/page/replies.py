"""What the page's addresses answer, as models, so that each has a JSON Schema."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from evaluator.page.feed import Feed, State
from evaluator.page.history import PageHistory, columns_of
from evaluator.page.marks import Mark, marks
from evaluator.run.history import Band
from stream.messages import Lifetime, Progress, Verdict, Window

MOST_MARKS: Final = 1_000
"""Of what happened, as many of the last things are told of at once."""


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunReply(Reply):
    """All that a page begins with, but for its lines: ``/api/run``."""

    about: dict[str, str]
    identity: str
    """Of the log; another one is another run."""
    state: State
    """``live`` while this server runs with it; else ``finished`` where the log says that the input
    has ended and all is told of it, and ``stopped`` where it does not: stopped, or still under way
    elsewhere."""
    live: bool
    """Whether more may come from this server."""
    now_ms: int
    """Unix time, milliseconds."""
    offset: int
    """Of the newest record: the stream goes on behind it."""
    events: int
    """Through which count anything is known."""
    sizes: tuple[int, ...]
    """Of the windows that there are, in events."""
    models: tuple[str, ...]
    columns: tuple[str, ...]
    """What :class:`WindowsReply` can be asked for."""
    bands: list[Band]
    """True drift, where it is known."""
    marks: list[Mark]
    """What happened, the last things at most."""


class WindowsReply(Reply):
    """Figures of the whole windows of a size: ``/api/windows``."""

    size: int
    offset: int
    windows: int
    """How many there were before thinning."""
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
    """How fast the workers go: ``/api/workers``."""

    now_ms: int
    workers: list[WorkerReply]


REPLIES: Final = (RunReply, WindowsReply, ScoresReply, LayersReply, WorkersReply)
"""All of them."""


def run_reply(feed: Feed, now_ms: int) -> RunReply:
    """Sum a run up."""
    history = feed.history
    return RunReply(
        about=feed.about,
        identity=feed.identity,
        state=feed.state,
        live=feed.live,
        now_ms=now_ms,
        offset=history.offset,
        events=history.events,
        sizes=history.sizes,
        models=history.models,
        columns=columns_of(history.models),
        bands=history.bands,
        marks=marks(history)[-MOST_MARKS:],
    )


def scores_reply(history: PageHistory, size: int) -> ScoresReply:
    """Tell the newest scores."""
    table = history.tables.get(size)
    newest = sorted(history.lifetimes.items())
    return ScoresReply(
        window=table.newest if table else None, lifetimes=[lifetime for _, lifetime in newest]
    )


def layers_reply(history: PageHistory) -> LayersReply:
    """Gather sparsity and overlap, layer by layer, over the promoted rebuilds."""
    verdicts = [e.message for e in history.happened if isinstance(e.message, Verdict)]
    promoted = [verdict for verdict in verdicts if verdict.verdict == "promoted"]
    names = list(dict.fromkeys(name for verdict in promoted for name in verdict.layers))
    found = {name: [verdict.layers.get(name) for verdict in promoted] for name in names}
    return LayersReply(
        counts=[verdict.count for verdict in promoted],
        numbers=[verdict.rebuild.number for verdict in promoted],
        kept=[None if one.sparsity is None else 1 - one.sparsity for one in promoted],
        layers=[
            LayerHistory(
                name=name,
                sparsity=[None if one is None else one.sparsity for one in of],
                overlap=[None if one is None else one.overlap for one in of],
            )
            for name, of in found.items()
        ],
    )


def workers_reply(history: PageHistory, points: int, now_ms: int) -> WorkersReply:
    """Tell how fast the workers go, and how far they are behind."""
    lines = {name: pace.lines(points) for name, pace in history.workers.items()}
    return WorkersReply(
        now_ms=now_ms,
        workers=[
            WorkerReply(
                name=name,
                last=history.workers[name].last,
                time_ms=found.at,
                columns=found.columns,
            )
            for name, found in lines.items()
        ],
    )
