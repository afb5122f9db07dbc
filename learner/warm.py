"""Warm start: a run that begins with somebody's weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from learner import tensors
from learner.online import check_tensors


def warm_start(module: nn.Module, path: Path) -> None:
    """Load a module's weights from a safetensors state dict.

    Adagrad begins anew. A snapshot holds more than weights: export it first.

    Parameters
    ----------
    module
        Takes the weights; left as it was where they do not fit.
    path
        A safetensors file whose names are those of ``module.state_dict()``.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no safetensors file, or tensors are unknown, missing or of another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} to start from; give a safetensors state dict")
    try:
        found = tensors.load(path.read_bytes())
        check_tensors(found, module.state_dict())
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error
    module.load_state_dict(found)
