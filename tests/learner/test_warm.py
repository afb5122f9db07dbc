from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learner import LearnerState, SnapshotStore
from learner.models import begin_from, warm_start, weights_file
from stream import ClickCursor
from tests.learner.worlds import batches, masks_for, model


def test_the_module_takes_over_the_weights(tmp_path: Path) -> None:
    given = model(seed=1).module.state_dict()
    save_file(given, tmp_path / "w.safetensors")
    module = model(seed=2).module
    warm_start(module, tmp_path / "w.safetensors")
    assert all(torch.equal(module.state_dict()[name], t) for name, t in given.items())


def test_tensors_that_do_not_fit_are_all_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    given = dict(model(seed=1).module.state_dict())
    del given["top.0.bias"]
    given |= {"top.9.bias": torch.zeros(1), "top.2.bias": torch.zeros(7)}
    save_file(given, tmp_path / "w.safetensors")
    module = model(seed=2).module
    message = (
        "cannot start from .*w.safetensors: tensors do not fit the model: 'top.0.bias' is missing; "
        r"'top.9.bias' is unknown; 'top.2.bias' has shape \(7,\), not \(6,\)"
    )
    with pytest.raises(ValueError, match=message):
        warm_start(module, tmp_path / "w.safetensors")
    expected = model(seed=2).module.state_dict()
    assert all(torch.equal(module.state_dict()[name], t) for name, t in expected.items())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*w.safetensors to start from; give a"):
        warm_start(model().module, tmp_path / "w.safetensors")


def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"pickled")
    with pytest.raises(ValueError, match=r"cannot start from .*w.pt: not a safetensors file"):
        warm_start(model().module, tmp_path / "w.pt")


def test_a_snapshot_gives_weights_and_the_sums_of_its_optimiser(tmp_path: Path) -> None:
    """By its folder or by the file in it."""
    begun = model(seed=1)
    for batch in batches(3):
        begun.learn_from(begun.forward(batch))
    store = SnapshotStore(tmp_path)
    cursor = ClickCursor(identity="7f", count=48)
    folder = tmp_path / store.write(LearnerState("dense", 0, cursor, {}, begun.state()))
    for path in (folder, folder / "model.safetensors"):
        online = model(seed=2)
        begin_from(online, path)
        assert online.state().keys() == begun.state().keys()
        assert all(torch.equal(online.state()[name], t) for name, t in begun.state().items())
        assert weights_file(path) == folder / "model.safetensors"


def test_a_snapshot_under_a_mask_is_no_beginning_of_a_dense_model(tmp_path: Path) -> None:
    pruned = model(seed=1)
    pruned.set_masks(masks_for(pruned))
    state = LearnerState("sparse", 1, ClickCursor(identity="7f"), {}, pruned.state())
    folder = tmp_path / SnapshotStore(tmp_path).write(state)
    with pytest.raises(ValueError, match=r"a snapshot of sparse, which has a mask; .* export th"):
        begin_from(model(seed=2), folder)


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    tensors = {name: t for name, t in model(seed=1).state().items() if "top.0.bias" not in name}
    state = LearnerState("dense", 0, ClickCursor(identity="7f"), {}, tensors)
    folder = tmp_path / SnapshotStore(tmp_path).write(state)
    with pytest.raises(ValueError, match=r"cannot start from .*safetensors: .*'top.0.bias' is mis"):
        begin_from(model(seed=2), folder)


def test_a_folder_without_a_snapshot_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*model\.safetensors to start from"):
        begin_from(model(), tmp_path)
