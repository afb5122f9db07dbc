from __future__ import annotations

import pytest
import torch

from pruner.calibration import average_importance, calibrate, first_guess
from pruner.criteria.aux import AuxOptions
from tests.pruner.nets import clicks, open_end, ripe

STEPS = 100


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_a_calibrated_penalty_meets_the_target_on_a_network(target: float) -> None:
    guess = first_guess(average_importance(ripe(), clicks(50, seed=2)), target, STEPS)
    found = calibrate(lambda p: open_end(AuxOptions(penalty=p), STEPS), target, guess)
    assert open_end(AuxOptions(penalty=found.penalty), STEPS) == pytest.approx(target, abs=0.02)
    assert len(found.measured) <= 5


def test_with_a_perfect_model_of_the_phase_the_guess_is_right() -> None:
    importances = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 2
    for options in (AuxOptions(), AuxOptions(start=9.0)):
        penalty = first_guess(importances, 0.8, STEPS, options)
        start = 0.02 * penalty * STEPS if options.start is None else options.start
        kept = (start + importances * STEPS - penalty * STEPS > 0).float().mean().item()
        assert kept == pytest.approx(0.2, abs=0.001)


def test_importances_average_one_over_all_layers_for_both_means() -> None:
    for norm in ("layer_mean", "global_mean"):
        options = AuxOptions.model_validate({"norm": norm})
        found = average_importance(ripe(), clicks(3), options)
        assert found.mean().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("guess", [0.01, 1.0, 2.3, 50.0])
def test_it_finds_the_penalty_from_far_away(guess: float) -> None:
    """The sparsity of importances that are uniform over 0 to 2 is half the penalty."""
    found = calibrate(lambda p: min(1.0, p / 2), 0.8, guess, tolerance=0.005, most=20)
    assert found.penalty == pytest.approx(1.6, abs=0.01)


def test_a_sparsity_that_jumps_over_the_target_is_given_up() -> None:
    with pytest.raises(ValueError, match=r"no penalty found for sparsity 0\.5 in 12 measurements"):
        calibrate(lambda penalty: float(penalty > 1.7), 0.5, guess=1.0)


def test_a_guess_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="guess is 0"):
        calibrate(lambda penalty: penalty, 0.5, guess=0)


def test_without_batches_there_is_no_average() -> None:
    with pytest.raises(ValueError, match="no batches to average over"):
        average_importance(ripe(), [])
