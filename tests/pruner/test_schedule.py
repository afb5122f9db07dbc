from __future__ import annotations

import itertools

import pytest

from pruner.sparsity import SHAPES, Phase, Schedule


def over(schedule: Schedule, steps: int, sparsity: float = 0.8) -> list[float | None]:
    return [schedule(Phase(step, steps, sparsity)) for step in range(1, steps + 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_rises_and_ends_at_the_target(shape: str) -> None:
    values = [value or 0.0 for value in over(Schedule(shape), 20)]
    assert values[-1] == 0.8
    assert all(a <= b for a, b in itertools.pairwise(values))


def test_linear_follows_its_formula() -> None:
    assert over(Schedule("linear"), 4) == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_one_shot_leaves_the_mask_alone_until_the_end() -> None:
    assert over(Schedule("one_shot"), 4) == [None, None, None, 0.8]


def test_a_ramp_of_a_fifth_reaches_the_target_after_a_fifth() -> None:
    assert over(Schedule("linear", ramp_ratio=0.2), 10) == pytest.approx([0.4, *[0.8] * 9])


def test_between_changes_the_mask_stays_and_the_last_step_always_changes_it() -> None:
    assert over(Schedule("linear", every_steps=3), 7) == pytest.approx(
        [None, None, 0.8 * 3 / 7, None, None, 0.8 * 6 / 7, 0.8]
    )
