"""What a person at a terminal sees: the progress line and the closing table."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from evaluator import EvaluatorStep
from evaluator.run import RunTables
from pruner import PruneStep
from resprout.run import Result
from resprout.runner import Step
from resprout.settings import Loaded, flat
from stream import find_model
from stream.messages import Verdict, Window

TERMINAL_SECONDS = 0.5
"""Pause between two states of the progress line on a terminal."""
PLAIN_SECONDS = 10.0
"""Pause between two lines of progress elsewhere."""
HINT_SECONDS = 2.0
"""How long the sparse learner must have waited before the line says so."""


_REASONS = 3
"""Reasons of invalid events that the line names, the commonest."""


@dataclass
class View:
    """All that a progress line is made of."""

    counts: dict[str, int] = field(default_factory=dict)
    """How far each worker has come, by name."""
    window_events: int | None = None
    """Size of the windows whose scores are shown; None: the smallest."""
    window: Window | None = None
    """The last whole window of that size."""
    verdict: Verdict | None = None
    """The last candidate promoted."""
    rebuilds: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    """Dead letters that this process wrote, by reason."""
    waiting: tuple[str, float] | None = None
    """What the sparse learner waits for, and since when by the clock."""

    def update(self, name: str, step: Step, now: float) -> None:
        """Take in one step of one worker."""
        self.counts[name] = step.count
        if isinstance(step, EvaluatorStep):
            self.invalid.update(letter.reason for letter in step.dead_letters)
            for window in step.windows:
                # Larger windows lag behind, and would mix old figures with new.
                smallest = (self.window or window).size
                size = self.window_events or min(smallest, window.size)
                if window.size == size and not window.partial:
                    self.window = window
        if isinstance(step, PruneStep) and step.verdict and step.verdict.verdict == "promoted":
            self.verdict = step.verdict
            self.rebuilds += step.verdict.rebuild.reason != "first"
        if name == "sparse":
            if step.waiting_for is None or step.events:
                self.waiting = None
            elif self.waiting is None or self.waiting[0] != str(step.waiting_for):
                self.waiting = (str(step.waiting_for), now)


def line(view: View, rate: float, now: float) -> str:
    """Write the progress line.

    Parameters
    ----------
    view
        What is known.
    rate
        Events a second.
    now
        The clock by which ``view.waiting`` was noted.

    Examples
    --------
    >>> view = View(counts={"source": 1_240_000, "dense": 1_230_000, "evaluator": 1_200_000})
    >>> line(view, rate=41_300, now=0)
    '1.20M events  41k/s  lag 40k'
    """
    count = view.counts.get("evaluator", 0)
    lag = max(view.counts.get("source", count) - count, 0)
    parts = [f"{_short(count)} events", f"{_short(rate)}/s", f"lag {_short(lag)}"]
    parts += _scores(view.window) if view.window else ()
    if view.verdict is not None and view.verdict.sparsity is not None:
        parts += [f"sparsity {view.verdict.sparsity:.0%}", f"rebuilds {view.rebuilds}"]
    if view.invalid:
        known = view.invalid.most_common(_REASONS)
        others = view.invalid.total() - sum(many for _, many in known)
        why = ", ".join(f"{many:,} {reason}" for reason, many in known)
        why += f" and {others:,} other{'s' if others > 1 else ''}" if others else ""
        parts.append(f"invalid {_short(view.invalid.total())} ({why})")
    if view.waiting is not None and now - view.waiting[1] >= HINT_SECONDS:
        parts.append(f"sparse waits for {view.waiting[0]}")
    return "  ".join(parts)


def _scores(window: Window) -> Iterator[str]:
    """Yield NE of every model of a window, relative CE beside it."""
    before = "NE "
    for name in window.models:
        entropy, relative = window.metric(name, "ne"), window.metric(name, "relative_ce")
        if entropy is not None:
            beside = f" ({relative:+.1%})" if relative is not None else ""
            yield f"{before}{find_model(name).label} {entropy:.3f}{beside}"
            before = ""


def _short(number: float) -> str:
    """Write a count in three digits or so.

    >>> _short(950), _short(41_300), _short(1_204_000)
    ('950', '41k', '1.20M')
    """
    for unit, name, digits in ((1e6, "M", 2), (1e3, "k", 0)):
        if number >= unit:
            return f"{number / unit:.{digits}f}{name}"
    return f"{number:.0f}"


class ProgressLine(logging.Handler):
    """Prints how a run goes: one line rewritten on a terminal, plain lines elsewhere.

    It is called from the threads of all workers, and prints log messages above the line.

    Parameters
    ----------
    out
        Where to print; standard error.
    clock
        Seconds that never go back.
    window_events
        Size of the windows whose scores are shown; None shows the smallest.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        window_events: int | None = None,
    ) -> None:
        super().__init__(logging.INFO)
        self._out = out or sys.stderr
        self._clock = clock
        terminal = self._out.isatty()
        self._every = TERMINAL_SECONDS if terminal else PLAIN_SECONDS
        self._clear, self._end = ("\r\x1b[K", "") if terminal else ("", "\n")
        self._lock = threading.Lock()
        self._view = View(window_events=window_events)
        self._printed = (clock(), 0)

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step, and print if it is time."""
        now = self._clock()
        with self._lock:
            if name == "evaluator" and name not in self._view.counts:
                self._printed = (self._printed[0], step.count - step.events)
            self._view.update(name, step, now)
            then, before = self._printed
            if now - then >= self._every:
                count = self._view.counts.get("evaluator", 0)
                text = line(self._view, max(count - before, 0) / (now - then), now)
                self._write(f"{text}{self._end}")
                self._printed = (now, count)

    def message(self, text: str) -> None:
        """Print a line of its own, above the progress line."""
        with self._lock:
            self._write(f"{text}\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Print one log message."""
        self.message(self.format(record))

    def finish(self) -> None:
        """Take the progress line away."""
        with self._lock:
            self._write("")

    def _write(self, text: str) -> None:
        self._out.write(f"{self._clear}{text}")
        self._out.flush()


