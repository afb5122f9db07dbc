"""Models by name.

- ``dlrm``: the deep learning recommendation model: embeddings, dot products, two MLPs.

A model of another package is a function that an entry point of ``resprout.models`` names;
``resprout models check NAME`` runs :func:`check` on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.config import LearnerConfig
from learner.masking import MASK
from learner.models import dlrm
from learner.online import OnlineModel, check_tensors
from learner.snapshots import FILE, load_tensors, load_weights, metadata
from stream import CategoricalFeature, ClickBatch, FeatureSchema, NumericFeature, plugins
from stream.plugins import Check, run_checks

__all__ = ["BUILT_IN", "CHECKS", "GROUP", "Builder", "Candidate", "begin_from", "build", "check"]
__all__ += ["known", "warm_start", "weights_file"]

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
        found = load_weights(path.read_bytes())
        check_tensors(found, module.state_dict())
    except ValueError as error:
        raise ValueError(f"cannot start from {path}: {error}") from error
    module.load_state_dict(found)


def known() -> dict[str, str]:
    """Return the names of all models, and the package of each.

    >>> known()["dlrm"]
    'resprout'
    """
    return plugins.known(GROUP, BUILT_IN)


NUMERIC = (NumericFeature(name="price"), NumericFeature(name="age"))
CATEGORICAL = (
    CategoricalFeature(name="site", buckets=40),
    CategoricalFeature(name="tags", buckets=20, max_values=3),
)
EXAMPLE = FeatureSchema(numeric=NUMERIC, categorical=CATEGORICAL)
"""The features that models are checked on."""
_CLOSE = 1e-4
"""How far logits may be apart that are the same but for the order of sums."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to check: its name, and its options."""

    name: str
    options: dict[str, Any]

    def module(self, seed: int = 7, schema: FeatureSchema = EXAMPLE) -> nn.Module:
        """Build it."""
        return build(self.name, schema, dict(self.options), seed).eval()

    def online(self) -> OnlineModel:
        """Build it as it learns."""
        return OnlineModel(self.module(), LearnerConfig())


def check(candidate: Candidate) -> list[Check]:
    """Run all checks on a model: what ``docs/models.md`` asks of it.

    >>> all(one.passed for one in check(Candidate("dlrm", {})))
    True
    """
    return run_checks(CHECKS, candidate)


def _example(events: int, seed: int = 0) -> ClickBatch:
    """Make clicks of :data:`EXAMPLE` that the features explain in part."""
    rng = np.random.default_rng(seed)
    site, tags = rng.integers(1, 40, events), rng.integers(2, 20, (events, 3))
    tags[np.arange(3) >= rng.integers(1, 4, (events, 1))] = 0
    numeric = rng.standard_normal((events, 2), dtype=np.float32)
    logit = numeric[:, 0] + 2.0 * (site % 3 == 0) - 1.5
    return ClickBatch(
        label=(rng.random(events) < 1 / (1 + np.exp(-logit))).astype(np.float32),
        weight=np.ones(events, np.float32),
        time_ms=np.zeros(events, np.int64),
        numeric=numeric,
        categorical=np.column_stack([site, tags]).astype(np.int32),
    )


def _logits(module: nn.Module, batch: ClickBatch) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(torch.tensor(batch.numeric), torch.tensor(batch.categorical))
    return found


def logits(candidate: Candidate) -> str | None:
    """Logits are finite float32 of shape (n,), for one event and for many."""
    for events in (1, 33):
        found = _logits(candidate.module(), _example(events))
        if (tuple(found.shape), found.dtype) != ((events,), torch.float32):
            return f"{found.dtype} of shape {tuple(found.shape)} for {events} events"
        if not found.isfinite().all():
            return f"a logit is {found[~found.isfinite()][0].item()}"
    return None


def any_schema(candidate: Candidate) -> str | None:
    """Schemas with numeric features alone are taken, and with categorical ones alone."""
    batch = _example(5)
    no_numbers, no_columns = np.empty((5, 0), np.float32), np.empty((5, 0), np.int32)
    for schema, numeric, categorical in (
        (FeatureSchema(numeric=NUMERIC), batch.numeric, no_columns),
        (FeatureSchema(categorical=CATEGORICAL), no_numbers, batch.categorical),
    ):
        with torch.no_grad():
            found = candidate.module(schema=schema)(
                torch.tensor(numeric), torch.tensor(categorical)
            )
        if tuple(found.shape) != (5,):
            return f"logits of shape {tuple(found.shape)} with {', '.join(schema.names)} alone"
    return None


def seeded(candidate: Candidate) -> str | None:
    """Weights at the start depend on the seed, and on nothing else."""
    one, same, other = (candidate.module(seed).state_dict() for seed in (7, 7, 8))
    if any(not torch.equal(one[name], same[name]) for name in one):
        return "two models of one seed differ"
    return None if any(not torch.equal(one[n], other[n]) for n in one) else "all seeds are alike"


def each_event_alone(candidate: Candidate) -> str | None:
    """Logits do not depend on the other events of the batch."""
    batch, module = _example(16), candidate.module()
    apart = torch.cat([_logits(module, batch[n : n + 1]) for n in range(16)])
    gap = float((_logits(module, batch) - apart).abs().max())
    return None if gap < _CLOSE else f"it changes by up to {gap:g}"


def repeatable(candidate: Candidate) -> str | None:
    """Equal batches have equal logits, to the bit, and are not changed."""
    batch, module = _example(16), candidate.module()
    numeric, categorical = torch.tensor(batch.numeric), torch.tensor(batch.categorical)
    with torch.no_grad():
        first, second = module(numeric, categorical), module(numeric, categorical)
    if not torch.equal(first, second):
        return f"they differ by up to {float((first - second).abs().max()):g}"
    same = np.array_equal(numeric, batch.numeric) and np.array_equal(categorical, batch.categorical)
    return None if same else "the batch is changed"


def prunable(candidate: Candidate) -> str | None:
    """Weights of an nn.Linear learn, so that there is something to prune."""
    return None if candidate.online().prunable else "no nn.Linear has weights that learn"


def learns(candidate: Candidate) -> str | None:
    """Learning some events again and again lowers the loss on them; weights stay finite."""
    model, batches = candidate.online(), [_example(64, seed) for seed in range(4)]

    def loss() -> float:
        found = [
            functional.binary_cross_entropy_with_logits(
                _logits(model.module, one), torch.tensor(one.label)
            )
            for one in batches
        ]
        return float(torch.stack(found).mean())

    before = loss()
    for one in batches * 20:
        model.learn(one)
    after = loss()
    if not model.finite():
        return "weights are not finite after 20 passes"
    return None if after < before else f"the loss was {before:.4f}, and is {after:.4f}"


def written_down(candidate: Candidate) -> str | None:
    """Torch can write its computation down, so that an export has model.py."""
    # It loads torch's exporter, which nothing else here needs.
    from learner.export import computation

    computation(candidate.module(), EXAMPLE)
    return None


_ALL = (logits, any_schema, seeded, each_event_alone, repeatable, prunable, learns, written_down)
CHECKS: dict[str, Callable[[Candidate], str | None]] = {one.__name__: one for one in _ALL}
"""All checks of a model."""
