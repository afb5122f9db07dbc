"""Messages beyond those of a run: what workers, alarms and dead letters tell."""

from __future__ import annotations

from stream.messages import (
    Alarm,
    DeadLetters,
    Decision,
    DetectorName,
    Layer,
    Lifetime,
    MaskChange,
    Progress,
    RebuildPlan,
    Stability,
    Verdict,
)
from tests.evaluator.runs import verdict, window


def progress(worker: str, second: float, events: int, **more: object) -> Progress:
    told: dict[str, object] = {
        "worker": worker,
        "count": events,
        "events": events,
        "wall_seconds": second,
        "waiting_for": None,
        "time_ms": 1_700_000_000_000 + round(1_000 * second),
    }
    return Progress.model_validate(told | more)


def alarm(count: int, detector: DetectorName = "click_rate", feature: str | None = None) -> Alarm:
    return Alarm(
        detector=detector,
        feature=feature,
        count=count,
        since=count - 200,
        statistic=3.0,
        threshold=2.0,
        reason=f"{feature or 'it'} moved",
    )


def letters(begin: int, count: int, **reasons: int) -> DeadLetters:
    return DeadLetters(begin=begin, count=count, reasons=reasons)


def stability(begin: int, end: int, **psi: float) -> Stability:
    return Stability(begin=begin, end=end, psi=psi)


def lifetime(begin: int, end: int) -> Lifetime:
    same = window(end - begin, 0, {"dense": 0.4, "sparse": 0.5})
    shared = same.model_dump(exclude={"kind", "size", "number", "partial", "begin", "end"})
    return Lifetime(begin=begin, end=end, **shared)


def masked(number: int, count: int, **layers: tuple[int, int, float | None]) -> Verdict:
    """Promote a mask; of each layer how many weights, how many kept, and the overlap."""
    made = {
        name: Layer(weights=n, kept=kept, sparsity=1 - kept / n, overlap=overlap)
        for name, (n, kept, overlap) in layers.items()
    }
    return verdict(number, count).model_copy(update={"layers": made})


def decided(number: int, count: int) -> Decision:
    """Decide on a rebuild that takes a hundred events."""
    plan = RebuildPlan(
        number=number,
        reason="divergence",
        cause="it has drifted",
        begin=count,
        decided=count,
        end=count + 100,
    )
    return Decision(count=count, rebuild=plan)


def grafted(count: int, model: str = "sparse", **layers: tuple[int, int]) -> MaskChange:
    """Change a mask; of each layer how many weights it keeps, and how many of them are new."""
    return MaskChange(
        model=model,
        count=count,
        source_count=count,
        mask="af",
        kept={name: kept for name, (kept, _) in layers.items()},
        entered={name: entered for name, (_, entered) in layers.items()},
    )
