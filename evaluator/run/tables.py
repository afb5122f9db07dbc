"""What a run says in words and figures: its timeline, and the tables of its report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from evaluator.metrics import Metric, installed, normalized_entropy
from evaluator.run.history import EDGES, Event, Gap, RunHistory, WindowRow, figures
from stream import find_model, messages
from stream.messages import Alarm, Decision, RebuildPlan, Scores, Segment, Verdict

MAX_ROWS: Final = 2_000
"""Windows of one size are listed one by one if there are no more than these."""
Kind = Literal["rebuild", "rollback", "declined", "alarm", "dead_letters"]
CellKind = Literal["figure", "name", "text"]
_REASONS: Final = {"first": "first mask"}
_LONG: Final = 32
"""Letters of a cell that is broken into lines."""


class TimelineEntry(BaseModel):
    """Something that happened at a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    outcome: str
    """Of a rebuild its verdict, ``open``, or ``superseded`` by a rollback; of an alarm its
    detector; else the kind again."""
    count: int
    begin: int
    """Where it was decided, or where it began; else ``count``."""
    title: str
    text: str
    """Cause and effect, in words."""
    until: int | None = None
    """The count at which an open rebuild is to end."""
    gap: float | None = None
    """What the served model lost to the root between the decision on a rebuild and its end, or so
    far, as a share of the root's cross entropy."""


def timeline(history: RunHistory) -> list[TimelineEntry]:
    """List what happened, in the order of the counts: rebuilds, rollbacks, alarms, dead letters."""
    letters = map(_letters, history.letters)
    found = [*_rebuilds(history), *_answers(history), *_alarms(history), *letters]
    return sorted(found, key=lambda entry: entry.count)


def _rebuilds(history: RunHistory) -> Iterator[TimelineEntry]:
    """Yield the rebuilds, ended ones by their verdicts."""
    opened: dict[int, tuple[RebuildPlan, Event]] = {}
    for event in history.happened:
        if isinstance(event.message, Decision) and event.message.rebuild:
            opened[event.message.rebuild.number] = event.message.rebuild, event
        if not isinstance(event.message, Verdict):
            continue
        verdict, plan = event.message, event.message.rebuild
        _, begun = opened.pop(plan.number, (None, None))
        outcome = "superseded" if history.superseded(verdict) else str(verdict.verdict)
        said = [plan.cause, verdict.reason]
        if verdict.verdict != "unfinished":
            said.append(f"took {plan.end - plan.decided:,} events{_took(begun, event)}")
        gap = history.gap(plan.decided, min(verdict.count, history.events))
        said.append(_lost(gap, history))
        if verdict.verdict == "promoted":
            said += [f"version {verdict.version} from {verdict.count + 1:,} on"]
            said += [_effect(verdict, history), f"{verdict.cost_events:,} events of pruning"]
        title = f"{_name(plan)} {outcome}"
        entry = _entry("rebuild", outcome, plan.decided, verdict.count, title, *said)
        yield entry.model_copy(update={"gap": gap.relative if gap else None})
    for plan, _ in opened.values():
        title = f"{_name(plan)} under way until {plan.end:,}"
        gap = history.gap(plan.decided, history.events)
        said = [plan.cause, _lost(gap, history)]
        entry = _entry("rebuild", "open", plan.decided, plan.decided, title, *said)
        known = {"until": plan.end, "gap": gap.relative if gap else None}
        yield entry.model_copy(update=known)


def _lost(gap: Gap | None, history: RunHistory) -> str:
    """Say what a rebuild cost while the model before it still served.

    >>> _lost(Gap(0.012, 310.4), RunHistory())
    'meanwhile sparse lost 1.20 % to dense, 310 nats in all'
    """
    if gap is None:
        return ""
    served, root = history.served.label, history.root.label
    lost = f"{100 * gap.relative:.2f} % to {root}, {gap.nats:,.0f} nats in all"
    return f"meanwhile {served} lost {lost}"


