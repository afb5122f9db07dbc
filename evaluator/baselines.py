"""Two simple models on the same events, which every model should be better than.

Both predict an event before they learn from it, as the others do. River takes 30 µs an event, as
much as all the rest of a run together, so they see every event at the beginning alone, and then one
in ``evaluator.baseline_every``, which costs 1 µs an event; all models are compared with them on the
same events. That is to their disadvantage: a model that loses to them nevertheless is poor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from evaluator.config import EvaluatorConfig
from evaluator.join import JoinedBatch
from evaluator.metrics.metric import ArraySums, EventSums, Floats, Ints
from evaluator.metrics.relative_ce import RatioSums
from stream import PADDING, FeatureSchema
from stream.messages import Baseline, Baselines, Window

CLICK_RATE, LOGISTIC = "click_rate", "logistic_regression"
RATE: Final = 0.3
"""AdaGrad's learning rate: the best of 0.03, 0.1, 0.3 and 1 on MovieLens-100k."""
FIRST_EVENTS: Final = 20_000
"""Of which they see every one: half a second, and most of what there is where events are few."""
MAX_FEATURES: Final = 100_000
"""Of the logistic regression. A value that is new after these has no weight: memory is bounded."""
_CERTAIN: Final = 1e-6
"""No chance is closer to 0 or 1: a wrong certainty would be an infinite loss."""
_BUCKET: Final = 2**32
"""More than any feature has."""


@dataclass(frozen=True, slots=True)
class LogisticState:
    """What the logistic regression has learned: arrays of its features, in the order met."""

    features: ArraySums
    """Shape (n,), int64: the number of the feature in the schema and its bucket."""
    weights: ArraySums
    """Shape (n,), float64."""
    squares: ArraySums
    """Shape (n,), float64: AdaGrad's sums."""
    intercept: float
    steps: int


@dataclass(frozen=True, slots=True)
class BaselinesState:
    """All that the simple models know, for a checkpoint."""

    learned: EventSums = field(default_factory=EventSums)
    """The events learned from."""
    logistic: LogisticState | None = None
    """None before the first event."""
    begin: int = 0
    """The count when the last message was made."""
    on: EventSums = field(default_factory=EventSums)
    """The events scored since."""
    losses: dict[str, float] = field(default_factory=dict)
    """Weighted, by model and by baseline, of these; nats."""
    ratios: dict[str, dict[str, RatioSums]] = field(default_factory=dict)
    """By baseline and model what the model's loss exceeds the baseline's by, over the latter."""


class LogisticRegression:
    """River's logistic regression with AdaGrad, on the features as the models get them.

    Parameters
    ----------
    schema
        The features.
    state
        Where to continue; None begins with the first event.

    Examples
    --------
    >>> from stream import CategoricalFeature
    >>> schema = FeatureSchema(categorical=(CategoricalFeature(name="site", buckets=9),))
    >>> model, none = LogisticRegression(schema), np.zeros(0)
    >>> for site, clicked in [(3, True), (4, False)] * 50:
    ...     _ = model.update(none, np.array([site]), clicked, 1.0)
    >>> model.update(none, np.array([3]), True, 1.0) > 0.9
    True
    """

    def __init__(self, schema: FeatureSchema, state: LogisticState | None = None) -> None:
        # River takes seconds to load, and only an evaluator needs it.
        from river import linear_model, optim
        from river.utils import VectorDict

        numeric = len(schema.numeric)
        # The columns of a feature with several values share its weights.
        owners = [n for n, one in enumerate(schema.categorical) for _ in range(one.max_values)]
        self._first = np.arange(numeric, dtype=np.int64) * _BUCKET
        self._owners = (numeric + np.array(owners, np.int64)) * _BUCKET
        self._optimizer: Any = optim.AdaGrad(RATE)
        self._model: Any = linear_model.LogisticRegression(self._optimizer)
        self._known: set[int] = set()
        if state is not None:
            names = state.features.values.tolist()
            self._known = set(names)
            # River has no public way to continue with weights.
            weights = dict(zip(names, state.weights.values.tolist(), strict=True))
            self._model._weights = VectorDict(weights)
            self._optimizer.g2.update(zip(names, state.squares.values.tolist(), strict=True))
            self._optimizer.n_iterations = state.steps
            self._model.intercept = state.intercept

    @property
    def state(self) -> LogisticState:
        """All that it knows; equal histories give equal states."""
        weights, squares = self._model.weights, self._optimizer.g2
        names = list(weights)
        return LogisticState(
            ArraySums(np.array(names, np.int64)),
            ArraySums(np.array([weights[name] for name in names], np.float64)),
            ArraySums(np.array([squares[name] for name in names], np.float64)),
            float(self._model.intercept),
            int(self._optimizer.n_iterations),
        )

    def update(self, numeric: Floats, buckets: Any, clicked: bool, weight: float) -> float:
        """Predict the chance of a click of one event, and then learn from it.

        Parameters
        ----------
        numeric
            Shape (d,), standardised.
        buckets
            Shape (c,), as :attr:`stream.ClickBatch.categorical`.
        clicked
            What happened.
        weight
            Of the event.
        """
        x = dict(zip(self._first.tolist(), numeric.tolist(), strict=True))
        present = buckets != PADDING
        x |= dict.fromkeys((self._owners + buckets)[present].tolist(), 1.0)
        if len(self._known) < MAX_FEATURES:
            self._known.update(x)
        else:
            x = {name: value for name, value in x.items() if name in self._known}
        chance = float(self._model.predict_proba_one(x)[True])
        self._model.learn_one(x, clicked, weight)
        return min(max(chance, _CERTAIN), 1 - _CERTAIN)


