from __future__ import annotations

from pathlib import Path

import torch

from learner.snapshots import FILE, SnapshotStore
from tests.learner.test_snapshot import snapshot
from tests.learner.worlds import model


def test_the_card_says_what_it_is_and_how_to_load_it(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    written = snapshot()
    name = store.write(written)
    text = (tmp_path / name / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: resprout\n")
    assert f"# {name}" in text
    assert "after 500 events" in text
    kept = int(written.tensors["mask.top.0"].sum())
    assert f"| top.0.weight | 8 × 10 | {kept} | {1 - kept / 80:.1%} |" in text
    assert "| top.0.bias | 8 | 8 | 0.0% |" in text
    assert "adagrad.top.0" not in text


def test_the_lines_in_the_card_load_the_model(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    written = snapshot()
    name = store.write(written)
    code = (tmp_path / name / "README.md").read_text().split("```python\n")[1].split("```")[0]
    module = model(seed=5).module
    exec(code.replace("model.safetensors", str(tmp_path / name / FILE)), {"module": module})
    assert torch.equal(module.state_dict()["top.0.weight"], written.tensors["top.0.weight"])