def _took(begun: Event | None, ended: Event) -> str:
    """Say how long a rebuild took by the clock, where that is known.

    >>> verdict = Event(None, time_ms=200_000)
    >>> _took(Event(None, time_ms=0), verdict), _took(None, verdict)
    (', about 3 min 20 s', '')
    """
    if begun is None or begun.time_ms is None or ended.time_ms is None:
        return ""
    took = (ended.time_ms - begun.time_ms) / 1_000
    minutes, seconds = divmod(round(took), 60)
    text = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f", about {text}" if took >= 1 else ""


def _effect(verdict: Verdict, history: RunHistory) -> str:
    """Say what the served model lost to the root before the decision and after the swap.

    The windows are the largest that are no longer than the rebuild took.
    """
    plan = verdict.rebuild
    fitting = [size for size in history.sizes if size <= plan.end - plan.decided]
    if not fitting:
        return ""
    table, column = history.tables[fitting[-1]], f"{history.served.name}.relative_ce"
    before = table.last_through(column, plan.decided)
    after = table.first_from(column, verdict.count)
    if after is None:
        return ""
    was = "" if before is None else f"{100 * before:+.2f} % before, "
    return f"CE against {history.root.label} {was}{100 * after:+.2f} % after"


def _answers(history: RunHistory) -> Iterator[TimelineEntry]:
    """Yield the decisions that answer a person, except for the rebuilds that may come of them."""
    for event in history.happened:
        if not isinstance(event.message, Decision):
            continue
        one, back = event.message, event.message.rollback
        reason = one.request.reason if one.request else ""
        if back is not None:
            title, now = f"rolled back to version {back.to_version}", f"now version {back.version}"
            yield _entry("rollback", "rollback", one.count, back.count, title, now, reason)
        elif one.declined is not None:
            said = ("request declined", one.declined, reason)
            yield _entry("declined", "declined", one.count, one.count, *said)


def _alarms(history: RunHistory) -> Iterator[TimelineEntry]:
    """Yield alarms, those of one detector on one window as one."""
    found: defaultdict[tuple[int, str], list[Alarm]] = defaultdict(list)
    for event in history.happened:
        if isinstance(event.message, Alarm):
            found[event.message.count, event.message.detector].append(event.message)
    titles = {
        "dense_loss": f"{history.root.label} has become worse",
        "relative_loss": f"{history.served.label} has fallen behind",
        "click_rate": "the click rate has changed",
        "input": "the input has changed",
    }
    for (count, detector), same in found.items():
        features = [one.feature for one in same if one.feature]
        title = f"{titles[detector]}{': ' if features else ''}{', '.join(features)}"
        begin = min(one.since for one in same)
        yield _entry("alarm", detector, begin, count, title, *(one.reason for one in same))


def _letters(letters: messages.DeadLetters) -> TimelineEntry:
    """List a range with events that did not validate."""
    begin, count, number = letters.begin, letters.count, sum(letters.reasons.values())
    ranked = sorted(letters.reasons.items(), key=lambda item: (-item[1], item[0]))
    title = f"{number:,} dead letter{'s' if number > 1 else ''}"
    reasons = ", ".join(f"{reason} {times:,}" for reason, times in ranked)
    some = f"in the events {begin + 1:,} to {count:,}"
    where = some if count > begin else f"after event {count:,}"
    return _entry("dead_letters", "dead_letters", begin, count, title, reasons, where)


def invalid_events(history: RunHistory) -> list[str]:
    """Say in a sentence how many events were skipped so far, and why; nothing where none were."""
    reasons: Counter[str] = Counter()
    for letters in history.letters:
        reasons.update(letters.reasons)
    if not (number := reasons.total()):
        return []
    every = number + history.events
    ranked = ", ".join(f"{reason} {times:,}" for reason, times in reasons.most_common())
    return [
        f"{number:,} of {every:,} events so far ({number / every:.2%}) are not valid and were "
        f"skipped: {ranked}; `resprout deadletters` shows them"
    ]


def _entry(
    kind: Kind, outcome: str, begin: int, count: int, title: str, *said: str
) -> TimelineEntry:
    text = "; ".join(part.rstrip(".") for part in said if part)
    at = {"begin": begin, "count": count}
    return TimelineEntry(kind=kind, outcome=outcome, title=title, text=text, **at)


