"""What the workers tell each other, besides clicks.

Counts are counts of valid events since the start of the run. A stretch of events is written
``begin``, ``end``: the events number ``begin + 1`` to ``end``. A message that stands in a log has
a :attr:`key`: what is published again after a restart has the same key and must have the same
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

__all__ = ["Action", "Alarm", "AnyMessage", "Baseline", "Baselines", "DeadLetter", "DeadLetters"]
__all__ += ["Decision", "DetectorName"]
__all__ += ["DriftSpan", "Interval", "Judgement", "Layer", "Lifetime", "MaskChange", "Message"]
__all__ += ["ModelScore"]
__all__ += ["Position", "PositionRange", "PredictionBatch", "Progress", "RebuildPlan", "Request"]
__all__ += ["Rollback", "Scores", "Segment", "Stability", "Verdict", "VerdictName", "Window"]
__all__ += ["dump", "parse"]


class Message(BaseModel):
    """Base of the messages that travel as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key_fields: ClassVar[tuple[str, ...]] = ()
    """Of a message that stands in a log, the fields that tell it from others of its kind."""

    @property
    def key(self) -> str:
        """The kind and those fields, without those that are None."""
        values = (getattr(self, name) for name in ("kind", *self.key_fields))
        return "/".join(str(value) for value in values if value is not None)


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
    set_aside: tuple[tuple[int, Position], ...] = ()
    """Partition and place of the events that the model does not learn, since what it would learn
    from them is not finite."""

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
    """How one model did on some events, before it learned from them."""

    versions: tuple[int, ...]
    """The versions that predicted here, in order; more than one where a swap fell inside."""
    metrics: dict[str, float | None]
    """The value of each metric, by name; None where it is not defined or not known."""
    errors: dict[str, float] = {}
    """By metric, for those that are not exact: how far away the exact value is at most."""
    intervals: dict[str, tuple[float, float]] = {}
    """By metric, for those that have one: the 95 % confidence interval, within one run."""

    def interval(self, metric: str) -> Interval | None:
        """Return a metric with its interval; None where it is not known."""
        mean = self.metrics.get(metric)
        low, high = self.intervals.get(metric, (None, None))
        return None if mean is None else Interval(mean=mean, low=low, high=high)


class _OfModels(Message):
    """The scores of all models on the same events."""

    models: dict[str, ModelScore | None]
    """By model, the root first; None for one that did not predict all of the events."""
    bayes_ce: float | None
    """CE of the true probabilities; None where they are not known."""

    def metric(self, model: str, name: str) -> float | None:
        """Return one figure of one model; None where it is not known."""
        score = self.models.get(model)
        return None if score is None else score.metrics.get(name)

    def interval(self, model: str, name: str) -> Interval | None:
        """Return one figure of one model with its interval; None where it is not known."""
        score = self.models.get(model)
        return None if score is None else score.interval(name)


class Segment(_OfModels):
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


class Scores(_OfModels):
    """The scores of all models on a range of events."""

    begin: int
    end: int
    weight: float
    clicks: float
    """Weighted clicks."""
    click_rate: float
    drift: tuple[str, ...]
    """The true drifts that touch the range, where they are known."""
    segments: tuple[Segment, ...] = ()
    """For each segmentation asked for its most frequent values, then the rest."""


class Window(Scores):
    """The scores of all models on one tumbling window."""

    key_fields = ("size", "number")
    kind: Literal["window"] = "window"
    size: int
    """Events that a full window holds."""
    number: int
    """Windows of this size before this one."""
    partial: bool
    """The input ended inside; such a window decides nothing. Where the input is continued, the
    whole window follows."""

    @property
    def key(self) -> str:
        """Size and number, and of a partial window where it ends: a whole one may follow."""
        return f"{super().key}/{self.end}" if self.partial else super().key


class Lifetime(Scores):
    """The scores of all models so far, written when a window of the second smallest size closes.

    (Of the only size where there is one alone.) There is one since the first event, on the root
    alone, and one since all models have begun, for these on the same events.
    """

    key_fields = ("begin", "end")
    kind: Literal["lifetime"] = "lifetime"


class Baseline(Message):
    """How one simple model did on some events, before it learned from them."""

    ce: float
    """Cross entropy, nats per event."""
    relative: dict[str, Interval]
    """By model CE(model) / CE(baseline) − 1 on the same events: above 0 the model is worse."""


class Baselines(Message):
    """Two simple models and all others, on some events of a range.

    Written when a window of the second smallest size closes, or of the only one.
    """

    key_fields = ("end",)
    kind: Literal["baselines"] = "baselines"
    begin: int
    end: int
    every: int
    """One event in so many was scored, and learned from, after the first 20 000, all of which
    were."""
    events: int
    """Those scored."""
    weight: float
    clicks: float
    """Weighted clicks."""
    models: dict[str, float]
    """CE by model, nats per event; without those that did not predict all of the events."""
    baselines: dict[str, Baseline]
    """``click_rate``: the click rate of the events before; ``logistic_regression``: River's."""


class Judgement(Message):
    """A candidate against the incumbent on the same events, the last ones before E."""

    key_fields = ("rebuild",)
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


class RebuildPlan(Message):
    """A rebuild, from the decision to the swap."""

    number: int
    """1 for the first mask, then counting up."""
    reason: str
    """``first``, ``request``, or the name of the trigger."""
    cause: str
    """The reason in words, with the figures that led to it."""
    begin: int
    """s: the count of the dense snapshot it starts from."""
    decided: int
    """W: the count at the end of the window that decided it."""
    end: int
    """E: the candidate learns begin + 1 .. E and takes over at E + 1."""

    @property
    def candidate(self) -> str:
        """The name its predictions bear."""
        return f"candidate-{self.number}"


