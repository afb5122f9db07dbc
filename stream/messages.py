"""What the workers tell each other, besides clicks.

Counts are counts of valid events since the start of the run. A stretch of events is written
``begin``, ``end``: the events number ``begin + 1`` to ``end``. A message that stands in a log has
a :attr:`key`: what is published again after a restart has the same key and must have the same
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Place(NamedTuple):
    """Where an event stands inside a partition: the record, and the row in a columnar record."""

    offset: int
    row: int


class Span(NamedTuple):
    """Consecutive valid events of one partition, first and last included."""

    partition: int
    first: Place
    last: Place
    events: int


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """One model's predictions for one batch, made before the model learned from it."""

    model: str
    """``dense``, ``sparse``, ``never_rebuilt`` or ``candidate-n``."""
    version: int
    begin: int
    """Valid events before this batch."""
    spans: tuple[Span, ...]
    """Which events, in the order of ``probability``."""
    trained_through: dict[int, Place]
    """For each partition the last place the model or any ancestor of it has learned from."""
    probability: NDArray[np.float64]
    """Shape (n,), the predicted chance of a click."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.probability)


class Message(BaseModel):
    """Base of the messages that travel as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Message):
    """A mean and its 95 % confidence interval, within one run."""

    mean: float
    low: float | None
    high: float | None


class ModelScore(Message):
    """How one model did on one window, before it learned from it."""

    versions: tuple[int, ...]
    """The versions that predicted here, in order; more than one where a swap fell inside."""
    ce: float
    """Cross entropy, nats per event."""
    ne: float | None
    """CE over the entropy of the same window's click rate; None with too few clicks."""
    ne_training: float | None
    """CE over the cross entropy of predicting the click rate of all events before the window."""
    calibration: float | None
    """Predicted over observed clicks."""


class Window(Message):
    """The scores of all models on one tumbling window."""

    kind: Literal["window"] = "window"
    size: int
    """Events that a full window holds."""
    number: int
    """Windows of this size before this one."""
    begin: int
    end: int
    partial: bool
    """The input ended inside; such a window decides nothing."""
    weight: float
    clicks: float
    """Weighted clicks."""
    click_rate: float
    models: dict[str, ModelScore | None]
    """By model; None for one that had not started when the window began."""
    relative_ce: dict[str, Interval | None]
    """CE(model) / CE(dense) − 1 on the same events, for every model but dense."""
    bayes_ce: float | None
    """CE of the true probabilities, where they are known."""
    drift: tuple[str, ...]
    """The true drifts that touch this window, where they are known."""

    @property
    def key(self) -> str:
        """Kind, size and number."""
        return f"window/{self.size}/{self.number}"


class Judgement(Message):
    """A candidate against the incumbent on the same events, the last ones before E."""

    kind: Literal["judgement"] = "judgement"
    rebuild: int
    begin: int
    end: int
    candidate_ce: float
    incumbent_ce: float
    dense_ce: float
    difference: Interval
    """CE(candidate) − CE(incumbent), nats per event, paired by event."""
    relative: Interval
    """CE(candidate) / CE(incumbent) − 1, with the same events."""

    @property
    def key(self) -> str:
        """Kind and number of the rebuild."""
        return f"judgement/{self.rebuild}"


class RebuildPlan(Message):
    """A rebuild, from the decision to the swap."""

    number: int
    """1 for the first mask, then counting up."""
    reason: str
    """``first``, or the name of the trigger."""
    cause: str
    """The reason in words, with the figures that made it."""
    snapshot: int
    """s: the count of the dense snapshot it starts from."""
    decided: int
    """W: the end of the window that decided it."""
    end: int
    """E: the candidate learns snapshot + 1 .. E and takes over at E + 1."""

    @property
    def candidate(self) -> str:
        """The name its predictions bear."""
        return f"candidate-{self.number}"


class Decision(Message):
    """What was decided on the window that ends at ``count``."""

    kind: Literal["decision"] = "decision"
    count: int
    rebuild: RebuildPlan | None = None
    why_not: str | None = None
    """The reason where nothing is to be done."""

    @property
    def key(self) -> str:
        """Kind and count."""
        return f"decision/{self.count}"


VerdictName = Literal["promoted", "rejected", "failed", "unfinished"]


class Layer(Message):
    """One pruned layer of a candidate."""

    weights: int
    kept: int
    sparsity: float
    """Share of weights removed."""
    overlap: float | None
    """Share of the kept weights that the mask before it kept too; None for the first mask."""


class Verdict(Message):
    """How a rebuild ended; ``count`` is its E."""

    kind: Literal["verdict"] = "verdict"
    count: int
    rebuild: RebuildPlan
    verdict: VerdictName
    reason: str
    version: int | None
    """The sparse version that begins at E + 1, where promoted."""
    snapshot: str | None
    """Name of the candidate's snapshot, relative to the folder of snapshots."""
    mask: str | None
    """Content hash of the mask."""
    sparsity: float | None
    layers: dict[str, Layer]
    judgement: Judgement | None
    """None for the first mask, which is promoted without one."""
    cost_events: int
    """Events that the prune worker learned from or gathered evidence on."""

    @property
    def key(self) -> str:
        """Kind and count."""
        return f"verdict/{self.count}"


class DeadLetter(Message):
    """An event that did not validate, and why."""

    kind: Literal["dead_letter"] = "dead_letter"
    reason: str
    """One of a fixed set, such as ``label``, ``numeric``, ``unparsable``."""
    detail: str
    partition: int
    offset: int
    row: int
    file: str | None
    line: int | None
    raw: str
    """The bytes as they came, base64."""

    @property
    def key(self) -> str:
        """The position."""
        return f"dead_letter/{self.partition}/{self.offset}/{self.row}"


class Progress(Message):
    """How a worker is doing by the wall clock; never read by any decision."""

    kind: Literal["progress"] = "progress"
    worker: str
    count: int
    wall_seconds: float
    """Seconds since the worker started."""
    waiting_for: str | None

    @property
    def key(self) -> str:
        """Kind, worker and second."""
        return f"progress/{self.worker}/{self.wall_seconds:.3f}"


class DriftSpan(Message):
    """A true drift of a synthetic stream."""

    drift: str
    """The kind, such as ``gradual``."""
    begin: int
    end: int
    """The count at which it ends; equal to ``begin`` for an abrupt one."""


AnyMessage = Annotated[
    Window | Judgement | Decision | Verdict | DeadLetter | Progress, Field(discriminator="kind")
]
_ADAPTER: TypeAdapter[Window | Judgement | Decision | Verdict | DeadLetter | Progress] = (
    TypeAdapter(AnyMessage)
)


def dump(message: Message) -> bytes:
    """Write a message as JSON bytes; equal messages give equal bytes."""
    return message.model_dump_json().encode()


def parse(value: bytes) -> Window | Judgement | Decision | Verdict | DeadLetter | Progress:
    """Read any message back.

    >>> parse(dump(Decision(count=500, why_not="maturing"))).key
    'decision/500'
    """
    return _ADAPTER.validate_json(value)
