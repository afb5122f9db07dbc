"""How many events were passed over, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from stream.messages import DeadLetters


@dataclass(frozen=True, slots=True)
class SkippedState:
    """What has not been told yet, for a checkpoint."""

    begin: int = 0
    """The count when something was told last, or could have been."""
    reasons: dict[str, int] = field(default_factory=dict)


class Skipped:
    """Counts the invalid events between two windows' ends.

    Parameters
    ----------
    state
        Where to go on.

    Examples
    --------
    >>> skipped = Skipped(SkippedState())
    >>> skipped.add({"label": 1})
    >>> [(one.begin, one.count, one.reasons) for one in skipped.tell(500)], skipped.tell(1_000)
    ([(0, 500, {'label': 1})], ())
    """

    def __init__(self, state: SkippedState) -> None:
        self._begin = state.begin
        self._reasons = Counter(state.reasons)

    @property
    def state(self) -> SkippedState:
        """All that it knows; equal histories give equal states."""
        return SkippedState(self._begin, dict(sorted(self._reasons.items())))

    def add(self, skipped: Mapping[str, int]) -> None:
        """Count invalid events, so many of each reason."""
        self._reasons.update(skipped)

    def tell(self, count: int) -> tuple[DeadLetters, ...]:
        """Tell at a count what was found since the last time; nothing where nothing was."""
        state, self._begin = self.state, count
        self._reasons.clear()
        if not state.reasons:
            return ()
        return (DeadLetters(begin=state.begin, count=count, reasons=state.reasons),)
