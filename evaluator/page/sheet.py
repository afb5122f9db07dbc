"""The newest scores as rows, for a table of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from evaluator.page.replies import ScoresReply
from stream.messages import Interval, ModelScore

Row = tuple[object, ...]

_FIGURE: Final = ("model", "figure", "value", "error", "low", "high")
SCORES_HEAD: Final = (*_FIGURE, "on", "begin", "end")
SEGMENTS_HEAD: Final = ("feature", "segment", *_FIGURE, "events", "click_rate", "begin", "end")
_ERROR: Final = "_error"
"""Ends the name of the bound of another figure."""
_PLAIN: Final = tuple(
    name for name in ModelScore.model_fields if name != "versions" and not name.endswith(_ERROR)
)


def score_rows(reply: ScoresReply) -> Iterator[Row]:
    """Yield every figure of the newest window, and of the events since each beginning so far."""
    told = [("window", reply.window)] if reply.window else []
    for on, scores in [*told, *(("lifetime", one) for one in reply.lifetimes)]:
        for row in _figures(scores.models, scores.relative_ce):
            yield (*row, on, scores.begin, scores.end)


def segment_rows(reply: ScoresReply) -> Iterator[Row]:
    """Yield every figure of every segment of the newest window."""
    window = reply.window
    if window is None:
        return
    for one in window.segments:
        beside = one.events, one.click_rate, window.begin, window.end
        for row in _figures(one.models, one.relative_ce):
            yield (one.feature, one.value, *row, *beside)


def _figures(
    models: Mapping[str, ModelScore | None], relative: Mapping[str, Interval | None]
) -> Iterator[Row]:
    """Yield the figures that are known, with the bound of the error or the interval of each."""
    for model, score in models.items():
        for name in _PLAIN if score else ():
            value = getattr(score, name)
            if value is not None:
                yield model, name, value, getattr(score, name + _ERROR, None), None, None
        interval = relative.get(model)
        if interval is not None:
            yield model, "relative_ce", interval.mean, None, interval.low, interval.high
