from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learner import LearnerState
from learner.snapshots import from_parts, to_parts
from stream.messages import Position
from stream.reader import ClickCursor
from tests.learner.worlds import batches, masks_for, model


def test_a_state_comes_back_bit_for_bit() -> None:
    online = model()
    online.learn(batches(1)[0])
    online.set_masks(masks_for(online))
    cursor = ClickCursor(identity="7f", count=16, places={0: Position(3, 1)}, ended=True)
    places = {0: Position(3, 0), 2: Position(9, 9)}
    state = LearnerState(
        "sparse", 4, cursor, places, online.state(), '{"seed": 7}', 7, since=12, ordered=99
    )
    found = from_parts(to_parts(state))
    assert replace(found, tensors={}) == replace(state, tensors={})
    assert (found.version, found.cursor, found.trained_through) == (4, cursor, places)
    assert found.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(found.tensors[name], t) for name, t in state.tensors.items())


def test_equal_states_have_equal_bytes() -> None:
    states = [
        LearnerState("dense", 0, ClickCursor(identity="7f"), {0: Position(0, 0)}, model().state())
        for _ in range(2)
    ]
    assert to_parts(states[0]) == to_parts(states[1])


def test_a_checkpoint_without_its_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no part .model\.safetensors..* it has state\.json"):
        from_parts({"state.json": b"{}"})