def _name(plan: RebuildPlan) -> str:
    return _REASONS.get(plan.reason, f"rebuild {plan.number} ({plan.reason})")


_SIMPLE: Final = {
    "click_rate": "the click rate so far",
    "logistic_regression": "a logistic regression (River, AdaGrad)",
}
"""What people call the simple models."""
_LONG_WINDOWS: Final = 5
"""Over at least so many of the smallest windows a model must be poor before it is said."""


def warnings(history: RunHistory, min_clicks: int = 10) -> list[str]:
    """Say in sentences which models are not worth what they cost.

    That is one that has been no better than the click rate over the last half of the events since
    the first mask (or so far), or one that is worse than a simple model on the same events, by more
    than the 95 % interval. Where all events are of one kind, no model can be told from another, and
    only that is said.

    Parameters
    ----------
    history
        The run.
    min_clicks
        As of :meth:`evaluator.run.RunHistory.scores`.
    """
    if (only := _only_kind(history)) is not None:
        return [only]
    half = history.whole_and_last_half(min_clicks)[1]
    if half is None or half.end - half.begin < _LONG_WINDOWS * min(history.tables):
        return []
    found = []
    span = f"over the last {half.end - half.begin:,} events"
    simple = history.simple(half.begin)
    for model in (one for one in history.models if one.role != "comparison"):
        ne = half.models.get(model.name, {}).get("ne")
        if ne is not None and ne >= 1:
            found.append(f"{model.label} is no better than the click rate: NE {ne:.4f} {span}")
        for baseline, words in _SIMPLE.items():
            lost = simple.relative.get(baseline, {}).get(model.name) if simple else None
            if simple and lost and lost.low is not None and lost.low > 0:
                found.append(
                    f"{model.label} is worse than {words}: cross entropy {lost.mean:+.2%} "
                    f"[{lost.low:+.2%}, {lost.high:+.2%}] on {simple.events:,} of the last "
                    f"{half.end - half.begin:,} events"
                )
    if found:
        found[-1] += (
            "; a model that a simple one beats is not worth serving: see whether labels and schema "
            "are right, then try other rates (learner.rate, learner.embedding_rate)"
        )
    return found


def _only_kind(history: RunHistory) -> str | None:
    """Say of which kind all events are; None where there are both, or few so far."""
    every = history.scores(0)
    if every is None or every.end - every.begin < _LONG_WINDOWS * min(history.tables):
        return None
    if 0 < every.click_rate < 1:
        return None
    what = "no clicks" if every.click_rate == 0 else "only clicks"
    return (
        f"there are {what} among {every.end - every.begin:,} events, so no model can be told from "
        "another: see whether `label` and `labels` under [columns] in the schema are right"
    )


