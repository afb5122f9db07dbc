"""What the ledger tells the sparse learners: go on, swap, or wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from learner.regime import Answer, Go, Over, Revert, Swap, Wait
from pruner.ledger import LedgerTail, settled, swap_back, swap_of
from stream.log import LogReader
from stream.messages import Decision, Verdict


@dataclass(frozen=True, slots=True)
class Leash:
    """How far a sparse model may run ahead of what is decided."""

    window_events: int
    lead_events: int
    """Events past the end of an undecided window."""


class LedgerRegime:
    """The regime of the sparse model: every promoted candidate takes over at its E.

    A rollback takes effect where its decision says, which the leash lets no model pass before it.

    Parameters
    ----------
    ledger
        Its own reader of the ledger.
    leash
        How far the model may run ahead.
    total
        Returns the number of events of the whole input, None while that is not known.
    """

    def __init__(self, ledger: LogReader, leash: Leash, total: Callable[[], int | None]) -> None:
        self._tail = LedgerTail(ledger)
        self._leash = leash
        self._total = total
        self._first: Swap | None = None
        self._changes: dict[int, Swap | Revert] = {}

    def at(self, count: int | None) -> Answer:
        """Answer a model that has learned ``count`` events; None for one that has not started.

        The ledger is read only where what is known of it would make the model wait: every rebuild
        that could end before the leash does is decided already.
        """
        answer = self._known(count)
        if isinstance(answer, Wait):
            self._read()
            answer = self._known(count)
        return answer

    def swaps(self) -> tuple[Swap, ...]:
        """Return all versions that the ledger told of so far, oldest first."""
        known = [one.to if isinstance(one, Revert) else one for one in self._changes.values()]
        return tuple(sorted(known, key=lambda swap: swap.version))

    def _read(self) -> None:
        for message in self._tail.poll():
            if isinstance(message, Verdict) and message.verdict == "promoted":
                swap = swap_of(message)
                self._first = self._first or swap
                self._changes[swap.count] = swap
            if isinstance(message, Decision) and message.rollback is not None:
                back = swap_back(message.rollback)
                self._changes[back.count] = Revert(back)

    def _known(self, count: int | None) -> Answer:
        if count is None:
            return self._start()
        history, leash = self._tail.history, self._leash
        due = history.decided + leash.window_events
        if count >= due + leash.lead_events:
            return Wait(f"the decision on the window ending at {due}")
        if history.open is not None and history.open.end == count:
            return Wait(f"the verdict on rebuild {history.open.number}")
        return self._changes.get(count, Go())

    def _start(self) -> Answer:
        if self._first is not None:
            return self._first
        total = self._total()
        if total is not None and settled(self._tail.history, total, self._leash.window_events):
            return Over()
        return Wait("the first mask")


class NeverRebuiltRegime:
    """The regime of the twin that keeps the first mask for ever.

    Parameters
    ----------
    regime
        The sparse model's, with a reader of its own; only its start is used.
    """

    def __init__(self, regime: LedgerRegime) -> None:
        self._regime = regime

    def at(self, count: int | None) -> Answer:
        """Answer with the first mask, and let the model go on with it."""
        return self._regime.at(None) if count is None else Go()
