"""Windows and verdicts of a run that never took place."""

from __future__ import annotations

from stream.messages import (
    AnyMessage,
    Decision,
    Interval,
    ModelScore,
    RebuildPlan,
    Rollback,
    Verdict,
    VerdictName,
    Window,
)

MODELS = ("dense", "sparse", "never_rebuilt")


def score(
    ne: float | None,
    ce: float = 0.4,
    relative: Interval | None = None,
    versions: tuple[int, ...] = (1,),
    **more: float | None,
) -> ModelScore:
    """Make the score of one model, with more metrics by name."""
    intervals = {}
    if relative is not None:
        more["relative_ce"] = relative.mean
        if relative.low is not None and relative.high is not None:
            intervals["relative_ce"] = relative.low, relative.high
    metrics = {"ce": ce, "ne": ne, "ne_training": None, "calibration": 1.0, **more}
    return ModelScore(versions=versions, metrics=metrics, intervals=intervals)


def window(
    size: int,
    number: int,
    ce: dict[str, float],
    drift: tuple[str, ...] = (),
    events: int | None = None,
) -> Window:
    """Make a window of weight 2 an event; the normalised entropy is twice the cross entropy."""
    held = size if events is None else events
    lost = {m: Interval(mean=ce[m] / ce["dense"] - 1, low=None, high=None) for m in ce}
    lost.pop("dense")
    return Window(
        size=size,
        number=number,
        begin=size * number,
        end=size * number + held,
        partial=held < size,
        weight=2.0 * held,
        clicks=0.4 * held,
        click_rate=0.2,
        models={m: score(2 * ce[m], ce[m], lost.get(m)) if m in ce else None for m in MODELS},
        bayes_ce=None,
        drift=drift,
    )


def verdict(number: int, count: int, name: VerdictName = "promoted") -> Verdict:
    plan = RebuildPlan(
        number=number,
        reason="first" if number == 1 else "divergence",
        cause="",
        begin=count - 100,
        decided=count - 100,
        end=count,
    )
    return Verdict(
        count=count,
        rebuild=plan,
        verdict=name,
        reason="",
        version=number,
        snapshot=None,
        mask=None,
        sparsity=0.8,
        layers={},
        judgement=None,
        cost_events=100,
    )


def rollback(count: int, effective: int, version: int = 4) -> Decision:
    """Decide to go back to version 1."""
    back = Rollback(to_version=1, version=version, snapshot="x", mask=None, count=effective)
    return Decision(count=count, why_not="back to version 1", rollback=back)


def drifting_run(size: int = 100, windows: int = 20, start: int = 800) -> list[AnyMessage]:
    """Lay out a run that drifts behind its middle, with a rebuild promoted and one rejected."""
    found: list[AnyMessage] = []
    for number in range(windows):
        ce = {"dense": 0.4 + 0.1 / (1 + number)}
        if number * size >= start:
            ce["sparse"] = 1.004 * ce["dense"]
            ce["never_rebuilt"] = (1.002 + 0.001 * number) * ce["dense"]
        drift = ("gradual",) if 2 * number >= windows else ()
        found.append(window(size, number, ce, drift))
    first, second, third = start, start + 400, start + 800
    rejected = verdict(3, third, "rejected")
    return [*found, verdict(1, first), verdict(2, second), rejected]
