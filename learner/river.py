"""Our learner as a River classifier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from river import base

from learner.config import LearnerConfig, ModelConfig
from learner.models import build
from learner.online import OnlineModel
from learner.snapshots import dump_tensors, load_tensors
from stream import CategoricalFeature, ClickBatch, ClickEvent, FeatureSchema, NumericFeature, encode

_BUCKETS: Final = 1000
"""Buckets of each categorical feature where no schema says how many."""
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RiverClassifier(base.Classifier):
    """A dense model that learns one event at a time, for use with River.

    Parameters
    ----------
    schema
        The features; others in an event are ignored, and those absent are missing. None makes one
        of the first event learned: numbers become numeric features, everything else categorical.
    model
        Which model learns; None is the default one.
    learner
        Its rates; None is the default ones.
    batch_events
        Events gathered for a step; the last few of a stream may never be learned.
    seed
        Decides the weights at the start.

    Examples
    --------
    >>> from river import evaluate, metrics
    >>> events = [({"site": "news" if i % 3 else "shop"}, i % 3 == 0) for i in range(300)]
    >>> evaluate.progressive_val_score(events, RiverClassifier(), metrics.Accuracy()).get() > 0.95
    True
    """

    def __init__(
        self,
        schema: FeatureSchema | None = None,
        model: ModelConfig | None = None,
        learner: LearnerConfig | None = None,
        batch_events: int = 1,
        seed: int = 0,
    ) -> None:
        if batch_events < 1:
            raise ValueError(f"batch_events is {batch_events}; it must be at least 1")
        self.schema = schema
        self.model = model
        self.learner = learner
        self.batch_events = batch_events
        self.seed = seed
        self._built: tuple[OnlineModel, FeatureSchema] | None = None
        self._gathered: list[ClickBatch] = []
        if schema is not None:
            self._build(schema)

    def learn_one(self, x: Mapping[Any, Any], y: Any) -> None:
        """Gather an event, and take a step when there are ``batch_events``.

        Parameters
        ----------
        x
            Numbers, names, or several names, by feature; None and NaN are missing.
        y
            True or 1 for a click, False or 0 for none.
        """
        if y not in (False, True):
            raise ValueError(f"label {y!r}: clicks are True or 1, False or 0")
        online, features = self._built or self._build(schema_of(x))
        self._gathered.append(encode([event_of(x, int(y), features)], features))
        if len(self._gathered) >= self.batch_events:
            online.learn(ClickBatch.concat(self._gathered))
            self._gathered.clear()

    def predict_proba_one(self, x: Mapping[Any, Any], **_: Any) -> dict[Any, float]:
        """Return the chance of False and of True: a half each before anything was learned."""
        if self._built is None:
            return {False: 0.5, True: 0.5}
        online, features = self._built
        probability = float(online.predict(encode([event_of(x, 0, features)], features))[0])
        return {False: 1 - probability, True: probability}

    def _build(self, schema: FeatureSchema) -> tuple[OnlineModel, FeatureSchema]:
        config = self.model or ModelConfig()
        module = build(config.name, schema, dict(config.options), self.seed)
        self._built = OnlineModel(module, self.learner or LearnerConfig()), schema
        return self._built

    def __getstate__(self) -> dict[str, Any]:
        """Pickle weights as safetensors, so that equal models have equal bytes."""
        if self._built is None:
            return self.__dict__
        online, schema = self._built
        return self.__dict__ | {"_built": (dump_tensors(online.state()), schema)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["_built"] is not None:
            weights, schema = state["_built"]
            self._build(schema)[0].load(load_tensors(weights))


def schema_of(x: Mapping[Any, Any]) -> FeatureSchema:
    """Make a schema of one event, in the order of names.

    >>> schema_of({"site": "news", "price": 3, "age": None}).names
    ('price', 'age', 'site')
    """
    names = sorted(map(str, x))
    numbers = {str(name) for name, value in x.items() if _is_number(value)}
    return FeatureSchema(
        numeric=tuple(NumericFeature(name=name) for name in names if name in numbers),
        categorical=tuple(
            CategoricalFeature(name=name, buckets=_BUCKETS) for name in names if name not in numbers
        ),
    )


def event_of(x: Mapping[Any, Any], label: int, schema: FeatureSchema) -> ClickEvent:
    """Take the features of a schema out of an event of River.

    >>> schema = schema_of({"site": "news", "price": 3})
    >>> event_of({"price": True, "site": 17, "new": 1}, 0, schema).categorical
    {'site': '17'}
    """
    given = {str(name): value for name, value in x.items()}
    return ClickEvent.model_validate(
        {
            "event_id": "river",
            "event_time": _NO_TIME,
            "label": label,
            "numeric": {f.name: _number(f.name, given.get(f.name)) for f in schema.numeric},
            "categorical": {f.name: _names(given.get(f.name)) for f in schema.categorical},
        }
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        raise ValueError(f"feature {name!r} is {value!r}; the schema says that it is a number")
    return None if math.isnan(value) else float(value)


def _names(value: Any) -> str | list[str] | None:
    if value is None or (_is_number(value) and math.isnan(value)):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return sorted(str(one) for one in value)
    return str(value)
