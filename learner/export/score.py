"""Score clicks with the model of this folder. Needs torch and numpy, and nothing of Resprout."""

from __future__ import annotations

import json
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
DTYPES |= {"BOOL": "?"}


def read(path: Path) -> dict[str, Any]:
    """Read a safetensors file; of a pruned tensor it holds a bitmap and the values that are 1."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    shapes = json.loads(header.pop("__metadata__", {}).get("pruned", "{}"))
    found = {}
    for name, at in header.items():
        begin, end = at["data_offsets"]
        array = np.frombuffer(content[start + begin : start + end], DTYPES[at["dtype"]])
        found[name] = array.reshape(at["shape"])
    for name, shape in shapes.items():
        whole = np.zeros(shape, np.float32)
        bits = np.unpackbits(found.pop(f"{name}.bitmap"), count=whole.size)
        whole[bits.reshape(shape) == 1] = found.pop(f"{name}.values")
        found[name] = whole
    return found


@cache
def load() -> tuple[Any, list[torch.Tensor]]:
    """Return the computation, and the tensors that it takes before the features."""
    names = json.loads((HERE / "config.json").read_text("utf-8"))["inputs"]
    arrays = read(HERE / "model.safetensors") | read(HERE / "constants.safetensors")
    # A copy is aligned as torch aligns it.
    tensors = [torch.tensor(arrays[name]) for name in names]
    return runpy.run_path(str(HERE / "forward.py"))["forward"], tensors


def predict(numeric: Any, categorical: Any) -> Any:
    """Return the chance of a click of each of n events, float64.

    ``numeric`` is (n, d) float32 and ``categorical`` (n, c) int32, as encode.py makes them. With
    the same batches and ``torch.set_num_threads(1)`` they are the learner's own, to the bit.
    """
    forward, tensors = load()
    with torch.no_grad():
        logits = forward(None, *tensors, torch.tensor(numeric), torch.tensor(categorical))[0]
    return torch.sigmoid(logits.double()).clamp_(1e-15, 1 - 1e-15).numpy()


if __name__ == "__main__":  # Events in, a line of JSON each; chances out, a line each.
    encode = runpy.run_path(str(HERE / "encode.py"))["encode"]
    chances = predict(*encode([json.loads(line) for line in sys.stdin]))
    sys.stdout.writelines(f"{chance!r}\n" for chance in chances.tolist())
