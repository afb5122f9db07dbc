from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pruner.criteria.aux import Aux
from pruner.criteria.magnitude import MAGNITUDE
from pruner.criterion import LearnsMask, Stateless
from pruner.evidence import Evidence, Need


def sensitivity(layer: Evidence) -> Tensor:
    return layer.need(Need.GRADIENT).abs()


def test_a_plain_function_is_a_full_criterion_that_is_given_everything() -> None:
    criterion = Stateless("sensitivity", sensitivity)
    layer = Evidence(torch.zeros(1, 2), gradient=torch.tensor([[-3.0, 1.0]]))
    state = criterion.observe(criterion.init(layer, np.random.default_rng(0)), layer)
    assert state == {}
    assert criterion.score(state, layer).tolist() == [[3.0, 1.0]]
    assert criterion.needs == frozenset(Need)


def test_only_criteria_with_a_selection_of_their_own_learn_their_mask() -> None:
    assert isinstance(Aux(), LearnsMask)
    assert not isinstance(MAGNITUDE, LearnsMask)
