"""What the workers tell each other, besides clicks.

Counts are counts of valid events since the start of the run. A stretch of events is written
``begin``, ``end``: the events number ``begin + 1`` to ``end``. A message that stands in a log has
a :attr:`key`: what is published again after a restart has the same key and must have the same
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

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
    "Position",
    "PositionRange",
    "PredictionBatch",
    "Progress",
    "RebuildPlan",
    "Request",
    "Rollback",
    "Scores",
    "Segment",
    "Stability",
    "Verdict",
    "VerdictName",
    "Window",
    "dump",
    "parse",
]


class Message(BaseModel):
    """Base of the messages that travel as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Position(NamedTuple):
    """Where an event stands inside a partition: the record, and the row in a columnar record."""

    offset: int
    row: int


class PositionRange(NamedTuple):
    """Consecutive valid events of one partition, first and last included."""

    partition: int
    first: Position
    last: Position
    events: int


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """One model's predictions for one batch, made before the model learned from it."""

    model: str
    """``dense``, ``sparse``, ``never_rebuilt`` or ``candidate-n``."""
    version: int
    begin: int
    """Valid events before this batch."""
    spans: tuple[PositionRange, ...]
    """Which events, in the order of ``probability``."""
    trained_through: dict[int, Position]
    """For each partition the last place the model or any ancestor of it has learned from."""
    probability: NDArray[np.float64]
    """Shape (n,), the predicted chance of a click."""

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.probability)


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
    predicted_clicks: float | None = None
    """The clicks that it expected, weighted."""
    ece: float | None = None
    """Expected calibration error: how far predicted and observed click rates lie apart on average,
    over tenths of the events ordered by prediction. None with too few clicks, as the next four."""
    roc_auc: float | None = None
    """Chance that a click was given more than another event, 0 to 1."""
    roc_auc_error: float | None = None
    """The exact one lies no further off: predictions are sorted into bins."""
    pr_auc: float | None = None
    """Average precision, 0 to 1; whoever guesses reaches the click rate."""
    pr_auc_error: float | None = None
    """As of ``roc_auc_error``."""
    regret: float | None = None
    """Mean divergence of its probabilities from the true ones, nats per event: the part of CE that
    was to be avoided. None where these are not known, or where it is not finite."""


class Segment(Message):
    """The scores of all models on some of the events."""

    feature: str
    """What the events are told apart by: a feature, or several, as in ``site,hour``."""
    value: str
    """Its bucket, or those of several; ``missing``; or ``rest``, all values together that have no
    segment of their own."""
    events: int
    weight: float
    clicks: float
    """Weighted clicks."""
    click_rate: float | None
    """None without an event; then there are no scores either."""
    models: dict[str, ModelScore | None]
    """As of the window, but without ``ne_training``."""
    relative_ce: dict[str, Interval | None]
    bayes_ce: float | None


class Scores(Message):
    """The scores of all models on a stretch of events."""

    begin: int
    end: int
    weight: float
    clicks: float
    """Weighted clicks."""
    click_rate: float
    models: dict[str, ModelScore | None]
    """By model; None for one that had not started when the stretch began."""
    relative_ce: dict[str, Interval | None]
    """CE(model) / CE(dense) − 1 on the same events, for every model but dense."""
    bayes_ce: float | None
    """CE of the true probabilities, where they are known."""
    drift: tuple[str, ...]
    """The true drifts that touch the stretch, where they are known."""
    segments: tuple[Segment, ...] = ()
    """For each segmentation asked for its most frequent values, then the rest."""


class Window(Scores):
    """The scores of all models on one tumbling window."""

    kind: Literal["window"] = "window"
    size: int
    """Events that a full window holds."""
    number: int
    """Windows of this size before this one."""
    partial: bool
    """The input ended inside; such a window decides nothing."""

    @property
    def key(self) -> str:
        """Kind, size and number."""
        return f"window/{self.size}/{self.number}"


class Lifetime(Scores):
    """The scores of all models so far, told with every window of the second smallest size.

    (Of the only size where there is but one.) There is one since the first event, on dense alone,
    and one since all models have begun, for these on the same events.
    """

    kind: Literal["lifetime"] = "lifetime"

    @property
    def key(self) -> str:
        """Kind, begin and end."""
        return f"lifetime/{self.begin}/{self.end}"


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


Action = Literal["rollback", "rebuild"]


class Request(Message):
    """What a person asked for by command line."""

    kind: Literal["request"] = "request"
    id: str = Field(min_length=1)
    """Drawn once; a request is taken once."""
    action: Action
    version: int | None = Field(default=None, ge=1)
    """The version to go back to, of a rollback."""
    reason: str
    """In the person's own words."""
    time_ms: int
    """When it was asked, by the wall clock."""

    @model_validator(mode="after")
    def _names_a_version(self) -> Self:
        if (self.version is None) == (self.action == "rollback"):
            raise ValueError(
                f"a {self.action} of version {self.version}: a rollback names a version, a rebuild "
                "does not"
            )
        return self

    @property
    def key(self) -> str:
        """Kind and id."""
        return f"request/{self.id}"


