"""The deep learning recommendation model (DLRM): embeddings, dot products, two MLPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from stream import FeatureSchema


class CategoricalField(NamedTuple):
    """One categorical feature as the model sees it."""

    buckets: int
    """Buckets of the feature, padding and missing included."""
    columns: int = 1
    """Columns of the batch that hold its values."""


class DLRMOptions(BaseModel):
    """The shape of a DLRM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_dim: int = Field(default=16, gt=0)
    """Width of an embedding and of the bottom MLP's output."""
    bottom: tuple[int, ...] = (64,)
    """Widths of the bottom MLP's hidden layers."""
    top: tuple[int, ...] = (256, 128)
    """Widths of the top MLP's hidden layers."""
    first_order: bool = False
    """Add a weight for every bucket and every numeric feature to the logit."""
    embedding_std: float = Field(default=0.05, gt=0)
    """Standard deviation of the embeddings at the start."""


class DLRM(nn.Module):
    r"""Predict a click from numeric and categorical features.

    The numeric features pass through the bottom MLP to one vector as wide as an embedding. With
    the embeddings of the categorical features that makes :math:`f` vectors :math:`z_1 \dots z_f`,
    whose :math:`f (f - 1) / 2` dot products :math:`z_i \cdot z_j, i > j`, beside the bottom MLP's
    output, go into the top MLP, which ends in the logit. A feature with several values has the mean
    of their embeddings (zero with none). All features share one table, each at its own offset.
    Without numeric features a learned vector takes the place of the bottom MLP, so that each
    feature still counts on its own.

    Parameters
    ----------
    numeric
        Numeric features, ``d``.
    fields
        The categorical features in the order of their columns, ``c`` columns in all.
    options
        The shape.

    Examples
    --------
    >>> import torch
    >>> model = DLRM(2, [CategoricalField(7), CategoricalField(9, columns=3)], DLRMOptions())
    >>> model(torch.zeros(5, 2), torch.ones(5, 4, dtype=torch.int32)).shape
    torch.Size([5])

    References
    ----------
    Naumov et al., Deep Learning Recommendation Model for Personalization and Recommendation
    Systems, arXiv 1906.00091, 2019.
    """

    def __init__(
        self, numeric: int, fields: Sequence[CategoricalField], options: DLRMOptions
    ) -> None:
        super().__init__()
        if not numeric and not fields:
            raise ValueError("a DLRM needs at least one feature; the schema has none")
        width, vectors = options.embedding_dim, len(fields) + 1
        buckets = sum(field.buckets for field in fields)
        self.embedding = nn.Embedding(buckets, width, sparse=True)
        nn.init.normal_(self.embedding.weight, std=options.embedding_std)
        widths = [numeric, *options.bottom, width]
        self.bottom = mlp(widths, last_relu=True) if numeric else Constant(width)
        pairs = vectors * (vectors - 1) // 2
        self.top = mlp([width + pairs, *options.top, 1], last_relu=False)
        self.first_order = FirstOrder(numeric, buckets) if options.first_order else None
        self.mean = FieldMean([field.columns for field in fields])
        self.dots = PairwiseDots(vectors)
        self.register_buffer("offsets", column_offsets(fields), persistent=False)
        self.offsets: Tensor

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        dense
            Shape (n, d), float32.
        categorical
            Shape (n, c), the bucket of each column inside its own feature, 0 for padding.

        Returns
        -------
        Shape (n,), float32.
        """
        rows = categorical + self.offsets
        vectors = self.mean(self.embedding(rows), categorical)
        first = self.bottom(dense)
        dots = self.dots(torch.cat([first.unsqueeze(1), vectors], 1))
        logits: Tensor = self.top(torch.cat([first, dots], 1)).squeeze(1)
        if self.first_order is not None:
            logits = logits + self.first_order(dense, rows, self.mean, categorical)
        return logits


class Constant(nn.Module):
    """One learned vector for every event, where there is nothing to compute it from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.full((width,), 1 / math.sqrt(width)))

    def forward(self, dense: Tensor) -> Tensor:
        """Return shape (n, width) for ``dense`` of shape (n, d)."""
        return self.vector.expand(dense.shape[0], -1)