Action = Literal["rollback", "rebuild"]


class Request(Message):
    """A request that a person made by command line."""

    key_fields = ("id",)
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


class Rollback(Message):
    """An earlier version of the sparse model that serves again, under a new number."""

    to_version: int
    version: int
    """The one that begins after ``count``."""
    snapshot: str
    """Of the version gone back to, relative to the folder of snapshots."""
    mask: str | None
    """Content hash of its mask."""
    count: int
    """W + lead: the sparse model takes the weights and the mask back after this count."""


class Decision(Message):
    """What was decided on the window that ends at ``count``."""

    key_fields = ("count",)
    kind: Literal["decision"] = "decision"
    count: int
    rebuild: RebuildPlan | None = None
    why_not: str | None = None
    """The reason where no rebuild begins."""
    request: Request | None = None
    """The request that this decision answers, if any."""
    declined: str | None = None
    """Why the request was not granted; the decision is then the one without it."""
    rollback: Rollback | None = None
    """Where the request was granted and asks for one; an open rebuild is then rejected."""


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

    key_fields = ("count",)
    kind: Literal["verdict"] = "verdict"
    count: int
    rebuild: RebuildPlan
    verdict: VerdictName
    reason: str
    version: int | None = None
    """The sparse version that begins at E + 1, where promoted."""
    snapshot: str | None = None
    """Name of the candidate's snapshot, relative to the folder of snapshots."""
    mask: str | None = None
    """Content hash of the mask."""
    sparsity: float | None = None
    layers: dict[str, Layer] = {}
    judgement: Judgement | None = None
    """None for the first mask, which is promoted without one, and where it ended before."""
    cost_events: int
    """Events that the prune worker learned from or gathered evidence on."""


class MaskChange(Message):
    """A change of the masks of a model in service that is no change of its version."""

    key_fields = ("model", "count")
    kind: Literal["mask_change"] = "mask_change"
    model: str
    count: int
    """Events that the model had learned."""
    source_count: int
    """Events that the dense model had learned, whose evidence and weights it is made from."""
    mask: str
    """Content hash of the new mask."""
    kept: dict[str, int]
    """By layer, the weights that are kept."""
    entered: dict[str, int]
    """By layer, those of them that were not kept before."""

    @property
    def moved(self) -> float:
        """The share of the weights kept, over all layers, that were not kept before."""
        return sum(self.entered.values()) / sum(self.kept.values())


DetectorName = Literal["dense_loss", "relative_loss", "click_rate", "input"]


class Alarm(Message):
    """Something has drifted, as far as the evaluator sees; it decides nothing."""

    key_fields = ("detector", "count", "feature")
    kind: Literal["alarm"] = "alarm"
    detector: DetectorName
    """What it looks at."""
    feature: str | None
    """The feature that has drifted, of ``input``."""
    count: int
    """The end of the window that raised it."""
    since: int
    """Events before the change began, as far as the windows show."""
    statistic: float
    """What was found; larger than ``threshold``."""
    threshold: float
    reason: str
    """In words, with its figures."""


class Stability(Message):
    """How far each feature is from where it was in the window that it is compared with."""

    key_fields = ("end",)
    kind: Literal["stability"] = "stability"
    begin: int
    end: int
    psi: dict[str, float]
    """Population stability index by feature, 0 or more; without those that have nothing to be
    compared with yet."""


class DriftSpan(Message):
    """A true drift of a synthetic stream."""

    drift: str
    """The kind, such as ``gradual``."""
    begin: int
    end: int
    """The count at which it ends; equal to ``begin`` for an abrupt one."""


class DeadLetter(Message):
    """An event that did not validate, and why."""

    key_fields = ("partition", "offset", "row")
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
    """The bytes as they came, base64; the first of them where the log takes no record of all."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of the record, in order: name, and value as base64; none where the log does not take them."""
    raw_bytes: int | None = None
    """How many bytes came, where ``raw`` holds the first of them only."""
    raw_sha256: str | None = None
    """The SHA-256 of all of them, as hex digits, where ``raw`` holds the first of them only."""


class DeadLetters(Message):
    """How many events did not validate since a window closed, written when the next one closes."""

    key_fields = ("begin", "count")
    kind: Literal["dead_letters"] = "dead_letters"
    begin: int
    """Valid events when the window before closed."""
    count: int
    """Valid events now."""
    reasons: dict[str, int]
    """How many by reason, as of :class:`DeadLetter`."""


class Progress(Message):
    """How a worker is doing by the wall clock; never read by any decision.

    Its copies in the log ``windows`` are not compared: what is published again has another time.
    """

    key_fields = ("worker", "time_ms")
    kind: Literal["progress"] = "progress"
    worker: str
    count: int
    """Events through which it has come."""
    events: int
    """Events that it has worked on since it started."""
    wall_seconds: float
    """Seconds since it started."""
    waiting_for: str | None
    """In words; None: for nothing."""
    time_ms: int
    """Unix time, milliseconds."""
    waiting_log: str | None = None
    """The log that must continue first, where it waits."""
    lag_events: int | None = None
    """Events that are there for the worker and that it has not come through; None where that is
    not known."""
    lag_seconds: float | None = None
    """Time since there were as many events as it has come through."""
    done: bool = False
    """The input has ended and all its work is done."""


AnyMessage = (
    Window
    | Lifetime
    | Baselines
    | Alarm
    | Stability
    | Judgement
    | Request
    | Decision
    | Verdict
    | MaskChange
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
