"""What the evaluator's steps say."""

from __future__ import annotations

from evaluator.worker import EvaluatorStep
from resprout.metrics.families import (
    CROSS_ENTROPY,
    DEAD_LETTERS,
    DEAD_REASONS,
    DRIFT_ALARMS,
    NORMALIZED_ENTROPY,
    OBSERVED_CLICKS,
    PREDICTED_CLICKS,
    one_of,
)
from resprout.metrics.registry import Registry
from stream.messages import Window


def scored(step: EvaluatorStep, registry: Registry) -> None:
    """Take a step of the evaluator in."""
    if step.sums is not None:
        registry.count(OBSERVED_CLICKS, by=step.sums.on.clicks)
        for model, sums in step.sums.models.items():
            registry.count(PREDICTED_CLICKS, model, by=sums.predicted)
    for window in step.windows:
        if not window.partial:
            _closed(window, registry)
    for alarm in step.alarms:
        registry.count(DRIFT_ALARMS, alarm.detector)
    for letter in step.dead_letters:
        registry.count(DEAD_LETTERS, one_of(DEAD_REASONS, letter.reason))


def _closed(window: Window, registry: Registry) -> None:
    """Show the last window of a size; what it does not know is not exported."""
    for model, score in window.models.items():
        labels = (model, str(window.size))
        registry.show(CROSS_ENTROPY, labels, score.ce if score else None)
        registry.show(NORMALIZED_ENTROPY, labels, score.ne if score else None)
