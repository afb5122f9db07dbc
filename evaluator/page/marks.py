"""What happened: rebuilds with cause and effect, rollbacks, alarms, as a list to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from evaluator.config import INCUMBENT
from evaluator.page.history import Event, PageHistory
from stream.messages import Alarm, DeadLetters, Decision, RebuildPlan, Verdict

_LOST: Final = f"{INCUMBENT}.relative_ce"
_MS: Final = 1_000
_MINUTE: Final = 60
_ALARMS: Final = {
    "dense_loss": "dense has become worse",
    "relative_loss": "sparse has fallen behind",
    "click_rate": "the click rate has changed",
    "input": "the input has changed",
}


class Mark(BaseModel):
    """Something that happened at a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["rebuild", "rollback", "declined", "alarm", "dead_letters"]
    outcome: str
    """Of a rebuild its verdict, ``open``, or ``overruled`` by a rollback; of an alarm what listens;
    else the kind again."""
    count: int
    begin: int
    """Where it was decided, or where it began; else ``count``."""
    title: str
    text: str
    """Cause and effect, in words."""


def marks(history: PageHistory) -> list[Mark]:
    """List what happened, in the order of the counts."""
    found = [
        *_rebuilds(history),
        *filter(None, (_asked(e.message) for e in history.happened)),
        *_alarms(e.message for e in history.happened if isinstance(e.message, Alarm)),
        *(_skipped(letters) for letters in history.letters),
    ]
    return sorted(found, key=lambda mark: mark.count)


def _rebuilds(history: PageHistory) -> Iterator[Mark]:
    """Yield the rebuilds, ended ones by their verdicts."""
    opened: dict[int, tuple[RebuildPlan, Event]] = {}
    for event in history.happened:
        plan = event.message.rebuild if isinstance(event.message, Decision) else None
        if plan:
            opened[plan.number] = plan, event
    for event in history.happened:
        if isinstance(event.message, Verdict):
            verdict = event.message
            _, begun = opened.pop(verdict.rebuild.number, (None, None))
            took = "" if verdict.verdict == "unfinished" else _took(verdict.rebuild, begun, event)
            yield _ended(verdict, took, history)
    for plan, _ in opened.values():
        title = f"{_name(plan)} under way until {plan.end:,}"
        yield _mark("rebuild", "open", (plan.decided, plan.decided), title, plan.cause)


def _ended(verdict: Verdict, took: str, history: PageHistory) -> Mark:
    plan, outcome = verdict.rebuild, str(verdict.verdict)
    if any(_overrules(other, verdict) for other in history.happened):
        outcome = "overruled"
    said = [plan.cause, verdict.reason, took]
    if verdict.verdict == "promoted":
        said += [f"version {verdict.version} from {verdict.count + 1:,} on"]
        said += [_effect(verdict, history), f"{verdict.cost_events:,} events of pruning"]
    title = f"{_name(plan)} {outcome}"
    return _mark("rebuild", outcome, (plan.decided, verdict.count), title, "; ".join(_some(said)))


def _took(plan: RebuildPlan, begun: Event | None, ended: Event) -> str:
    """Say how long a rebuild took: in events, and by the clock where that is known."""
    events = f"took {plan.end - plan.decided:,} events"
    if begun is None or begun.time_ms is None or ended.time_ms is None:
        return events
    seconds = (ended.time_ms - begun.time_ms) / _MS
    return f"{events}, about {_span(seconds)}" if seconds >= 1 else events


def _span(seconds: float) -> str:
    """Write how long something took, to the second.

    >>> _span(12.4), _span(200)
    ('12 s', '3 min 20 s')
    """
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _overrules(event: Event, verdict: Verdict) -> bool:
    """Tell whether a decision to roll back came while a rebuild was open."""
    message, plan = event.message, verdict.rebuild
    rolled_back = isinstance(message, Decision) and message.rollback is not None
    return rolled_back and plan.decided < message.count <= verdict.count


def _asked(message: Decision | Verdict | Alarm) -> Mark | None:
    """Tell of a decision that answers a person, but for the rebuild that may come of it."""
    if not isinstance(message, Decision):
        return None
    reason = message.request.reason if message.request else ""
    back = message.rollback
    if back is not None:
        title = f"rolled back to version {back.to_version}"
        text = "; ".join(_some([f"now version {back.version}", reason]))
        return _mark("rollback", "rollback", (message.count, back.count), title, text)
    if message.declined is not None:
        text = "; ".join(_some([message.declined, reason]))
        at = message.count, message.count
        return _mark("declined", "declined", at, "request declined", text)
    return None


def _alarms(alarms: Iterable[Alarm]) -> Iterator[Mark]:
    """Yield alarms, those of one detector on one window as one."""
    found: defaultdict[tuple[int, str], list[Alarm]] = defaultdict(list)
    for alarm in alarms:
        found[alarm.count, alarm.detector].append(alarm)
    for (count, detector), same in found.items():
        features = [one.feature for one in same if one.feature]
        title = f"{_ALARMS[detector]}{': ' if features else ''}{', '.join(features)}"
        text = "; ".join(one.reason for one in same)
        yield _mark("alarm", detector, (min(one.since for one in same), count), title, text)


def _skipped(letters: DeadLetters) -> Mark:
    """Tell of a stretch with events that did not validate."""
    many = sum(letters.reasons.values())
    ranked = sorted(letters.reasons.items(), key=lambda item: (-item[1], item[0]))
    title = f"{many:,} dead letter{'s' if many > 1 else ''}"
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in ranked)
    where = f"in the events {letters.begin + 1:,} to {letters.count:,}"
    if letters.begin == letters.count:
        where = f"behind event {letters.count:,}"
    text = f"{reasons}; {where}"
    return _mark("dead_letters", "dead_letters", (letters.begin, letters.count), title, text)


def _mark(
    kind: Literal["rebuild", "rollback", "declined", "alarm", "dead_letters"],
    outcome: str,
    stretch: tuple[int, int],
    title: str,
    text: str,
) -> Mark:
    begin, count = stretch
    return Mark(kind=kind, outcome=outcome, begin=begin, count=count, title=title, text=text)


def _name(plan: RebuildPlan) -> str:
    return "first mask" if plan.reason == "first" else f"rebuild {plan.number} ({plan.reason})"


def _effect(verdict: Verdict, history: PageHistory) -> str:
    """Say what the sparse model lost to dense before the decision and after the swap.

    The windows are the largest that are no longer than the rebuild took.
    """
    plan = verdict.rebuild
    fitting = [size for size in history.sizes if size <= plan.end - plan.decided]
    if not fitting:
        return ""
    table = history.tables[fitting[-1]]
    was = table.last_through(_LOST, plan.decided)
    became = table.first_from(_LOST, verdict.count, fitting[-1])
    if became is None:
        return ""
    before = "" if was is None else f"{100 * was:+.2f} % before, "
    return f"CE against dense {before}{100 * became:+.2f} % after"


def _some(texts: Sequence[str]) -> list[str]:
    return [text.rstrip(".") for text in texts if text]
