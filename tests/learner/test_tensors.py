from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from learner.snapshots import dump_tensors, load_tensors, metadata

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor([True, False]).to(torch.uint8),
    "none": torch.empty(0, 4),
}


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(dump_tensors(TENSORS, {"seed": "0", "note": "é"}))
    found = load_file(path)
    assert {name: t.tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in TENSORS.items()
    }
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"seed": "0", "note": "é"}


def test_tensors_and_texts_come_back() -> None:
    value = dump_tensors(TENSORS, {"seed": "0"})
    assert metadata(value) == {"seed": "0"}
    assert all(torch.equal(load_tensors(value)[name], t) for name, t in TENSORS.items())
    assert metadata(dump_tensors(TENSORS)) == {}


def test_a_transposed_tensor_is_written_as_it_reads() -> None:
    turned = TENSORS["b"].T
    assert torch.equal(load_tensors(dump_tensors({"t": turned}))["t"], turned)


def test_equal_input_gives_equal_bytes_in_every_process() -> None:
    """The library orders metadata anew in each process."""
    program = (
        "import torch, sys; from learner.snapshots import dump_tensors as dump;"
        "texts = {str(i): 'x' for i in range(20)};"
        "sys.stdout.buffer.write(dump({'b': torch.ones(2), 'a': torch.zeros(3)}, texts))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second
    assert len(first) > 100


@pytest.mark.parametrize("value", [b"", b"no safetensors at all", dump_tensors(TENSORS)[:-4]])
def test_bytes_that_are_no_safetensors_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_tensors(value)