class Rollback(Message):
    """An earlier version of the sparse model that serves again, under a new number."""

    to_version: int
    version: int
    """The one that begins behind ``effective``."""
    snapshot: str
    """Of the version gone back to, relative to the folder of snapshots."""
    mask: str | None
    """Content hash of its mask."""
    effective: int
    """W + lead: the sparse model takes the weights and the mask back behind this count."""


class Decision(Message):
    """What was decided on the window that ends at ``count``."""

    kind: Literal["decision"] = "decision"
    count: int
    rebuild: RebuildPlan | None = None
    why_not: str | None = None
    """The reason where no rebuild begins."""
    request: Request | None = None
    """What a person had asked for, where this decision answers it."""
    declined: str | None = None
    """Why the request was not granted; the decision is then the one without it."""
    rollback: Rollback | None = None
    """Where the request was granted and asks for one; an open rebuild is then rejected."""

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


DetectorName = Literal["dense_loss", "relative_loss", "click_rate", "input"]


class Alarm(Message):
    """Something has drifted, by all that the evaluator sees; it decides nothing."""

    kind: Literal["alarm"] = "alarm"
    detector: DetectorName
    """What it listens to."""
    feature: str | None
    """The feature that has drifted, of ``input``."""
    count: int
    """The end of the window that raised it."""
    since: int
    """Events before the change began, as far as the windows tell."""
    statistic: float
    """What was found; larger than ``threshold``."""
    threshold: float
    reason: str
    """In words, with the figures that made it."""

    @property
    def key(self) -> str:
        """Kind, detector, count and feature."""
        of = f"/{self.feature}" if self.feature is not None else ""
        return f"alarm/{self.detector}/{self.count}{of}"


class Stability(Message):
    """How far each feature is from where it was in the window that it is compared with."""

    kind: Literal["stability"] = "stability"
    begin: int
    end: int
    psi: dict[str, float]
    """Population stability index by feature, 0 or more; without those that have nothing to be
    compared with yet."""

    @property
    def key(self) -> str:
        """Kind and end."""
        return f"stability/{self.end}"


class DriftSpan(Message):
    """A true drift of a synthetic stream."""

    drift: str
    """The kind, such as ``gradual``."""
    begin: int
    end: int
    """The count at which it ends; equal to ``begin`` for an abrupt one."""


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
    headers: tuple[tuple[str, str], ...] = ()
    """Of the record, in order: name, and value as base64."""

    @property
    def key(self) -> str:
        """The position."""
        return f"dead_letter/{self.partition}/{self.offset}/{self.row}"


class DeadLetters(Message):
    """How many events did not validate, told whenever a window closes behind some."""

    kind: Literal["dead_letters"] = "dead_letters"
    begin: int
    """Valid events when the window before closed."""
    count: int
    """Valid events now."""
    reasons: dict[str, int]
    """How many by reason, as of :class:`DeadLetter`."""

    @property
    def key(self) -> str:
        """Kind, begin and count."""
        return f"dead_letters/{self.begin}/{self.count}"


class Progress(Message):
    """How a worker is doing by the wall clock; never read by any decision.

    Its copies in the log ``windows`` are not compared: what is published again has another time.
    """

    kind: Literal["progress"] = "progress"
    worker: str
    count: int
    """Events through which it has come."""
    events: int
    """Events that it has worked on since it started."""
    wall_seconds: float
    """Seconds since it started."""
    waiting_for: str | None
    time_ms: int
    """Unix time, milliseconds."""
    lag_events: int | None = None
    """Events that are there for the worker and that it has not come through; None where that is
    not known."""
    lag_seconds: float | None = None
    """Time since there were as many events as it has come through."""
    done: bool = False
    """The input has ended and all its work is done."""

    @property
    def key(self) -> str:
        """Kind, worker and time."""
        return f"progress/{self.worker}/{self.time_ms}"


AnyMessage = (
    Window
    | Lifetime
    | Alarm
    | Stability
    | Judgement
    | Request
    | Decision
    | Verdict
    | DeadLetter
    | DeadLetters
    | Progress
)
_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(Annotated[AnyMessage, Field(discriminator="kind")])


def dump(message: Message) -> bytes:
    """Write a message as JSON bytes; equal messages give equal bytes."""
    return message.model_dump_json().encode()


def parse(value: bytes) -> AnyMessage:
    """Read any message back.

    >>> parse(dump(Decision(count=500, why_not="maturing"))).key
    'decision/500'
    """
    return _ADAPTER.validate_json(value)
