from __future__ import annotations

import pytest
import torch

from pruner.verdicts import Candidate, judged, promotes, unfinished
from stream.messages import RebuildPlan
from tests.pruner.worlds import judgement

PLAN = RebuildPlan(number=2, reason="divergence", cause="", begin=800, decided=900, end=1100)
MASKS = {"top.0": torch.tensor([[True, False, False, False]])}


def candidate(snapshot: str | None) -> Candidate:
    before = {"top.0": torch.tensor([[True, True, False, False]])}
    return Candidate(PLAN, 5, snapshot, MASKS, before)


@pytest.mark.parametrize(("percent", "better"), [(-0.01, True), (0.0, False), (0.01, False)])
def test_only_a_candidate_with_a_lower_mean_is_promoted(percent: float, better: bool) -> None:
    assert promotes(judgement(2, 1100, percent)) is better


def test_a_promotion_names_version_and_snapshot() -> None:
    verdict = judged(candidate("candidate-2/1"), judgement(2, 1100, -0.5))
    assert (verdict.verdict, verdict.version, verdict.snapshot) == ("promoted", 5, "candidate-2/1")
    assert verdict.reason == (
        "CE -0.500 % against the incumbent's (95 %: -1.500 to +0.500 %) over events 1,041 to 1,100"
    )
    assert (verdict.count, verdict.cost_events, verdict.sparsity) == (1100, 300, 0.75)
    assert verdict.layers["top.0"].overlap == 1.0


def test_a_rejection_names_neither() -> None:
    verdict = judged(candidate(None), judgement(2, 1100, 0.5))
    assert (verdict.verdict, verdict.version, verdict.snapshot) == ("rejected", None, None)
    assert verdict.mask is not None


def test_a_rebuild_that_the_input_ended_says_where() -> None:
    verdict = unfinished(PLAN, 950)
    assert (verdict.verdict, verdict.count, verdict.cost_events) == ("unfinished", 1100, 150)
    assert verdict.reason == "the input ended after 950 events"
