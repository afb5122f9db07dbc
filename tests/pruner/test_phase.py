from __future__ import annotations

import pytest

from pruner.sparsity import Phase


@pytest.mark.parametrize(("step", "steps"), [(-1, 5), (6, 5), (0, 0)])
def test_a_moment_outside_the_phase_is_refused(step: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} of {steps}"):
        Phase(step, steps, 0.5)


def test_a_sparsity_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity is 1\.0; it must be at least 0 and below 1"):
        Phase(0, 5, 1.0)
