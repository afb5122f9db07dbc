"""How good models are, by the evaluator."""

from __future__ import annotations

from typing import Literal

from stream.messages.message import Message


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
