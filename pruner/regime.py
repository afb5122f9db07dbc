"""What the ledger tells the sparse learners: go on, swap, or wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from learner.regime import Answer, Go, Over, Swap, Wait
from pruner.ledger import LedgerTail, settled
from stream.log import LogReader
from stream.messages import Verdict


@dataclass(frozen=True, slots=True)
class Leash:
    """How far a sparse model may run ahead of what is decided."""

    window_events: int
    lead_events: int
    """Events past the end of an undecided window."""


class LedgerRegime:
    """The regime of the sparse model: every promoted candidate takes over at its E.

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
        self._swaps: dict[int, Swap] = {}

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

    def _read(self) -> None:
        for message in self._tail.poll():
            if isinstance(message, Verdict) and message.verdict == "promoted":
                self._swaps[message.count] = swap_of(message)

    def _known(self, count: int | None) -> Answer:
        if count is None:
            return self._start()
        history, leash = self._tail.history, self._leash
        due = history.decided + leash.window_events
        if count >= due + leash.lead_events:
            return Wait(f"the decision on the window ending at {due}")
        if history.open is not None and history.open.end == count:
            return Wait(f"the verdict on rebuild {history.open.number}")
        return self._swaps.get(count, Go())

    def _start(self) -> Answer:
        if self._swaps:
            return self._swaps[min(self._swaps)]
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


def swap_of(verdict: Verdict) -> Swap:
    """Say what a sparse model becomes by a promotion."""
    if verdict.version is None or verdict.snapshot is None:
        raise ValueError(f"rebuild {verdict.rebuild.number} was {verdict.verdict}: no swap")
    return Swap(verdict.version, verdict.snapshot, verdict.count, verdict.mask)
