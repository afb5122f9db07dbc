"""The tables of a report: what the messages of a run say, as rows of words and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, TypeVar

from evaluator.page.history import PageHistory
from evaluator.page.marks import marks
from stream.follow import LoggedMessage
from stream.messages import (
    Alarm,
    AnyMessage,
    DeadLetter,
    Decision,
    Interval,
    Layer,
    Lifetime,
    Message,
    ModelScore,
    Scores,
    Stability,
    Verdict,
    Window,
    dump,
)

M = TypeVar("M", bound=Message)
MOST_ROWS: Final = 2_000
"""Windows of one size are told one by one if there are no more than these."""
Kind = Literal["figure", "name", "text"]
_DIGITS: Final = 4
"""Behind the point of a figure."""
_LONG: Final = 32
"""Letters of a cell that is broken into lines."""
_NAMES: Final = {"never_rebuilt": "never rebuilt"}
_FIGURES: Final = {
    "ce": "CE",
    "ne": "NE",
    "ne_training": "NE by the click rate so far",
    "calibration": "calibration",
    "ece": "ECE",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "regret": "regret",
}
"""Of a model on some events: the field, and what people call it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under one heading; the first cell of a row names it."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each column holds: figures go to the right, long texts are broken into lines.

        >>> why = "the click rate fell behind event 1,000"
        >>> Table("", ("layer", "kept", "why"), (("top", "1,200", why),)).kinds
        ('name', 'figure', 'text')
        """
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        return tuple(map(_kind, columns))


def _kind(cells: Sequence[str]) -> Kind:
    if any(cells) and not any(cell.strip("0123456789,.+-−±% ") for cell in cells):
        return "figure"
    return "text" if max(map(len, cells), default=0) > _LONG else "name"


class Run:
    """All messages of a run, each once.

    Parameters
    ----------
    messages
        In the order of their logs; repeats are passed over.
    """

    def __init__(self, messages: Iterable[AnyMessage]) -> None:
        first: dict[str, AnyMessage] = {}
        for message in messages:
            first.setdefault(message.key, message)
        self.messages = tuple(first.values())

    def of(self, kind: type[M]) -> list[M]:
        """Return all messages of one kind, in order."""
        return [one for one in self.messages if isinstance(one, kind)]

    @property
    def windows(self) -> dict[int, list[Window]]:
        """The windows by size, the partial ones too."""
        found: dict[int, list[Window]] = {}
        for window in sorted(self.of(Window), key=lambda one: (one.size, one.number)):
            found.setdefault(window.size, []).append(window)
        return found

    def history(self) -> PageHistory:
        """Return the run as the page knows it."""
        made = PageHistory()
        for offset, message in enumerate(self.messages):
            made.take(LoggedMessage(offset, message, dump(message)))
        return made


def scores(run: Run) -> Iterable[Table]:
    """Yield the scores over the whole run, as they stood last, since each beginning there is."""
    last = {one.begin: one for one in run.of(Lifetime)}
    for one in last.values():
        rows = [row for row in _by_model(one) if any(row[1:])]
        caption = f"Since event {one.begin + 1:,}, through {one.end:,}"
        yield without_gaps(Table(caption, ("model", *_FIGURES.values(), *_BESIDE), tuple(rows)))


def segments(run: Run) -> Iterable[Table]:
    """Yield the scores by segment over the longest stretch on which all models are compared."""
    last = {one.begin: one for one in run.of(Lifetime)}
    split = [one for one in last.values() if one.segments]
    told = max(split, key=lambda one: one.begin, default=None)
    features = dict.fromkeys(segment.feature for segment in told.segments) if told else {}
    for feature in features:
        rows = [
            (segment.value, f"{segment.events:,}", _share(segment.click_rate), _name(model), *cells)
            for segment in (told.segments if told else ())
            if segment.feature == feature
            for model, score in segment.models.items()
            if any(cells := (*_cells(score), *_interval(segment.relative_ce.get(model))))
        ]
        header = (feature, "events", "click rate", "model", *_FIGURES.values(), *_BESIDE)
        yield without_gaps(Table(f"By {feature}", header, tuple(rows)))


def happenings(run: Run) -> Table:
    """List in words what happened: rebuilds with cause and effect, rollbacks, what was declined."""
    rows = tuple((f"{one.count:,}", one.title, one.text) for one in marks(run.history()))
    return Table("In the order of events", ("at event", "what", "cause and effect"), rows)


def rebuilds(run: Run) -> Table:
    """Put every rebuild that ended into figures."""
    header = (
        "rebuild",
        "reason",
        "decided at",
        "dense snapshot at",
        "ended at",
        "verdict",
        "version",
        "sparsity",
        "against the one in force",
        "nats per event",
        "cost in events",
    )
    return without_gaps(Table("Every rebuild", header, tuple(map(_rebuild, run.of(Verdict)))))


def _rebuild(verdict: Verdict) -> tuple[str, ...]:
    plan, judged = verdict.rebuild, verdict.judgement
    return (
        str(plan.number),
        "first mask" if plan.reason == "first" else plan.reason,
        f"{plan.decided:,}",
        f"{plan.snapshot:,}",
        f"{verdict.count:,}",
        verdict.verdict,
        "" if verdict.version is None else str(verdict.version),
        _share(verdict.sparsity),
        " ".join(filter(None, _interval(judged.relative))) if judged else "",
        _bounds(judged.difference, "+.5f") if judged else "",
        f"{verdict.cost_events:,}",
    )


def rollbacks(run: Run) -> Table:
    """List what people asked for, and what was decided."""
    rows = tuple(_answered(one) for one in run.of(Decision) if one.request or one.rollback)
    header = ("decided at", "asked for", "in their words", "granted", "in force from")
    return Table("What people asked for", header, rows)


def _answered(decision: Decision) -> tuple[str, ...]:
    asked, back = decision.request, decision.rollback
    version = "" if asked is None or asked.version is None else f" to version {asked.version}"
    granted = f"no: {decision.declined}" if decision.declined is not None else "yes"
    return (
        f"{decision.count:,}",
        f"{asked.action if asked else 'rollback'}{version}",
        asked.reason if asked else "",
        f"as version {back.version}" if back else granted,
        f"{back.effective:,}" if back else "",
    )


def alarms(run: Run) -> Table:
    """List the alarms; they decide nothing."""
    rows = tuple(
        (
            f"{one.count:,}",
            one.detector.replace("_", " "),
            one.feature or "",
            f"{one.since:,}",
            f"{one.statistic:.4g}",
            f"{one.threshold:.4g}",
            one.reason,
        )
        for one in run.of(Alarm)
    )
    header = ("at event", "listens to", "feature", "since", "statistic", "threshold", "reason")
    return without_gaps(Table("Drift, by what the evaluator sees", header, rows))


def stability(run: Run) -> Table:
    """Say of each feature how far it was at most from the window that it is compared with."""
    found = run.of(Stability)
    rows = []
    for feature in dict.fromkeys(name for one in found for name in one.psi):
        known = [(one.psi[feature], one.end) for one in found if feature in one.psi]
        most, end = max(known)
        rows.append((feature, f"{most:.4f}", f"{end:,}", f"{known[-1][0]:.4f}"))
    header = ("feature", "largest", "in the window that ends at", "last")
    return Table("Population stability index of every feature", header, tuple(rows))


def masks(run: Run) -> Iterable[Table]:
    """Yield sparsity and overlap, a row for each mask that took over and a column for a layer."""
    promoted = [one for one in run.of(Verdict) if one.verdict == "promoted"]
    names = dict.fromkeys(name for verdict in promoted for name in verdict.layers)
    kinds: dict[str, Callable[[Layer], float | None]] = {
        "Sparsity: the share of a layer's weights that is removed": lambda one: one.sparsity,
        "Overlap: the share of the kept weights that the mask before kept too": (
            lambda one: one.overlap
        ),
    }
    for caption, of in kinds.items():
        cells = [
            [_share(of(verdict.layers[name]) if name in verdict.layers else None) for name in names]
            for verdict in promoted
        ]
        rows = [
            (str(verdict.version), f"{verdict.count + 1:,}", *shares)
            for verdict, shares in zip(promoted, cells, strict=True)
            if any(shares)
        ]
        yield Table(caption, ("version", "from event", *names), tuple(rows))


def windows(run: Run) -> Iterable[Table]:
    """Yield the windows of every size, one by one where they are not too many."""
    for size, found in run.windows.items():
        if len(found) <= MOST_ROWS:
            yield _windows(size, found)


def left_out(run: Run) -> tuple[str, ...]:
    """Name the sizes of windows that are too many to be told one by one."""
    counts = {size: len(found) for size, found in run.windows.items()}
    return tuple(f"{n:,} of {size:,} events" for size, n in counts.items() if n > MOST_ROWS)


_OF_A_WINDOW: Final[tuple[str, ...]] = (
    "window",
    "first event",
    "last event",
    "click rate",
    "true drift",
    "truth CE",
)


def _windows(size: int, found: Sequence[Window]) -> Table:
    models = tuple(dict.fromkeys(model for window in found for model in window.models))
    header = _OF_A_WINDOW
    for model in models:
        header += tuple(f"{_name(model)} {name}" for name in (*_FIGURES.values(), *_BESIDE))
    rows = tuple(_window(window, models) for window in found)
    caption = f"{len(rows):,} window{'s' if len(rows) != 1 else ''} of {size:,} events"
    return without_gaps(Table(caption, header, rows))


def _window(window: Window, models: Iterable[str]) -> tuple[str, ...]:
    cells = [
        f"{window.number + 1:,}{' (partial)' if window.partial else ''}",
        f"{window.begin + 1:,}",
        f"{window.end:,}",
        _share(window.click_rate),
        ", ".join(window.drift),
        _figure(window.bayes_ce),
    ]
    for model in models:
        cells += [*_cells(window.models.get(model)), *_interval(window.relative_ce.get(model))]
    return tuple(cells)


def dead_letters(run: Run) -> Table:
    """Count the events that did not validate, by reason, with the first of each."""
    found = run.of(DeadLetter)
    rows = []
    for reason in dict.fromkeys(letter.reason for letter in found):
        same = [letter for letter in found if letter.reason == reason]
        rows.append((reason, f"{len(same):,}", _place(same[0]), same[0].detail))
    rows.sort(key=lambda row: (-int(row[1].replace(",", "")), row[0]))
    header = ("reason", "events", "the first at", "what was wrong with it")
    return Table("Events that did not validate", header, tuple(rows))


def _place(letter: DeadLetter) -> str:
    if letter.file is not None and letter.line is not None:
        return f"{letter.file}:{letter.line}"
    return f"partition {letter.partition}, offset {letter.offset}, row {letter.row}"


_BESIDE: Final = ("vs dense", "95 % interval")


def _by_model(found: Scores) -> Iterable[tuple[str, ...]]:
    for model, score in found.models.items():
        yield (_name(model), *_cells(score), *_interval(found.relative_ce.get(model)))


def _cells(score: ModelScore | None) -> tuple[str, ...]:
    """Write the figures of a model, an empty cell for each that there is not."""
    if score is None:
        return ("",) * len(_FIGURES)
    return tuple(
        _bounded(getattr(score, name), getattr(score, f"{name}_error", None)) for name in _FIGURES
    )


def _interval(found: Interval | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    bounds = (
        "" if found.low is None or found.high is None else f"[{found.low:+.2%}, {found.high:+.2%}]"
    )
    return f"{found.mean:+.2%}", bounds


def _bounds(found: Interval, how: str) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:{how}}"
    return f"{found.mean:{how}} [{found.low:{how}}, {found.high:{how}}]"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.{_DIGITS}f}"


def _bounded(value: float | None, error: float | None) -> str:
    """Write a figure, and how far off it may be; that is never rounded down.

    >>> _bounded(0.75, 0.00151), _bounded(0.75, None)
    ('0.7500 ± 0.0016', '0.7500')
    """
    if value is None or error is None:
        return _figure(value)
    return f"{_figure(value)} ± {ceil(error * 10**_DIGITS) / 10**_DIGITS:.{_DIGITS}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _name(model: str) -> str:
    return _NAMES.get(model, model)


def without_gaps(table: Table) -> Table:
    """Leave out the columns in which nothing stands.

    >>> without_gaps(Table("", ("model", "NE", "regret"), (("dense", "0.8", ""),))).header
    ('model', 'NE')
    """
    if not table.rows:
        return table
    kept = [column for column in range(len(table.header)) if any(row[column] for row in table.rows)]
    rows = tuple(tuple(row[column] for column in kept) for row in table.rows)
    return Table(table.caption, tuple(table.header[column] for column in kept), rows)