class SimpleModels:
    """Score two simple models, and learn from the same events afterwards.

    ``click_rate`` predicts the click rate of the events that it has learned from so far;
    ``logistic_regression`` is :class:`LogisticRegression`.

    Parameters
    ----------
    config
        One event in how many; 0: none at all.
    schema
        The features.
    state
        Where to continue.
    """

    def __init__(
        self, config: EvaluatorConfig, schema: FeatureSchema, state: BaselinesState | None = None
    ) -> None:
        self._every, self._state = config.baseline_every, state or BaselinesState()
        self._size = sorted(config.windows)[:2][-1]
        self._schema = schema
        self._model: LogisticRegression | None = None
        if self._state.logistic is not None:
            self._model = LogisticRegression(schema, self._state.logistic)

    @property
    def state(self) -> BaselinesState:
        """All that they know, for a checkpoint."""
        if self._model is None:
            return self._state
        kept = {name: getattr(self._state, name) for name in BaselinesState.__slots__}
        return BaselinesState(**kept | {"logistic": self._model.state})

    def add(self, batch: JoinedBatch) -> None:
        """Score those events of a batch whose turn it is, and learn from them."""
        if not self._every or len(batch.clicks) < len(batch.label):
            return
        rows = self._rows(batch.begin, batch.end)
        if not len(rows):
            return
        label, weight = batch.label[rows], batch.weight[rows]
        chances = {CLICK_RATE: self._rate(label, weight), LOGISTIC: self._learn(batch, rows)}
        predicted = {name: one.probability[rows] for name, one in batch.models.items()}
        losses = {
            name: weight * -np.log(np.where(label == 1, chance, 1 - chance))
            for name, chance in (predicted | chances).items()
        }
        self._add_up(EventSums.of(label, weight), losses, tuple(predicted))

    def close(self, closed: tuple[Window, ...]) -> tuple[Baselines, ...]:
        """Return how they did since the last time, when a window of the second size closes.

        (Of the only size where there is one alone.)
        """
        on, state = self._state.on, self._state
        if not on.events or all(one.size != self._size for one in closed):
            return ()
        end = closed[0].end
        ces = {name: loss / on.weight for name, loss in state.losses.items()}
        baselines = {
            name: Baseline(
                ce=ces.pop(name), relative={m: one.interval() for m, one in ratios.items()}
            )
            for name, ratios in state.ratios.items()
        }
        found = Baselines(
            begin=state.begin,
            end=end,
            every=self._every,
            events=on.events,
            weight=on.weight,
            clicks=on.clicks,
            models=ces,
            baselines=baselines,
        )
        self._state = BaselinesState(learned=state.learned, begin=end)
        return (found,)

    def _rows(self, begin: int, end: int) -> Ints:
        """Return which events of a batch have their turn, shape (m,)."""
        if end <= FIRST_EVENTS:
            return np.arange(end - begin)
        count = np.arange(begin, end)
        return np.flatnonzero((count < FIRST_EVENTS) | (count % self._every == 0))

    def _rate(self, label: Floats, weight: Floats) -> Floats:
        """Predict for each event the click rate of those before it, beginning with 1/2."""
        on, clicks = self._state.learned, weight * label
        clicked, seen = np.cumsum(clicks) - clicks, np.cumsum(weight) - weight
        return np.asarray((on.clicks + clicked + 0.5) / (on.weight + seen + 1.0))

    def _learn(self, batch: JoinedBatch, rows: Any) -> Floats:
        if self._model is None:
            self._model = LogisticRegression(self._schema)
        clicks = batch.clicks
        events = zip(
            clicks.numeric[rows].astype(np.float64),
            clicks.categorical[rows].astype(np.int64),
            (batch.label[rows] == 1).tolist(),
            batch.weight[rows].tolist(),
            strict=True,
        )
        return np.array([self._model.update(*event) for event in events])

    def _add_up(self, on: EventSums, losses: Mapping[str, Floats], models: tuple[str, ...]) -> None:
        state = self._state
        added = {
            name: state.losses.get(name, 0.0) + float(one.sum()) for name, one in losses.items()
        }
        known = tuple(name for name in models if math.isfinite(added[name]))
        fresh = {name: _ratios(losses, known, losses[name]) for name in (CLICK_RATE, LOGISTIC)}
        if state.on.events:
            # A model that did not predict all of the range is left out.
            fresh = {
                baseline: {m: old[m] + fresh[baseline][m] for m in old if m in fresh[baseline]}
                for baseline, old in state.ratios.items()
            }
        kept = {*fresh[LOGISTIC], CLICK_RATE, LOGISTIC}
        self._state = BaselinesState(
            learned=state.learned + on,
            logistic=None,
            begin=state.begin,
            on=state.on + on,
            losses={name: loss for name, loss in added.items() if name in kept},
            ratios=fresh,
        )


def _ratios(
    losses: Mapping[str, Floats], models: Sequence[str], baseline: Floats
) -> dict[str, RatioSums]:
    """Sum up what each model's loss exceeds the baseline's by, over the latter.

    It is :meth:`RatioSums.of` of all models at once, which for a few events takes a third as long.
    """
    if not models:
        return {}
    excess = np.array([losses[name] for name in models]) - baseline
    sums = excess.sum(1), (excess * excess).sum(1), (excess * baseline).sum(1)
    b, bb = float(baseline.sum()), float((baseline * baseline).sum())
    return {
        name: RatioSums(len(baseline), a, b, aa, ab, bb)
        for name, a, aa, ab in zip(models, *(one.tolist() for one in sums), strict=True)
    }
