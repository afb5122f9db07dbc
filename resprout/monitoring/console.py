"""What a person at a terminal sees: the progress line and the closing table."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from evaluator import EvaluatorStep
from evaluator.run import RunTables
from pruner import PruneStep
from resprout.run import RebuildSummary, Result, RollbackSummary
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
    waiting: tuple[str, float] | None = None
    """What the sparse learner waits for, and since when by the clock."""

    def update(self, name: str, step: Step, now: float) -> None:
        """Take in one step of one worker."""
        self.counts[name] = step.count
        if isinstance(step, EvaluatorStep):
            self._closed(step.windows)
        if isinstance(step, PruneStep) and step.verdict and step.verdict.verdict == "promoted":
            self.verdict = step.verdict
            self.rebuilds += step.verdict.rebuild.reason != "first"
        if name == "sparse":
            self._wait(step, now)

    def _closed(self, windows: Sequence[Window]) -> None:
        """Keep to one size: larger windows lag behind, and would mix old figures with new."""
        whole = [window for window in windows if not window.partial]
        known = [self.window, *whole] if self.window else whole
        size = self.window_events or min((window.size for window in known), default=0)
        self.window = next((w for w in reversed(whole) if w.size == size), self.window)

    def _wait(self, step: Step, now: float) -> None:
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
    parts += _scores(view.window)
    if view.verdict is not None and view.verdict.sparsity is not None:
        parts += [f"sparsity {view.verdict.sparsity:.0%}", f"rebuilds {view.rebuilds}"]
    if view.waiting is not None and now - view.waiting[1] >= HINT_SECONDS:
        parts.append(f"sparse waits for {view.waiting[0]}")
    return "  ".join(parts)


def _scores(window: Window | None) -> list[str]:
    """NE of every model of a window, relative CE beside it."""
    found: list[str] = []
    for name in window.models if window else ():
        entropy = window.metric(name, "ne") if window else None
        if window is None or entropy is None:
            continue
        relative = window.metric(name, "relative_ce")
        beside = f" ({relative:+.1%})" if relative is not None else ""
        before = "" if found else "NE "
        found.append(f"{before}{find_model(name).label} {entropy:.3f}{beside}")
    return found


def _short(number: float) -> str:
    """Write a count in three digits or so.

    >>> _short(950), _short(41_300), _short(1_204_000)
    ('950', '41k', '1.20M')
    """
    for unit, name, digits in ((1e6, "M", 2), (1e3, "k", 0)):
        if number >= unit:
            return f"{number / unit:.{digits}f}{name}"
    return f"{number:.0f}"


class ProgressLine:
    """Prints how a run goes: one line rewritten on a terminal, plain lines elsewhere.

    It is called from the threads of all workers.

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
        self._out = out or sys.stderr
        self._clock = clock
        self._terminal = self._out.isatty()
        self._every = TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS
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
            if now - self._printed[0] >= self._every:
                self._print(now)

    def message(self, text: str) -> None:
        """Print a line of its own, above the progress line."""
        with self._lock:
            self._out.write(f"{self._clear()}{text}\n")
            self._out.flush()

    def finish(self) -> None:
        """Take the progress line away."""
        with self._lock:
            self._out.write(self._clear())
            self._out.flush()

    def _print(self, now: float) -> None:
        then, before = self._printed
        count = self._view.counts.get("evaluator", 0)
        text = line(self._view, max(count - before, 0) / (now - then), now)
        self._out.write(f"{self._clear()}{text}" if self._terminal else f"{text}\n")
        self._out.flush()
        self._printed = (now, count)

    def _clear(self) -> str:
        return "\r\x1b[K" if self._terminal else ""


def closing_table(result: Result) -> str:
    """Write the closing table: all models on the same events, the rebuilds, and remarks."""
    results = RunTables.of(result.history).results(result.settings.evaluator.min_clicks)
    # Of the last half the cross entropy would say little beside the rest.
    shown = results.select([0, 1, 2, 3, 5, 6])
    lines = [*_aligned([("", *shown.header[1:5], shown.header[3]), *shown.rows]), ""]
    lines += [_rebuild_line(rebuild) for rebuild in result.summary.rebuilds]
    lines += [_rollback_line(rollback) for rollback in result.summary.rollbacks]
    return "\n".join([*lines, *result.remarks]).rstrip()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Put cells under each other, names on the left and figures on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((first.ljust(widths[0]), *right)).rstrip())
    return lines


def _rebuild_line(rebuild: RebuildSummary) -> str:
    name = "first mask" if rebuild.reason == "first" else f"rebuild {rebuild.number}"
    return (
        f"{name} decided at {rebuild.decided:,}, {rebuild.verdict} at {rebuild.count:,}: "
        f"{rebuild.verdict_reason}"
    )


def _rollback_line(rollback: RollbackSummary) -> str:
    never = "never: the input ended before"
    return (
        f"back to version {rollback.to_version} as version {rollback.version} decided at "
        f"{rollback.decided:,}, in force {'at' if rollback.took_effect else never} "
        f"{rollback.count:,}: {rollback.reason}"
    )


def settings_toml(loaded: Loaded) -> str:
    """Write settings as TOML, the origin of each as a comment.

    >>> from resprout.settings import load
    >>> print(settings_toml(load(arguments={"seed": 7})).splitlines()[0])
    seed = 7  # argument
    """
    lines, section = [], ""
    for name, value in flat(loaded.settings):
        path, _, key = name.rpartition(".")
        if path != section:
            lines += ["", f"[{path}]"]
            section = path
        lines.append(f"{_setting(key, value)}  # {loaded.origins[name]}")
    return "\n".join(lines)


def _setting(key: str, value: object) -> str:
    """Write one setting; what TOML has no word for, and what nobody is to see, as a comment.

    >>> _setting("seed", 7), _setting("budget", None), _setting("password", SecretStr("1234"))
    ('seed = 7', '# budget = null', '# password = (not shown)')
    """
    if value is None:
        return f"# {key} = null"
    if isinstance(value, SecretStr):
        return f"# {key} = (not shown)"
    return f"{key} = {_toml(to_jsonable_python(value))}"


def _toml(value: object) -> str:
    """Write one value as TOML does; for these, JSON but for tables."""
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(value)
