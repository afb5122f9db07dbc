"""Calibration: whether as many clicks come as were predicted."""

from __future__ import annotations

from evaluator.metrics.metric import Export, Metric


def calibration(predicted: float, observed: float) -> float | None:
    """Return predicted over observed clicks: 1 is right, above 1 promises too much.

    Parameters
    ----------
    predicted
        Weighted sum of the probabilities.
    observed
        Weighted clicks.

    Returns
    -------
    None where nothing was clicked.

    Examples
    --------
    >>> calibration(110.0, 100.0)
    1.1
    >>> calibration(0.5, 0.0) is None
    True
    """
    return predicted / observed if observed else None


CALIBRATION = Metric(
    name="calibration",
    label="calibration",
    title="Calibration, predicted over observed clicks",
    terms={"predicted_clicks": lambda events: events.expected},
    value=lambda scored: calibration(scored.terms["predicted_clicks"], scored.on.clicks),
    format=".3f",
    view="panel",
    level=1.0,
    explains="Clicks that a model expected, over those that came. 1 is right; above 1 it expects "
    "too many.",
)
PREDICTED_CLICKS = Metric(
    name="predicted_clicks",
    label="predicted clicks",
    title="predicted clicks, weighted",
    terms=CALIBRATION.terms,
    value=lambda scored: scored.terms["predicted_clicks"],
    format=".1f",
    view="data",
    export=Export(
        "resprout_predicted_clicks_total",
        "Clicks that the model expected in the events it was scored on, weighted",
        is_total=True,
    ),
)
