"""What came of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from resprout.settings import Settings
from resprout.summary import Cost, Summary, first_swap, summarise
from stream import topics
from stream.keyed import FirstWins, read_all
from stream.log import LogHome
from stream.messages import (
    AnyMessage,
    DeadLetter,
    Decision,
    Judgement,
    Progress,
    Verdict,
    Window,
    parse,
)


@dataclass(frozen=True, slots=True)
class Records:
    """All that the logs say of a run, each record once."""

    windows: tuple[Window, ...]
    judgements: tuple[Judgement, ...]
    ledger: tuple[Decision | Verdict, ...]
    dead_letters: tuple[DeadLetter, ...]

    @classmethod
    def read(cls, home: LogHome) -> Records:
        """Read the logs of a home."""
        windows = list(_messages(home, topics.WINDOWS))
        dead = _messages(home, topics.DEAD_LETTERS)
        ledger = _messages(home, topics.LEDGER)
        return cls(
            tuple(one for one in windows if isinstance(one, Window)),
            tuple(one for one in windows if isinstance(one, Judgement)),
            tuple(one for one in ledger if isinstance(one, Decision | Verdict)),
            tuple(one for one in dead if isinstance(one, DeadLetter)),
        )

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """How each rebuild ended."""
        return tuple(one for one in self.ledger if isinstance(one, Verdict))


def _messages(home: LogHome, log: str) -> Iterator[AnyMessage]:
    """Yield what a log holds, each once, but for what belongs to the wall clock."""
    reader, seen = home.reader(log), FirstWins()
    for stored in read_all(reader):
        message = parse(stored.record.value)
        if isinstance(message, Progress):
            continue
        if seen.accept(message.key, stored.record.value):
            yield message
    reader.close()


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
