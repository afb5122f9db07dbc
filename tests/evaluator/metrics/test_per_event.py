from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr

from evaluator.join import JoinedBatch, Predicted
from evaluator.metrics.cross_entropy import weighted_losses
from evaluator.metrics.metric import histogram
from evaluator.metrics.regret import regret
from evaluator.windows import Sums, per_event
from tests.evaluator.stage import chance, drawn

N = 400
LABEL, WEIGHT = drawn(N)


def batch(bayes: np.ndarray | None = None, **models: np.ndarray) -> JoinedBatch:
    every = {"dense": chance("dense", N), **models}
    predicted = {name: Predicted(1, one) for name, one in every.items()}
    return JoinedBatch(0, LABEL, WEIGHT, predicted, bayes)


def test_losses_are_those_of_each_model_alone_bit_for_bit() -> None:
    one = batch(sparse=chance("sparse", N), never_rebuilt=chance("never", N))
    chances = {name: model.probability for name, model in one.models.items()}
    alone = weighted_losses(LABEL, WEIGHT, chances, 0)
    found = per_event(one).loss
    assert list(chances) == list(alone)
    assert found.tobytes() == np.stack(list(alone.values())).tobytes()


def test_histograms_are_those_of_each_model_alone() -> None:
    found = Sums.of(batch(sparse=chance("sparse", N))).models
    for name in ("dense", "sparse"):
        alone = histogram(chance(name, N), LABEL, WEIGHT)
        assert found[name].histogram.values.tobytes() == alone.tobytes()
        assert alone[0].sum() == pytest.approx(WEIGHT @ LABEL)
        assert alone[2].sum() == pytest.approx(WEIGHT @ chance(name, N))


def test_regret_is_the_divergence_from_the_truth() -> None:
    true, p = chance("truth", N), chance("dense", N)
    found = regret(per_event(batch(true)))
    assert found is not None
    expected = WEIGHT * (rel_entr(true, p) + rel_entr(1 - true, 1 - p))
    assert found[0] == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_whoever_knows_the_truth_regrets_nothing() -> None:
    true = chance("truth", N)
    assert Sums.of(batch(true, sparse=true)).models["sparse"].terms["regret"] == 0


def test_without_the_truth_there_is_no_regret() -> None:
    assert regret(per_event(batch())) is None
    assert "regret" not in Sums.of(batch()).models["dense"].terms


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_who_is_certain_and_right_has_a_loss_but_no_regret(certain: float) -> None:
    sparse = np.where(certain == LABEL, certain, chance("sparse", N))
    sums = Sums.of(batch(chance("truth", N), sparse=sparse)).models["sparse"]
    assert np.isfinite(sums.terms["loss"])
    assert "regret" not in sums.terms


def test_who_is_certain_and_wrong_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'sparse' gave probability 0 or 1 to an event of 1 to"):
        per_event(batch(sparse=np.where(LABEL == 1, 0.0, 0.5)))
