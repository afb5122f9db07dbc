"""The evaluator: it says how good the models are, and what came of a run.

::

    join        joins predictions to clicks: batch by batch, what happened and who predicted what
    windows     sums of events, segments, tumbling and cumulative windows, and their scores
    baselines   two simple models that every model should be better than
    judging     what the ledger says is to be judged, and a candidate against the incumbent
    drift       alarms: what the windows and the features say has changed
    worker      the evaluator: what it writes, each once; one step, and its checkpoint
    config      its settings
    metrics/    how good predictions are, one file a metric
    run/        what came of a run: history, tables, report, plot
    page/       the live page, and the web server

It sees clicks, predictions and the ledger, and no model.
"""

from __future__ import annotations

from evaluator.config import AlarmsConfig, EvaluatorConfig
from evaluator.join import JoinedBatch, Predicted
from evaluator.windows import Scoring, Sums
from evaluator.worker import Evaluator, EvaluatorStep, restart_point

__all__ = [
    "AlarmsConfig",
    "Evaluator",
    "EvaluatorConfig",
    "EvaluatorStep",
    "JoinedBatch",
    "Predicted",
    "Scoring",
    "Sums",
    "restart_point",
]
