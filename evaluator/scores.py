"""Turning sums into scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from evaluator.calibration import calibration, expected_calibration_error
from evaluator.cells import Cells
from evaluator.config import DENSE, EvaluatorConfig
from evaluator.entropy import normalized_entropy
from evaluator.interval import RatioSums
from evaluator.joined import Floats
from evaluator.ranking import pr_auc, roc_auc
from evaluator.segments import (
    BAYES,
    CLICK_WEIGHT,
    CLICKED,
    EVENTS,
    HISTOGRAM,
    SEGMENT_BINS,
    WEIGHT,
    SegmentSums,
)
from evaluator.sums import EventSums, ModelSums, Sums
from stream.messages import Interval, ModelScore, Segment


def scores(config: EvaluatorConfig, sums: Sums, before: EventSums) -> dict[str, Any]:
    """Return what a window and a lifetime have in common, but for where they lie.

    Parameters
    ----------
    config
        The models, and how few clicks are too few.
    sums
        Of at least one event.
    before
        All events before these.
    """
    return {
        "weight": sums.on.weight,
        "clicks": sums.on.clicks,
        "click_rate": sums.on.click_rate,
        "models": {
            name: model_score(config, sums.on, sums.models.get(name), before)
            for name in config.models
        },
        "relative_ce": _relatives(config, sums.models),
        "bayes_ce": None if sums.bayes is None else sums.bayes / sums.on.weight,
        "drift": sums.drift,
        "segments": tuple(
            segment for one in sums.segments for segment in _segments(config, one, sums.models)
        ),
    }


def model_score(
    config: EvaluatorConfig, on: EventSums, model: ModelSums | None, before: EventSums
) -> ModelScore | None:
    """Score one model; None where it did not predict everything."""
    if model is None:
        return None
    ce, rate = model.loss / on.weight, on.click_rate
    has_both, had_both = on.has_both(config.min_clicks), before.has_both(config.min_clicks)
    training = normalized_entropy(ce, rate, before.click_rate) if had_both else None
    return ModelScore(
        versions=model.versions,
        ce=ce,
        ne=normalized_entropy(ce, rate) if has_both else None,
        ne_training=training if has_both else None,
        calibration=calibration(model.predicted, on.clicks),
        predicted_clicks=model.predicted,
        regret=None if model.regret is None else model.regret / on.weight,
        **(_ranking(model.histogram, on.clicked) if has_both else {}),
    )


def _ranking(found: Cells, clicked: int) -> dict[str, float | None]:
    """Return what the order of the predictions says."""
    roc, pr = roc_auc(found), pr_auc(found, clicked)
    areas = {"roc_auc": roc, "pr_auc": pr}
    told = {name: area.value for name, area in areas.items() if area}
    errors = {f"{name}_error": area.error for name, area in areas.items() if area}
    return {"ece": expected_calibration_error(found), **told, **errors}


def _relatives(config: EvaluatorConfig, models: dict[str, ModelSums]) -> dict[str, Interval | None]:
    others = [name for name in config.models if name != DENSE]
    return {name: _relative(models.get(name)) for name in others}


def _relative(model: ModelSums | None) -> Interval | None:
    """Return the relative CE; None also where dense has no loss at all."""
    if model is None or model.relative is None or not model.relative.b:
        return None
    return model.relative.interval()


def _segments(
    config: EvaluatorConfig, sums: SegmentSums, whole: dict[str, ModelSums]
) -> Iterator[Segment]:
    """Score each segment of one segmentation, the rest last."""
    for at, value in enumerate((*sums.values, "rest")):
        happened = sums.on.values[:, at]
        on = EventSums(
            int(happened[EVENTS]),
            int(happened[CLICKED]),
            float(happened[WEIGHT]),
            float(happened[CLICK_WEIGHT]),
        )
        bayes = float(happened[BAYES])
        models = {
            name: _segment_model(cells.values[:, at], on, whole[name], name == DENSE)
            for name, cells in sums.models.items()
            if name in whole and on.events
        }
        yield Segment(
            feature=sums.feature,
            value=value,
            events=on.events,
            weight=on.weight,
            clicks=on.clicks,
            click_rate=on.click_rate if on.events else None,
            models={
                name: model_score(config, on, models.get(name), EventSums())
                for name in config.models
            },
            relative_ce=_relatives(config, models),
            bayes_ce=bayes / on.weight if on.events and math.isfinite(bayes) else None,
        )


def _segment_model(cells: Floats, on: EventSums, whole: ModelSums, is_dense: bool) -> ModelSums:
    """Take one model's sums over one segment out of a column of cells."""
    loss, predicted, *terms, regret = (float(value) for value in cells[:HISTOGRAM])
    return ModelSums(
        versions=whole.versions,
        loss=loss,
        predicted=predicted,
        relative=None if is_dense else RatioSums(on.events, *terms),
        regret=regret if math.isfinite(regret) else None,
        histogram=Cells(cells[HISTOGRAM:].reshape(3, SEGMENT_BINS)),
    )
