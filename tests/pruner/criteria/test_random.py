from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from pruner.criteria.random import Random
from pruner.evidence import Evidence

LAYER = Evidence(torch.zeros(40, 50))


def drawn(seed: int) -> torch.Tensor:
    return Random().init(LAYER, np.random.default_rng(seed))["score"]


def test_scores_are_drawn_once_and_stay() -> None:
    random = Random()
    state = random.init(LAYER, np.random.default_rng(1))
    first = random.score(state, LAYER).clone()
    assert torch.equal(random.score(random.observe(state, LAYER), LAYER), first)


def test_another_rebuild_draws_other_scores() -> None:
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_scores_are_uniform() -> None:
    assert stats.kstest(drawn(0).flatten().numpy(), "uniform").pvalue > 0.01