def closing_table(result: Result) -> str:
    """Write the closing table: all models on the same events, the rebuilds, and remarks."""
    results = RunTables.of(result.history).results(result.settings.evaluator.min_clicks)
    # Of the last half the cross entropy would say little beside the rest.
    shown = results.select([0, 1, 2, 3, 5, 6])
    rows = [("", *shown.header[1:5], shown.header[3]), *shown.rows]
    lines = [*aligned(rows, str.rjust), ""]
    for rebuild in result.summary.rebuilds:
        name = "first mask" if rebuild.reason == "first" else f"rebuild {rebuild.number}"
        lines.append(
            f"{name} decided at {rebuild.decided:,}, {rebuild.verdict} at {rebuild.count:,}: "
            f"{rebuild.verdict_reason}"
        )
    if len(result.summary.rebuilds) > 1:
        lines.append(f"rebuilds: {result.summary.rebuild_counts}")
    if result.summary.grafts:
        lines.append(f"grafts: {result.summary.graft_counts}")
    for back in result.summary.rollbacks:
        at = "at" if back.took_effect else "never: the input ended before"
        lines.append(
            f"back to version {back.to_version} as version {back.version} decided at "
            f"{back.decided:,}, in force {at} {back.count:,}: {back.reason}"
        )
    return "\n".join([*lines, *result.remarks]).rstrip()


def aligned(
    rows: Sequence[Sequence[str]], justify: Callable[[str, int], str] = str.ljust
) -> Iterator[str]:
    """Put cells under each other; all but the first of a row as ``justify`` does.

    >>> list(aligned([("layer", "kept"), ("bottom.0", "12")]))
    ['layer     kept', 'bottom.0  12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        others = map(justify, cells, widths[1:])
        yield "  ".join((first.ljust(widths[0]), *others)).rstrip()


def settings_toml(loaded: Loaded) -> str:
    """Write settings as TOML, the origin of each as a comment.

    What TOML has no word for, and what nobody is to see, is a comment too.

    >>> from resprout.settings import load
    >>> lines = settings_toml(load(arguments={"seed": 7, "store.password": "1234"})).splitlines()
    >>> lines[0], [line for line in lines if line.startswith("# password")]
    ('seed = 7  # argument',
    ['# password = null  # default', '# password = (not shown)  # argument'])
    """
    # A section may be opened once, and what stands in none comes first.
    sections: dict[str, list[str]] = {"": []}
    for name, value in flat(loaded.settings):
        path, _, key = name.rpartition(".")
        if isinstance(value, SecretStr):
            said = f"# {key} = (not shown)"
        else:
            plain = to_jsonable_python(value)
            unknown = plain is None or _has_gap(plain)
            said = f"# {key} = {json.dumps(plain)}" if unknown else f"{key} = {_toml(plain)}"
        sections.setdefault(path, []).append(f"{said}  # {loaded.origins[name]}")
    texts = ["\n".join([*([f"[{path}]"] if path else []), *of]) for path, of in sections.items()]
    return "\n\n".join(filter(None, texts))


def _has_gap(value: object) -> bool:
    """Tell whether a list holds a null, for which TOML has no word."""
    if isinstance(value, dict):
        return any(map(_has_gap, value.values()))
    return isinstance(value, list) and any(one is None or _has_gap(one) for one in value)


def _toml(value: object) -> str:
    """Write one value as TOML does; for these, JSON but for tables, which leave out a null."""
    if isinstance(value, dict):
        given = {key: one for key, one in value.items() if one is not None}
        inside = ", ".join(f"{_toml(key)} = {_toml(one)}" for key, one in given.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    # Its escapes are those of JSON, but for halves of a character and for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
