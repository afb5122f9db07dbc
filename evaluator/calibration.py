"""Whether as many clicks come as were predicted."""

from __future__ import annotations


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
