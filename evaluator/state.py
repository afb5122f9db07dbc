"""What the evaluator keeps between two lives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter

from evaluator.join import JoinCursor
from evaluator.judging import JudgingState
from evaluator.position import LogPosition
from evaluator.scoring import ScoringState
from stream.messages import Place
from stream.state import Checkpoints

_PART: Final = "evaluator.json"


@dataclass(frozen=True, slots=True)
class EvaluatorState:
    """All that the evaluator knows; small, since nothing is half joined."""

    cursor: JoinCursor | None = None
    """None before the first event."""
    scoring: ScoringState = field(default_factory=ScoringState)
    judging: JudgingState = field(default_factory=JudgingState)
    logs: dict[str, LogPosition] = field(default_factory=dict)
    """By name: the ends of the logs that it writes, and how far those of others are copied."""
    letters: dict[int, Place] = field(default_factory=dict)
    """By partition, the last place of which a dead letter is written: well before a batch skips it,
    so it may stand behind the cursor."""


_ADAPTER: Final = TypeAdapter(EvaluatorState)


def save(checkpoints: Checkpoints, count: int, state: EvaluatorState) -> None:
    """Write a checkpoint; equal states give equal bytes."""
    checkpoints.write(count, {_PART: _ADAPTER.dump_json(state)})


def load(checkpoints: Checkpoints) -> EvaluatorState:
    """Read the newest checkpoint; where there is none, begin with the first event.

    >>> import tempfile
    >>> from pathlib import Path
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
    >>> save(checkpoints, 500, EvaluatorState(judging=JudgingState(judged=2)))
    >>> load(checkpoints).judging.judged
    2
    """
    newest = checkpoints.latest()
    return EvaluatorState() if newest is None else _ADAPTER.validate_json(newest.parts[_PART])
