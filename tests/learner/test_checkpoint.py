from __future__ import annotations

import pytest
import torch

from learner.snapshots import LearnerState, from_parts, to_parts
from stream.messages import Position
from stream.reader import ClickCursor
from tests.learner.worlds import batches, masks_for, model


def test_a_state_comes_back_bit_for_bit() -> None:
    online = model()
    online.learn(batches(1)[0])
    online.set_masks(masks_for(online))
    cursor = ClickCursor(identity="7f", count=16, places={0: Position(3, 1)}, ended=True)
    state = LearnerState(4, cursor, {0: Position(3, 0), 2: Position(9, 9)}, online.state())
    found = from_parts(to_parts(state))
    assert (found.version, found.cursor, found.trained_through) == (
        4,
        cursor,
        {0: Position(3, 0), 2: Position(9, 9)},
    )
    assert found.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(found.tensors[name], t) for name, t in state.tensors.items())


def test_equal_states_have_equal_bytes() -> None:
    states = [
        LearnerState(0, ClickCursor(identity="7f"), {0: Position(0, 0)}, model().state())
        for _ in range(2)
    ]
    assert to_parts(states[0]) == to_parts(states[1])


@pytest.mark.parametrize("lost", ["model.safetensors", "place.json"])
def test_a_checkpoint_without_a_part_is_refused(lost: str) -> None:
    parts = to_parts(LearnerState(0, ClickCursor(identity="7f"), {}, {}))
    kept = parts.keys() - {lost}
    with pytest.raises(ValueError, match=f"no part '{lost}'.* it has {kept.pop()}"):
        from_parts({name: part for name, part in parts.items() if name != lost})