Cell = tuple[str, str]
"""The head of a column, and what stands in it."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows of text under one heading; the first cell of a row names it."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def kinds(self) -> tuple[CellKind, ...]:
        """What each column holds: figures go to the right, long texts are broken into lines.

        >>> why = "the click rate fell after event 1,000"
        >>> TextTable("", ("layer", "kept", "why"), (("top", "1,200", why),)).kinds
        ('name', 'figure', 'text')
        """
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        return tuple(map(_cell_kind, columns))

    @classmethod
    def of(cls, caption: str, found: Iterable[Iterable[Cell]]) -> TextTable:
        """Make a table of rows, each as the heads of its columns and the cells; without gaps.

        >>> TextTable.of("", [{"n": "7", "note": ""}.items(), {"n": "8", "note": ""}.items()])
        TextTable(caption='', header=('n',), rows=(('7',), ('8',)))
        """
        rows = [tuple(zip(*row, strict=True)) for row in found]
        header = rows[0][0] if rows else ()
        return cls(caption, header, tuple(cells for _, cells in rows)).without_gaps()

    def without_gaps(self) -> TextTable:
        """Leave out the columns without any text.

        >>> table = TextTable("", ("model", "NE", "regret"), (("dense", "0.8", ""),))
        >>> table.without_gaps().header
        ('model', 'NE')
        """
        if not self.rows:
            return self
        columns = range(len(self.header))
        return self.select([at for at in columns if any(row[at] for row in self.rows)])

    def select(self, columns: Sequence[int]) -> TextTable:
        """Keep some of the columns."""
        rows = tuple(tuple(row[at] for at in columns) for row in self.rows)
        return TextTable(self.caption, tuple(self.header[at] for at in columns), rows)


def _cell_kind(cells: Sequence[str]) -> CellKind:
    if any(cells) and not any(cell.strip("0123456789,.+-−±% ") for cell in cells):
        return "figure"
    return "text" if max(map(len, cells), default=0) > _LONG else "name"


@dataclass(frozen=True, slots=True)
class RunTables:
    """The tables of one run.

    Parameters
    ----------
    history
        What is known of it.
    metrics
        The metrics that have a column.
    """

    history: RunHistory
    metrics: Sequence[Metric]

    @classmethod
    def of(cls, history: RunHistory) -> RunTables:
        """Show every metric that people look at."""
        return cls(history, tuple(metric for metric in installed() if metric.view != "data"))

    def _cells(self, known: Mapping[str, float], model: str) -> Iterator[Cell]:
        """Yield the metrics of a model and their intervals, empty where one is not known."""
        for metric in self.metrics:
            name = f"{model}.{metric.name}"
            error, low, high = (known.get(f"{name}.{edge}") for edge in EDGES)
            head = metric.label.format(root=self.history.root.label)
            yield head, metric.write(known.get(name), error)
            yield "95 % interval", _bounds(low, high, metric.format)

    def scores(self) -> Iterator[TextTable]:
        """Yield the scores over the whole run, as they were last, since each beginning there is."""
        for one in self.history.lifetimes.values():
            caption = f"Since event {one.begin + 1:,}, through {one.end:,}"
            yield TextTable.of(caption, self._by_model(one))

    def terms(self) -> TextTable:
        """Explain the metrics that have figures here."""
        known = {head for table in self.scores() for head in table.header}
        root, rows = self.history.root.label, []
        for one in self.metrics:
            name, says = one.label.format(root=root), one.explains.format(root=root)
            if says and name in known:
                rows.append((name, says))
        return TextTable("What these figures are", ("figure", "what it says"), tuple(rows))

    def simple(self) -> TextTable:
        """Compare all models with two simple ones, over the last half since the first mask."""
        half = self.history.whole_and_last_half()[1]
        found = self.history.simple(half.begin) if half else None
        if found is None:
            return TextTable("", (), ())
        rows = []
        for name, ce in found.ces.items():
            label = _SIMPLE.get(name) or find_model(name, self.history.specs).label
            cells = [("model", label), ("CE", f"{ce:.4f}")]
            entropy = normalized_entropy(ce, found.click_rate)
            cells.append(("NE", _figure(entropy)))
            for baseline, words in _SIMPLE.items():
                lost = found.relative.get(baseline, {}).get(name)
                against = f"{lost.mean:+.2%} {_bounds(lost.low, lost.high, '+.2%')}" if lost else ""
                cells.append((f"against {words}", against))
            rows.append(cells)
        caption = (
            f"On {found.events:,} of the events {found.begin + 1:,} to {found.end:,}, each of "
            "which the simple models predicted before they learned from it; 95 % intervals"
        )
        return TextTable.of(caption, rows)

    def segments(self) -> Iterator[TextTable]:
        """Yield the scores by segment over the longest range on which all models are compared."""
        lifetimes = [one for one in self.history.lifetimes.values() if one.segments]
        last = max(lifetimes, key=lambda one: one.begin, default=None)
        by_feature: defaultdict[str, list[tuple[Cell, ...]]] = defaultdict(list)
        for one in last.segments if last else ():
            whose, events = (one.feature, one.value), ("events", f"{one.events:,}")
            clicked = ("click rate", _share(one.click_rate))
            by_feature[one.feature] += self._by_model(one, whose, events, clicked)
        for feature, rows in by_feature.items():
            yield TextTable.of(f"By {feature}", rows)

    def _by_model(self, scores: Scores | Segment, *before: Cell) -> Iterator[tuple[Cell, ...]]:
        """Yield a row for each model of which anything is known."""
        known = figures(scores)
        for model in scores.models:
            cells = tuple(self._cells(known, model))
            if any(cell for _, cell in cells):
                yield *before, ("model", find_model(model, self.history.specs).label), *cells

    def happenings(self) -> TextTable:
        """List in words what happened: rebuilds with cause and effect, rollbacks, alarms."""
        rows = tuple((f"{one.count:,}", one.title, one.text) for one in timeline(self.history))
        return TextTable("In the order of events", ("at event", "what", "cause and effect"), rows)

    def rebuilds(self) -> TextTable:
        """List every rebuild that ended, in figures."""
        rows = [
            {
                "rebuild": str(one.rebuild.number),
                "reason": _REASONS.get(one.rebuild.reason, one.rebuild.reason),
                "decided at": f"{one.rebuild.decided:,}",
                "dense snapshot at": f"{one.rebuild.begin:,}",
                "ended at": f"{one.count:,}",
                "verdict": one.verdict,
                "because": one.reason.partition(":")[0],
                "version": "" if one.version is None else str(one.version),
                "sparsity": _share(one.sparsity),
                "against the one in force": _against(one, "relative", "+.2%"),
                "nats per event": _against(one, "difference", "+.5f"),
                "cost in events": f"{one.cost_events:,}",
            }.items()
            for one in self.history.verdicts
        ]
        return TextTable.of("Every rebuild", rows)

    def requests(self) -> TextTable:
        """List what people asked for, and what was decided."""
        rows = []
        for event in self.history.happened:
            one = event.message
            if not isinstance(one, Decision) or not (one.request or one.rollback):
                continue
            asked, back = one.request, one.rollback
            version = f" to version {asked.version}" if asked and asked.version is not None else ""
            granted = "yes" if one.declined is None else f"no: {one.declined}"
            cells = (
                f"{one.count:,}",
                f"{asked.action if asked else 'rollback'}{version}",
                asked.reason if asked else "",
                f"as version {back.version}" if back else granted,
                f"{back.count:,}" if back else "",
            )
            rows.append(cells)
        header = ("decided at", "asked for", "in their words", "granted", "in force from")
        return TextTable("What people asked for", header, tuple(rows))

    def alarms(self) -> TextTable:
        """List the alarms; they decide nothing."""
        rows = [
            {
                "at event": f"{one.count:,}",
                "detector": one.detector.replace("_", " "),
                "feature": one.feature or "",
                "since": f"{one.since:,}",
                "statistic": f"{one.statistic:.4g}",
                "threshold": f"{one.threshold:.4g}",
                "reason": one.reason,
            }.items()
            for one in (event.message for event in self.history.happened)
            if isinstance(one, Alarm)
        ]
        return TextTable.of("Drift, by what the evaluator sees", rows)

    def stability(self) -> TextTable:
        """List for each feature how far it was at most from the window that it is compared with."""
        rows = tuple(
            (name, f"{one.largest:.4f}", f"{one.largest_end:,}", f"{one.last:.4f}")
            for name, one in self.history.shifts.items()
        )
        header = ("feature", "largest", "in the window that ends at", "last")
        return TextTable("Population stability index of every feature", header, rows)

    def masks(self) -> Iterator[TextTable]:
        """Yield sparsity and overlap: a row for each mask that took over, a column for a layer."""
        promoted = self.history.promoted
        names = dict.fromkeys(name for verdict in promoted for name in verdict.layers)
        captions = {
            "sparsity": "Sparsity: the share of a layer's weights that is removed",
            "overlap": "Overlap: the share of the kept weights that the mask before kept too",
        }
        for kind, caption in captions.items():
            rows = []
            for one in promoted:
                layers = (one.layers.get(name) for name in names)
                shares = [_share(getattr(layer, kind, None)) for layer in layers]
                if any(shares):
                    rows.append((str(one.version), f"{one.count + 1:,}", *shares))
            yield TextTable(caption, ("version", "from event", *names), tuple(rows))

    def grafts(self) -> TextTable:
        """List for each version by how many grafts its mask moved while it was in force."""
        grafts, versions = self.history.grafts, self.history.versions
        ends = [*(begin for begin, _ in versions[1:]), grafts.last or 0]
        rows = []
        for (begin, version), end in zip(versions, ends, strict=False):
            own = grafts.between(begin, end)
            mean = _share(own.mean()) if own else ""
            last = "" if own.last is None else f"{own.last:,}"
            rows.append((str(version), f"{begin + 1:,}", f"{len(own):,}", mean, last))
        caption = "Grafts: the mask of a version moves while it is in force"
        header = ("version", "from event", "grafts", "kept weights that each replaced", "last at")
        return TextTable(caption, header, tuple(rows) if grafts else ())

    def windows(self) -> Iterator[TextTable]:
        """Yield the windows of every size, one by one where they are not too many."""
        for size, table in sorted(self.history.tables.items()):
            n = len(table.begins)
            if n <= MAX_ROWS:
                caption = f"{n:,} window{'s' if n != 1 else ''} of {size:,} events"
                yield TextTable.of(caption, (self._window(size, row) for row in table.rows()))

    def _window(self, size: int, row: WindowRow) -> Iterator[Cell]:
        yield "window", f"{row.begin // size + 1:,}{' (partial)' if row.partial else ''}"
        yield "first event", f"{row.begin + 1:,}"
        yield "last event", f"{row.end:,}"
        yield "click rate", _share(row.figures.get("click_rate"))
        yield "true drift", ", ".join(row.drift)
        yield "truth CE", _figure(row.figures.get("bayes_ce"))
        for model in self.history.models:
            for head, cell in self._cells(row.figures, model.name):
                yield f"{model.label} {head}", cell

    def left_out(self) -> tuple[str, ...]:
        """Name the sizes of windows that are too many to be listed one by one."""
        counts = {size: len(table.begins) for size, table in sorted(self.history.tables.items())}
        return tuple(f"{n:,} of {size:,} events" for size, n in counts.items() if n > MAX_ROWS)

    def dead_letters(self) -> TextTable:
        """Count the events that did not validate, by reason, with the first of each."""
        found = self.history.invalid.values()
        rows = tuple(
            (one.first.reason, f"{one.count:,}", place(one.first), one.first.detail)
            for one in sorted(found, key=lambda one: (-one.count, one.first.reason))
        )
        header = ("reason", "events", "the first at", "what was wrong with it")
        return TextTable("Events that did not validate", header, rows)

    def results(self, min_clicks: int) -> TextTable:
        """Return the table that a run closes with: the scores of all models on the same events."""
        parts = self.history.whole_and_last_half(min_clicks)
        metrics = [one for one in self.metrics if one.name in ("ce", "ne", "relative_ce")]
        heads = [one.label.format(root=self.history.root.label) for one in metrics]
        rows = []
        for model in self.history.models:
            cells = [
                metric.write(part.models.get(model.name, {}).get(metric.name) if part else None)
                for part in parts
                for metric in metrics
            ]
            if any(cells):
                rows.append((model.label, *cells))
        whole = parts[0]
        if whole and whole.bayes_ce is not None:
            rows.append(("truth (Bayes)", _figure(whole.bayes_ce), *[""] * (2 * len(heads) - 1)))
        caption = "On the same events: since the first mask took over, and the last half of these"
        header = ("model", *heads, *(f"{head}, last half" for head in heads))
        return TextTable(caption, header, tuple(rows))


def place(letter: messages.DeadLetter) -> str:
    """Say where an invalid event came from."""
    if letter.file is not None and letter.line is not None:
        return f"{letter.file}:{letter.line}"
    return f"partition {letter.partition}, offset {letter.offset}, row {letter.row}"


def _against(verdict: Verdict, what: Literal["relative", "difference"], how: str) -> str:
    """Write what a candidate was judged to lose, and its interval."""
    if verdict.judgement is None:
        return ""
    found: messages.Interval = getattr(verdict.judgement, what)
    return f"{found.mean:{how}} {_bounds(found.low, found.high, how)}".rstrip()


def _bounds(low: float | None, high: float | None, how: str) -> str:
    return "" if low is None or high is None else f"[{low:{how}}, {high:{how}}]"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
