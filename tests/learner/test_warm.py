from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learner.models import warm_start
from tests.learner.worlds import model


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
