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

from learner.models import dlrm
from learner.online import check_tensors
from learner.snapshots import load_tensors
from stream import FeatureSchema, plugins

__all__ = ["BUILT_IN", "GROUP", "Builder", "build", "builder", "warm_start"]

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
    >>> build("dlmr", FeatureSchema(numeric=(NumericFeature(name="price"),)), {}, seed=0)
    Traceback (most recent call last):
    ...
    ValueError: unknown model 'dlmr'; known: dlrm
    """
    make: Builder = plugins.find(GROUP, BUILT_IN, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(schema, options)


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
        found = load_tensors(path.read_bytes())
        check_tensors(found, module.state_dict())
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error
    module.load_state_dict(found)
