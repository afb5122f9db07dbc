"""The demo: a drifting stream, and beside the sparse model its twin that is never rebuilt."""

from __future__ import annotations

from typing import Any

from resprout.settings import DENSE, NEVER_REBUILT, SPARSE, Layer, Settings

LAYER: Layer = ("demo", {"evaluator": {"models": [DENSE, SPARSE, NEVER_REBUILT]}})
"""What the demo has other than the defaults."""


def changes(asked: Settings, *, scale: float = 1.0, drift: str | None = None) -> dict[str, Any]:
    """Return the settings that a longer stream or another drift changes, by dotted name.

    The dense model matures until the first mask is cut, and drift begins there; that is never
    shortened, since an early mask falls behind without any drift.

    Parameters
    ----------
    asked
        The settings so far.
    scale
        Multiplies the events after the first mask is cut.
    drift
        The kind of drift, in the place of the one in ``asked``.

    Examples
    --------
    >>> asked = Settings(
    ...     stream={"generator": {"events": 3_000_000}}, pruner={"first_mask_events": 1_000_000}
    ... )
    >>> changes(asked, scale=0.5)
    {'stream.generator.events': 2000000}
    >>> changes(asked, drift="abrupt")
    {'stream.generator.drifts': [{'kind': 'abrupt', 'begin': 1000000}]}
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0")
    first, events = asked.pruner.first_mask_events, asked.stream.generator.events
    batch = asked.stream.batch_events
    changed: dict[str, Any] = {}
    if events is not None and scale != 1:
        after = max(events - first, 0) * scale
        changed["stream.generator.events"] = first + round(after / batch) * batch
    if drift is not None:
        changed["stream.generator.drifts"] = [{"kind": drift, "begin": first}]
    return changed
