"""What the workers tell each other, besides clicks.

Counts are counts of valid events since the start of the run. A stretch of events is written
``begin``, ``end``: the events number ``begin + 1`` to ``end``. A message that stands in a log has
a :attr:`key`: what is published again after a restart has the same key and must have the same
bytes.
"""

from __future__ import annotations

from stream.messages.decisions import (
    Action,
    Decision,
    Layer,
    RebuildPlan,
    Request,
    Rollback,
    Verdict,
    VerdictName,
)
from stream.messages.drift import Alarm, DetectorName, DriftSpan, Stability
from stream.messages.letters import DeadLetter, DeadLetters
from stream.messages.message import Message
from stream.messages.predictions import Place, PredictionBatch, Span
from stream.messages.progress import Progress
from stream.messages.scores import (
    Interval,
    Judgement,
    Lifetime,
    ModelScore,
    Scores,
    Segment,
    Window,
)
from stream.messages.wire import AnyMessage, dump, parse

__all__ = [
    "Action",
    "Alarm",
    "AnyMessage",
    "DeadLetter",
    "DeadLetters",
    "Decision",
    "DetectorName",
    "DriftSpan",
    "Interval",
    "Judgement",
    "Layer",
    "Lifetime",
    "Message",
    "ModelScore",
    "Place",
    "PredictionBatch",
    "Progress",
    "RebuildPlan",
    "Request",
    "Rollback",
    "Scores",
    "Segment",
    "Span",
    "Stability",
    "Verdict",
    "VerdictName",
    "Window",
    "dump",
    "parse",
]
