"""Export: a snapshot as weights that plain torch loads, and as ONNX."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from learner.online import check_tensors, own_tensors
from learner.snapshots import LearnerState, dump_tensors
from stream import FeatureSchema
from stream.state import write_atomic

__all__ = ["Exported", "export"]

TOLERANCE = 1e-4
"""How far logits of the ONNX model may be from torch's."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    weights: Path
    """A safetensors state dict of effective weights: pruned ones are zero."""
    onnx: Path | None = None
    onnx_difference: float | None = None
    """The greatest difference of a logit between onnxruntime and torch, on random events."""


def export(
    snapshot: LearnerState, module: nn.Module, schema: FeatureSchema, folder: Path, *, onnx: bool
) -> Exported:
    """Write a snapshot for use elsewhere.

    ``model.safetensors`` goes into the same module anywhere:
    ``module.load_state_dict(safetensors.torch.load_file(path))``. ``model.onnx`` takes ``dense``
    (n, d) float32 and ``categorical`` (n, c) int32 and gives ``logits`` (n,); it is run and
    compared with torch before it is written.

    Parameters
    ----------
    snapshot
        Of any model, dense or sparse.
    module
        Built as the snapshot's model was; not changed.
    schema
        The features of the run.
    folder
        Made if need be.
    onnx
        Write ONNX too, which needs the extra ``resprout[onnx]``.
    """
    own = own_tensors(snapshot.tensors)
    check_tensors(own, module.state_dict())
    plain = deepcopy(module).cpu().eval()
    plain.load_state_dict(own)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    write_atomic(weights, dump_tensors(own, {"model": snapshot.model}))
    if not onnx:
        return Exported(weights)
    program = to_onnx(plain, schema)
    difference = onnx_difference(program, plain, schema)
    write_atomic(folder / "model.onnx", program)
    return Exported(weights, folder / "model.onnx", difference)


def to_onnx(module: nn.Module, schema: FeatureSchema) -> bytes:
    """Turn a module into an ONNX model for batches of any size.

    Raises ``ImportError`` where the packages of the extra are not installed.
    """
    packages = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'resprout[onnx]'")
    events = torch.export.Dim("n")
    before = logging.root.manager.disable
    # The exporter's messages about itself are not for users.
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                module,
                random_inputs(schema, 2),
                dynamo=True,
                verbose=False,
                opset_version=18,
                input_names=["dense", "categorical"],
                output_names=["logits"],
                dynamic_shapes=({0: events}, {0: events}),
            )
    finally:
        logging.disable(before)
    content: bytes = cast(torch.onnx.ONNXProgram, program).model_proto.SerializeToString()
    return content


def onnx_difference(program: bytes, module: nn.Module, schema: FeatureSchema) -> float:
    """Run an ONNX model and return how far its logits are from torch's, at most.

    Raises ``ValueError`` where that is more than :data:`TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    dense, categorical = random_inputs(schema, 256)
    given = {"dense": dense.numpy(), "categorical": categorical.numpy()}
    wanted = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {name: value for name, value in given.items() if name in wanted})
    with torch.no_grad():
        expected = module(dense, categorical).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the ONNX model's logits differ from torch's by up to {difference:g}, more than "
            f"{TOLERANCE:g}; export without onnx, or look for operations that torch cannot export"
        )
    return difference


def random_inputs(schema: FeatureSchema, events: int) -> tuple[Tensor, Tensor]:
    """Draw events from all over the schema, always the same: (n, d) float32 and (n, c) int32."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((events, schema.numeric_count), dtype=np.float32)
    categorical = rng.integers(0, schema.column_buckets, (events, schema.column_count))
    return torch.from_numpy(dense), torch.from_numpy(categorical.astype(np.int32))
