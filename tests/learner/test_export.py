from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from learner import LearnerState
from learner.export import ExportOptions, export, footprint, onnx_difference, to_onnx
from learner.models import build, warm_start
from stream.reader import ClickCursor
from stream.schema import CategoricalFeature, FeatureSchema
from tests.learner.worlds import OPTIONS, SCHEMA, batches, masks_for, model

DENSE = ExportOptions(dense=True, score=False)


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
    exported = export(snapshot, plain(), SCHEMA, tmp_path / "out", DENSE)
    module, clicks = plain(), batches(6, n=40)[5]
    module.load_state_dict(load_file(exported.weights))
    with torch.no_grad():
        logits = module(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    np.testing.assert_allclose(torch.sigmoid(logits.double()).numpy(), expected, rtol=1e-6)
    assert exported.onnx is None


def test_pruned_weights_are_exported_as_zero(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    weights = load_file(export(snapshot, plain(), SCHEMA, tmp_path, DENSE).weights)
    for name in ("bottom.0", "top.0", "top.2"):
        cut = snapshot.tensors[f"mask.{name}"] == 0
        assert cut.any()
        assert torch.count_nonzero(weights[f"{name}.weight"][cut]) == 0


def test_the_module_that_is_handed_in_is_not_changed(tmp_path: Path) -> None:
    module = plain()
    export(pruned()[0], module, SCHEMA, tmp_path, DENSE)
    for name, tensor in plain().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)


def test_an_export_is_a_warm_start(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    module = plain()
    warm_start(module, export(snapshot, plain(), SCHEMA, tmp_path, DENSE).weights)
    assert torch.equal(module.state_dict()["top.0.weight"], snapshot.tensors["top.0.weight"])


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    other = build("dlrm", SCHEMA, OPTIONS | {"top": [9, 6]}, seed=0)
    with pytest.raises(ValueError, match=r"'top.0.weight' has shape \(8, 10\), not \(9, 10\)"):
        export(pruned()[0], other, SCHEMA, tmp_path / "out", DENSE)
    assert not (tmp_path / "out").exists()


def test_onnx_gives_the_logits_of_torch_for_batches_of_any_size(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="pip install 'resprout[onnx]'")
    snapshot, expected = pruned()
    exported = export(snapshot, plain(), SCHEMA, tmp_path, ExportOptions(onnx=True))
    assert exported.onnx is not None
    assert exported.onnx_difference is not None
    assert exported.onnx_difference < 1e-5
    session, clicks = ort.InferenceSession(exported.onnx), batches(6, n=40)[5]
    for n in (1, 40):
        given = {"dense": clicks.numeric[:n], "categorical": clicks.categorical[:n]}
        (logits,) = session.run(["logits"], given)
        found = 1 / (1 + np.exp(-logits.astype(np.float64)))
        np.testing.assert_allclose(found, expected[:n], rtol=1e-5)


def test_the_metadata_of_onnx_is_the_configuration(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="pip install 'resprout[onnx]'")
    exported = export(pruned()[0], plain(), SCHEMA, tmp_path, ExportOptions(onnx=True))
    texts = ort.InferenceSession(exported.onnx).get_modelmeta().custom_metadata_map
    assert json.loads(texts["resprout"]) == json.loads((tmp_path / "config.json").read_text())


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


def test_the_sparse_form_holds_no_pruned_weight_and_is_the_same_model(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    whole = load_file(export(snapshot, plain(), SCHEMA, tmp_path / "whole", DENSE).weights)
    sparse = export(snapshot, plain(), SCHEMA, tmp_path / "sparse")
    held = load_file(sparse.weights)
    for name in ("bottom.0", "top.0", "top.2"):
        mask = snapshot.tensors[f"mask.{name}"].numpy().astype(bool)
        bits = np.unpackbits(held[f"{name}.weight.bitmap"].numpy(), count=mask.size)
        assert bits.tolist() == mask.flatten().tolist()
        values = held[f"{name}.weight.values"].numpy()
        assert values.tolist() == whole[f"{name}.weight"].numpy()[mask].tolist()
        assert f"{name}.weight" not in held
    module = plain()
    warm_start(module, sparse.weights)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_the_bytes_that_are_said_are_those_that_are_written(tmp_path: Path) -> None:
    snapshot, _ = pruned()
    exported = export(snapshot, plain(), SCHEMA, tmp_path / "sparse")
    written = {name: 4 * t.numel() for name, t in load_file(exported.weights).items()}
    for one in exported.footprint.tensors:
        parts = [n for n in written if n == one.name or n.startswith(f"{one.name}.")]
        content = load_file(exported.weights)
        assert one.bytes == sum(content[n].numel() * content[n].element_size() for n in parts)
    dense = export(snapshot, plain(), SCHEMA, tmp_path / "dense", DENSE)
    total = [sum(t.dense_bytes for t in e.footprint.tensors) for e in (exported, dense)]
    assert total == [sum(4 * t.numel() for t in plain().state_dict().values())] * 2


def test_a_layer_that_would_not_be_smaller_stays_whole(tmp_path: Path) -> None:
    online = model()
    online.set_masks({n: torch.ones_like(m) for n, m in masks_for(online).items()})
    snapshot = LearnerState("sparse", 1, ClickCursor(identity="7f", count=0), {}, online.state())
    held = load_file(export(snapshot, plain(), SCHEMA, tmp_path).weights)
    assert set(held) == set(plain().state_dict())


def test_multiply_adds_are_those_of_the_shapes() -> None:
    """2 numeric, 3 features of width 4: of 4 vectors torch makes all 4 x 4 dot products."""
    kept = {"top.0": 7}
    found = footprint(plain(), SCHEMA, kept)
    adds = {t.name: t.multiply_adds for t in found.tensors if t.multiply_adds}
    assert adds == {
        "bottom.0.weight": 2 * 5,
        "bottom.2.weight": 5 * 4,
        "top.0.weight": 7,
        "top.2.weight": 8 * 6,
        "top.4.weight": 6 * 1,
    }
    assert found.other_multiply_adds == 4 * 4 * 4


class Counting(nn.Module):
    """What it computes cannot be written down: it asks for values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        if float(dense.sum()) > 0:
            dense = -dense
        logits: Tensor = self.layer(dense).squeeze(1)
        return logits


def test_a_model_that_torch_cannot_write_down_is_exported_without_score(tmp_path: Path) -> None:
    module = Counting()
    cursor = ClickCursor(identity="7f", count=0)
    snapshot = LearnerState("dense", 0, cursor, {}, dict(module.state_dict()))
    with pytest.raises(ValueError, match=r"cannot write down what the model computes.*--no-score"):
        export(snapshot, module, SCHEMA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exported = export(snapshot, module, SCHEMA, tmp_path / "out", ExportOptions(score=False))
    assert exported.score is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }


def test_nothing_of_an_earlier_export_stays(tmp_path: Path) -> None:
    export(pruned()[0], plain(), SCHEMA, tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    export(pruned()[0], plain(), SCHEMA, tmp_path, ExportOptions(score=False))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "config.json", "README.md", "mine.txt"}