class FirstOrder(nn.Module):
    """The wide part: a weight for every bucket and one for every numeric feature.

    It is not an ``nn.Linear``, so it is not pruned unless embeddings are.
    """

    def __init__(self, numeric: int, buckets: int) -> None:
        super().__init__()
        self.buckets = nn.Embedding(buckets, 1, sparse=True)
        nn.init.zeros_(self.buckets.weight)
        self.numeric = nn.Parameter(torch.zeros(numeric)) if numeric else None

    def forward(self, dense: Tensor, rows: Tensor, mean: FieldMean, categorical: Tensor) -> Tensor:
        """Return what is added to the logits, shape (n,)."""
        logits: Tensor = mean(self.buckets(rows), categorical).sum((1, 2))
        return logits if self.numeric is None else logits + dense @ self.numeric


class FieldMean(nn.Module):
    """Average the vectors of each feature over its columns that are not padding.

    Examples
    --------
    >>> import torch
    >>> vectors = torch.tensor([[[1.0], [2.0], [4.0], [9.0]]])
    >>> FieldMean([1, 3])(vectors, torch.tensor([[5, 3, 2, 0]])).flatten()
    tensor([1., 3.])
    """

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.columns = list(columns)
        self.is_identity = all(count == 1 for count in columns)

    def forward(self, vectors: Tensor, categorical: Tensor) -> Tensor:
        """Turn (n, c, width) into (n, fields, width); a feature with only padding is zero.

        A feature with a single column is passed on as it is.
        """
        if self.is_identity:
            return vectors
        features = list(torch.split(vectors, self.columns, 1))
        for number, buckets in enumerate(torch.split(categorical, self.columns, 1)):
            if self.columns[number] > 1:
                present = (buckets != 0).to(vectors.dtype).unsqueeze(2)
                total = (features[number] * present).sum(1, keepdim=True)
                features[number] = total / present.sum(1, keepdim=True).clamp_min(1.0)
        return torch.cat(features, 1)


class PairwiseDots(nn.Module):
    """All dot products of two different vectors, the lower triangle row by row.

    Examples
    --------
    >>> import torch
    >>> PairwiseDots(3)(torch.tensor([[[1.0, 0.0], [2.0, 3.0], [5.0, 7.0]]]))
    tensor([[ 2.,  5., 31.]])
    """

    def __init__(self, vectors: int) -> None:
        super().__init__()
        row, column = torch.tril_indices(vectors, vectors, -1)
        pairs = len(row)
        spread = torch.full((vectors, vectors), pairs)
        spread[row, column] = spread[column, row] = torch.arange(pairs)
        self.register_buffer("lower", row * vectors + column, persistent=False)
        self.register_buffer("spread", spread.flatten(), persistent=False)
        self.lower: Tensor
        self.spread: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """Turn (n, f, width) into (n, f (f − 1) / 2)."""
        if torch.is_grad_enabled():
            return _dots(vectors, self.lower, self.spread)
        return _lower_dots(vectors, self.lower)


def _lower_dots(vectors: Tensor, lower: Tensor) -> Tensor:
    return torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, lower)


class _Dots(torch.autograd.Function):
    """The dot products with a gradient of one gather and one product."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, lower: Tensor, spread: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, spread)
        return _lower_dots(vectors, lower)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        vectors, spread = ctx.saved_tensors
        square = functional.pad(gradient, (0, 1)).index_select(1, spread)
        n, f, _ = vectors.shape
        return torch.bmm(square.view(n, f, f), vectors), None, None


_dots: Callable[[Tensor, Tensor, Tensor], Tensor] = _Dots.apply


def mlp(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    """Stack linear layers with a ReLU between them, and after the last one if asked.

    >>> mlp([3, 4, 1], last_relu=False)
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU(inplace=True)
      (2): Linear(in_features=4, out_features=1, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def column_offsets(fields: Sequence[CategoricalField]) -> Tensor:
    """Return where each column's feature begins in the shared table, shape (c,), int64.

    >>> column_offsets([CategoricalField(5), CategoricalField(7, columns=2), CategoricalField(3)])
    tensor([ 0,  5,  5, 12])
    """
    pairs = torch.tensor(fields, dtype=torch.int64).reshape(-1, 2)
    buckets, columns = pairs[:, 0], pairs[:, 1]
    return (buckets.cumsum(0) - buckets).repeat_interleave(columns)


def from_schema(schema: FeatureSchema, options: dict[str, Any]) -> DLRM:
    """Build a DLRM for the features of a schema; unknown options are refused by name."""
    fields = [CategoricalField(f.buckets, f.max_values) for f in schema.categorical]
    return DLRM(schema.numeric_count, fields, DLRMOptions.model_validate(options))
