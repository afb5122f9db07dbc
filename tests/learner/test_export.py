from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from learner import LearnerState
from learner.export import export, onnx_difference, to_onnx
from learner.models import build, warm_start
from stream.reader import ClickCursor
from stream.schema import CategoricalFeature, FeatureSchema
from tests.learner.worlds import OPTIONS, SCHEMA, batches, masks_for, model


def pruned() -> tuple[LearnerState, np.ndarray]:
    """Make a snapshot of a pruned model that has learned a little, and what it predicts."""
    online, stream = model(), batches(6, n=40)
    for clicks in stream[:3]:
        online.learn(clicks)
    online.set_masks(masks_for(online))
    for clicks in stream[3:5]:
        online.learn(clicks)
    cursor = ClickCursor(identity="7f", count=200)
    return LearnerState("sparse", 2, cursor, {}, online.state()), online.predict(stream[5])


def plain() -> nn.Module:
    return build("dlrm", SCHEMA, dict(OPTIONS), seed=7)


def test_plain_torch_loads_the_weights_and_predicts_the_same(tmp_path: Path) -> None:
    snapshot, expected = pruned()
    exported = export(snapshot, plain(), SCHEMA, tmp_path / "out", onnx=False)
    module, clicks = plain(), batches(6, n=40)[5]
    module.load_state_dict(load_file(exported.weights))
    with torch.no_grad():
        logits = module(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    np.testing.assert_allclose(torch.sigmoid(logits.double()).numpy(), expected, rtol=1e-6)
    assert exported.onnx is None


def test_pruned_weights_are_exported_as_zero(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    weights = load_file(export(snapshot, plain(), SCHEMA, tmp_path, onnx=False).weights)
    for name in ("bottom.0", "top.0", "top.2"):
        cut = snapshot.tensors[f"mask.{name}"] == 0
        assert cut.any()
        assert torch.count_nonzero(weights[f"{name}.weight"][cut]) == 0


def test_the_module_that_is_handed_in_is_not_changed(tmp_path: Path) -> None:
    module = plain()
    export(pruned()[0], module, SCHEMA, tmp_path, onnx=False)
    for name, tensor in plain().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)


def test_an_export_is_a_warm_start(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    module = plain()
    warm_start(module, export(snapshot, plain(), SCHEMA, tmp_path, onnx=False).weights)
    assert torch.equal(module.state_dict()["top.0.weight"], snapshot.tensors["top.0.weight"])


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    other = build("dlrm", SCHEMA, OPTIONS | {"top": [9, 6]}, seed=0)
    with pytest.raises(ValueError, match=r"'top.0.weight' has shape \(8, 10\), not \(9, 10\)"):
        export(pruned()[0], other, SCHEMA, tmp_path / "out", onnx=False)
    assert not (tmp_path / "out").exists()


def test_onnx_gives_the_logits_of_torch_for_batches_of_any_size(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="pip install 'resprout[onnx]'")
    snapshot, expected = pruned()
    exported = export(snapshot, plain(), SCHEMA, tmp_path, onnx=True)
    assert exported.onnx is not None
    assert exported.onnx_difference is not None
    assert exported.onnx_difference < 1e-5
    session, clicks = ort.InferenceSession(exported.onnx), batches(6, n=40)[5]
    for n in (1, 40):
        given = {"dense": clicks.numeric[:n], "categorical": clicks.categorical[:n]}
        (logits,) = session.run(["logits"], given)
        found = 1 / (1 + np.exp(-logits.astype(np.float64)))
        np.testing.assert_allclose(found, expected[:n], rtol=1e-5)


def test_onnx_of_a_model_without_numeric_features_needs_none() -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'resprout[onnx]'")
    schema = FeatureSchema(
        categorical=(
            CategoricalFeature(name="site", buckets=12),
            CategoricalFeature(name="ad", buckets=20),
        )
    )
    module = build("dlrm", schema, {}, seed=0).eval()
    assert onnx_difference(to_onnx(module, schema), module, schema) < 1e-5


class Restless(nn.Module):
    """Its logits depend on how often it was called, which no export can keep."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        self.calls += 1
        return dense.sum(1) + categorical.sum(1) * self.calls


def test_an_onnx_model_that_differs_from_torch_is_refused() -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'resprout[onnx]'")
    module = Restless()
    program = to_onnx(module, SCHEMA)
    module.calls += 1
    with pytest.raises(ValueError, match="logits differ from torch's by up to"):
        onnx_difference(program, module, SCHEMA)


def test_without_the_packages_the_error_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ImportError, match=r"ONNX needs onnxruntime: pip install 'resprout\[onnx\]'"
    ):
        to_onnx(plain(), SCHEMA)
