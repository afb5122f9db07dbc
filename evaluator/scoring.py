"""What there is to tell about each batch: the windows that it closes, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from evaluator.alarms import Alarms, AlarmsState
from evaluator.config import EvaluatorConfig
from evaluator.joined import JoinedBatch
from evaluator.segments import Segments, SegmentsState
from evaluator.skipped import Skipped, SkippedState
from evaluator.sums import Sums
from evaluator.windows import TumblingWindows, WindowsState
from stream.messages import Alarm, DeadLetters, Lifetime, Stability, Window
from stream.schema import FeatureSchema


@dataclass(frozen=True, slots=True)
class Told:
    """Messages, each in the log ``windows`` once."""

    windows: tuple[Window, ...] = ()
    """Just closed, the smallest first."""
    lifetimes: tuple[Lifetime, ...] = ()
    stability: tuple[Stability, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    dead_letters: tuple[DeadLetters, ...] = ()

    @property
    def messages(self) -> tuple[Window | Lifetime | Stability | Alarm | DeadLetters, ...]:
        """All of them, in the order in which they are written."""
        told = self.windows + self.lifetimes + self.stability + self.alarms
        return told + self.dead_letters


@dataclass(frozen=True, slots=True)
class ScoringState:
    """All that scoring knows, for a checkpoint."""

    windows: WindowsState | None = None
    segments: SegmentsState | None = None
    alarms: AlarmsState = field(default_factory=AlarmsState)
    skipped: SkippedState = field(default_factory=SkippedState)


class Scoring:
    """Takes in one batch after the other, and tells what follows from it.

    Parameters
    ----------
    config
        What is scored, and what counts as drift.
    schema
        Of the clicks.
    state
        Where to go on.
    """

    def __init__(self, config: EvaluatorConfig, schema: FeatureSchema, state: ScoringState) -> None:
        self._segments = Segments(schema, config, state.segments)
        self._windows = TumblingWindows(config, state.windows)
        self._alarms = Alarms(config, schema, state.alarms)
        self._skipped = Skipped(state.skipped)

    @property
    def state(self) -> ScoringState:
        """All that it knows, for a checkpoint."""
        alarms, skipped = self._alarms.state, self._skipped.state
        return ScoringState(self._windows.state, self._segments.state, alarms, skipped)

    def add(self, batch: JoinedBatch) -> tuple[Sums, Told]:
        """Take in a batch; return its sums, and what there is to tell."""
        sums = Sums.of(batch, self._segments.of(batch.clicks))
        self._alarms.look(batch.clicks)
        self._skipped.add(batch.skipped)
        return sums, self._tell(self._windows.add(sums))

    def finish(self, skipped: Mapping[str, int] = MappingProxyType({})) -> Told:
        """Close what is open, since the input has ended, with invalid events at its very end."""
        self._skipped.add(skipped)
        closed = self._windows.finish()
        if not closed:
            return Told(dead_letters=self._skipped.tell(self._windows.state.so_far.events))
        return self._tell(closed)

    def _tell(self, closed: tuple[Window, ...]) -> Told:
        if not closed:
            return Told()
        stability, alarms = self._alarms.listen(closed)
        letters = self._skipped.tell(closed[0].end)
        return Told(closed, self._windows.lifetimes(closed), stability, alarms, letters)
