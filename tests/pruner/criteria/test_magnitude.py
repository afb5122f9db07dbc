from __future__ import annotations

import torch

from pruner.criteria.magnitude import magnitude
from pruner.evidence import Evidence


def test_the_score_is_the_size_whether_the_weight_is_cut_or_not() -> None:
    mask = torch.tensor([[True, False]])
    assert magnitude(Evidence(torch.tensor([[-2.0, 3.0]]), mask=mask)).tolist() == [[2.0, 3.0]]
