"""How a rebuild ends, as the record of it in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pruner.masks import content_hash, describe, pack, sparsity
from stream.messages import Decision, Judgement, RebuildPlan, Verdict, VerdictName


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A candidate that has learned everything through E."""

    plan: RebuildPlan
    version: int
    """That it has if it is promoted."""
    snapshot: str | None
    """Its name, if the candidate is promoted: others are not written."""
    masks: Mapping[str, Tensor] = field(repr=False)
    before: Mapping[str, Tensor] | None = field(repr=False)
    """The masks of the version before; None for the first."""


def promotes(judgement: Judgement | None) -> bool:
    """Return whether a candidate takes over: one that did better, and the first in any case.

    >>> promotes(None)
    True
    """
    return judgement is None or judgement.difference.mean < 0


def judged(candidate: Candidate, judgement: Judgement | None) -> Verdict:
    """Promote or reject a candidate.

    Parameters
    ----------
    candidate
        At E.
    judgement
        On the same last events before E; None for the first mask.
    """
    promoted = promotes(judgement)
    return Verdict(
        count=candidate.plan.end,
        rebuild=candidate.plan,
        verdict="promoted" if promoted else "rejected",
        reason=_why(judgement),
        version=candidate.version if promoted else None,
        snapshot=candidate.snapshot,
        mask=content_hash(pack(candidate.masks)),
        sparsity=sparsity(candidate.masks),
        layers=describe(candidate.masks, candidate.before),
        judgement=judgement,
        cost_events=candidate.plan.end - candidate.plan.begin,
    )


def failed(plan: RebuildPlan, count: int, error: Exception) -> Verdict:
    """End a rebuild whose criterion raised, or whose weights are not finite.

    >>> plan = RebuildPlan(number=2, reason="", cause="", begin=500, decided=500, end=900)
    >>> verdict = failed(plan, 700, ValueError("no gradient"))
    >>> verdict.verdict, verdict.reason, verdict.count, verdict.cost_events
    ('failed', 'no gradient', 900, 200)
    """
    return _early(plan, "failed", str(error), count)


def unfinished(plan: RebuildPlan, count: int) -> Verdict:
    """End a rebuild whose input ended before E."""
    return _early(plan, "unfinished", f"the input ended after {count:,} events", count)


def superseded(plan: RebuildPlan, decision: Decision) -> Verdict:
    """Reject a rebuild whose incumbent was rolled back before it could be judged.

    How far the candidate had come by then is a matter of time, so its cost is counted as if it had
    kept pace with the windows.

    >>> plan = RebuildPlan(number=2, reason="", cause="", begin=500, decided=500, end=900)
    >>> back = Decision(count=600, why_not="back to version 1 as version 3 at 700")
    >>> verdict = superseded(plan, back)
    >>> verdict.verdict, verdict.count, verdict.cost_events, verdict.reason
    ('rejected', 900, 100, 'superseded at 600: back to version 1 as version 3 at 700')
    """
    reason = f"superseded at {decision.count}: {decision.why_not}"
    return _early(plan, "rejected", reason, decision.count)


def _early(plan: RebuildPlan, verdict: VerdictName, reason: str, count: int) -> Verdict:
    """End a rebuild without a candidate."""
    cost = count - plan.begin
    return Verdict(count=plan.end, rebuild=plan, verdict=verdict, reason=reason, cost_events=cost)


def _why(judgement: Judgement | None) -> str:
    if judgement is None:
        return "the first mask, with no incumbent to be judged against"
    relative = judgement.relative
    interval = ""
    if relative.low is not None and relative.high is not None:
        interval = f" (95 %: {100 * relative.low:+.3f} to {100 * relative.high:+.3f} %)"
    return (
        f"CE {100 * relative.mean:+.3f} % against the incumbent's{interval} "
        f"over events {judgement.begin + 1:,} to {judgement.end:,}"
    )
