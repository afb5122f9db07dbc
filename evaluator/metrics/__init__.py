"""How good predictions are: one file a metric.

::

    metric              what a metric is: terms of single events, sums that add up, a value
    cross_entropy       mean loss, nats per event
    normalized_entropy  cross entropy over that of predicting the click rate
    relative_ce         cross entropy relative to the root model, with its confidence interval
    calibration         predicted over observed clicks, and the predicted clicks
    ece                 expected calibration error
    roc_auc             area under the ROC curve, with a bound of its error
    pr_auc              area under the precision-recall curve, with a bound of its error
    regret              divergence from the true probabilities, where they are known
    river               three of them as metrics of River, fed one event at a time

To add one, write a file with a :class:`Metric` and put it into :data:`METRICS`; from another
package, name it in the entry-point group ``resprout.metrics``. Windows, segments, CSV, the page,
the report, the closing table and Prometheus follow from the list.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from evaluator.metrics.calibration import CALIBRATION, PREDICTED_CLICKS
from evaluator.metrics.cross_entropy import CROSS_ENTROPY, cross_entropy
from evaluator.metrics.ece import ECE
from evaluator.metrics.metric import Bounded, Export, Metric, PerEvent, ScoredEvents, mean_of
from evaluator.metrics.normalized_entropy import NE_TRAINING, NORMALIZED_ENTROPY, normalized_entropy
from evaluator.metrics.pr_auc import PR_AUC
from evaluator.metrics.regret import REGRET
from evaluator.metrics.relative_ce import RELATIVE_CE
from evaluator.metrics.roc_auc import ROC_AUC
from stream.plugins import find

__all__ = ["METRICS", "Bounded", "Export", "Metric", "PerEvent", "ScoredEvents"]
__all__ += ["cross_entropy", "installed", "mean_of", "normalized_entropy"]

GROUP: Final = "resprout.metrics"
METRICS: Final[tuple[Metric, ...]] = (
    CROSS_ENTROPY,
    NORMALIZED_ENTROPY,
    RELATIVE_CE,
    CALIBRATION,
    PREDICTED_CLICKS,
    ROC_AUC,
    PR_AUC,
    ECE,
    REGRET,
    NE_TRAINING,
)
"""Those that are built in, in the order in which they are shown."""


def installed() -> tuple[Metric, ...]:
    """Return all metrics: the built-in ones, then those of other packages by name.

    Raises
    ------
    ValueError
        If one cannot be loaded, is not a :class:`Metric`, or has the name of another.
    """
    ours = {metric.name: metric for metric in METRICS}
    names = sorted(entry.name for entry in entry_points(group=GROUP))
    for name in names:
        found = find(GROUP, {}, name)
        if not isinstance(found, Metric) or found.name != name or name in ours:
            raise ValueError(
                f"the entry point {name!r} of {GROUP} gives {found!r}; it must be a Metric of that "
                f"name, which no other has: {', '.join(ours)}"
            )
        ours[name] = found
    return tuple(ours.values())
