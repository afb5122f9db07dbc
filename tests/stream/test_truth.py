from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stream.sources.truth import GeneratorConfig, Truth


def test_labels_follow_the_true_probability() -> None:
    """The standardised excess of clicks is a standard normal; 4 is one in 16 000."""
    block = Truth(GeneratorConfig(block_events=200_000), seed=1).block(0)
    variance = (block.probability * (1 - block.probability)).sum()
    assert abs((block.label - block.probability).sum()) < 4 * np.sqrt(variance)
    assert block.probability.mean() == pytest.approx(0.2, abs=0.005)


def test_click_rate_and_spread_stay_while_the_interactions_glide() -> None:
    config = GeneratorConfig(block_events=100_000, drifts=({"kind": "gradual"},))
    stream = Truth(config, seed=2)
    before, after = stream.block(0).probability, stream.block(700_000).probability
    assert after.mean() == pytest.approx(before.mean(), abs=0.01)
    spread = [float(np.log(p / (1 - p)).std()) for p in (before, after)]
    assert spread == pytest.approx([1.6, 1.6], abs=0.05)


def test_after_a_whole_period_the_truth_is_another() -> None:
    """The same impressions, one network later, have unrelated log odds."""
    still = GeneratorConfig(drifts=(), block_events=20_000)
    moved = GeneratorConfig(drifts=({"kind": "abrupt"},), block_events=20_000)
    odds = [np.log(p / (1 - p)) for p in (_probability(still), _probability(moved))]
    assert abs(np.corrcoef(odds)[0, 1]) < 0.2


def _probability(config: GeneratorConfig) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return Truth(config, seed=5).block(0).probability


def test_only_some_numeric_features_matter() -> None:
    stream = Truth(GeneratorConfig(), seed=0)
    active = stream._network(0).numeric
    assert len(active) == 3
    assert len(stream._network(0).pairs) == 10
    assert set(stream._network(1).pairs) != set(stream._network(0).pairs)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"active_pairs": 46}, "active_pairs 46 is more than the 45 there are"),
        ({"active_numeric": 9}, "active_numeric 9 is more than the 8 there are"),
        ({"drifts": ({"kind": "sudden"},)}, "unknown drift 'sudden'"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        GeneratorConfig.model_validate(options)
