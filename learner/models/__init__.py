"""Models by name.

- ``dlrm``: the deep learning recommendation model: embeddings, dot products, two MLPs.

A model of another package is a function that an entry point of ``resprout.models`` names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learner.masking import MASK
from learner.models import dlrm
from learner.online import OnlineModel, check_tensors
from learner.snapshots import FILE, load_tensors, metadata
from stream import FeatureSchema, plugins

__all__ = ["BUILT_IN", "GROUP", "Builder", "begin_from", "build", "warm_start", "weights_file"]

Builder = Callable[[FeatureSchema, dict[str, Any]], nn.Module]
"""Makes a model from the features and the options of the configuration. Its ``forward(dense,
categorical)`` takes (n, d) float32 and (n, c) int32 and returns logits of shape (n,)."""

GROUP = "resprout.models"
"""The entry-point group under which other packages offer models."""

BUILT_IN: dict[str, Builder] = {"dlrm": dlrm.from_schema}


def build(name: str, schema: FeatureSchema, options: dict[str, Any], seed: int) -> nn.Module:
    """Build a model whose weights at the start depend on ``seed`` alone.

    The generator that torch shares among all is left as it was.

    Parameters
    ----------
    name
        As it stands in the configuration.
    schema
        The features.
    options
        The model's own.
    seed
        Decides every weight.

    Examples
    --------
    >>> from stream import NumericFeature
    >>> schema = FeatureSchema(numeric=[NumericFeature(name="price")])
    >>> build("dlmr", schema, {}, seed=0)
    Traceback (most recent call last):
    ...
    ValueError: unknown model 'dlmr'; known: dlrm
    """
    make: Builder = plugins.find(GROUP, BUILT_IN, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(schema, options)


def weights_file(path: Path) -> Path:
    """Return the file with the weights: of a folder that is a snapshot, the one in it."""
    return path / FILE if path.is_dir() else path


def begin_from(online: OnlineModel, path: Path) -> None:
    """Let a model begin with the weights of a state dict, or with those and the sums of a snapshot.

    Parameters
    ----------
    online
        Takes them; left as it was where they do not fit.
    path
        As of :func:`warm_start`, or a snapshot of a dense model, its folder or the file in it: then
        Adagrad continues with its sums.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no safetensors file, does not fit the model, or is a snapshot under a mask.
    """
    path = weights_file(path)
    try:
        content = path.read_bytes() if path.is_file() else b""
        found = load_tensors(content) if content else {}
        texts = metadata(content) if content else {}
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error
    if "cursor" not in texts:
        warm_start(online.module, path)
        return
    if any(name.startswith(MASK) for name in found):
        raise ValueError(
            f"cannot start from {path}: it is a snapshot of {texts['model']}, which has a mask; "
            "the dense model begins without one: give a snapshot of dense, or export this one"
        )
    try:
        online.load(found)
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error


def warm_start(module: nn.Module, path: Path) -> None:
    """Load a module's weights from a safetensors state dict.

    Adagrad begins anew.

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
        found = load_tensors(path.read_bytes())
        check_tensors(found, module.state_dict())
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error
    module.load_state_dict(found)
