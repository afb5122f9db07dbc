"""Adagrad that touches only the rows of an embedding that a batch used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.config import LearnerConfig

FIRST_ORDER = "first_order"
"""The submodule whose parameters learn at the first-order rate, by its name."""


def adagrad_(weight: Tensor, total: Tensor, gradient: Tensor, rate: float, epsilon: float) -> None:
    r"""Take one step in place, as ``torch.optim.Adagrad`` does.

    .. math:: A \leftarrow A + g^2, \quad w \leftarrow w - \eta \, g / (\sqrt{A} + \epsilon)

    With a gradient of zero neither changes, not even by a bit.

    Parameters
    ----------
    weight
        The parameter, any shape.
    total
        The running sum of squared gradients, same shape.
    gradient
        Same shape; where it is sparse (rows of an embedding), other rows are not touched.
    rate, epsilon
        Positive.

    Examples
    --------
    >>> import torch
    >>> weight, total = torch.tensor([1.0, 1.0]), torch.tensor([9.0, 0.0])
    >>> adagrad_(weight, total, torch.tensor([4.0, 0.0]), rate=0.5, epsilon=1e-10)
    >>> weight, total
    (tensor([0.6000, 1.0000]), tensor([25.,  0.]))

    References
    ----------
    Duchi, Hazan and Singer, Adaptive Subgradient Methods, JMLR 12, 2011.
    """
    if not gradient.is_sparse:
        total.addcmul_(gradient, gradient)
        weight.addcdiv_(gradient, total.sqrt().add_(epsilon), value=-rate)
        return
    rows, values = summed_rows(gradient)
    sums = total.index_select(0, rows).addcmul_(values, values)
    total.index_copy_(0, rows, sums)
    step = values.div_(sums.sqrt_().add_(epsilon))
    weight.index_add_(0, rows, step, alpha=-rate)


def summed_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Add up a sparse gradient's values row by row: ``coalesce`` in half the time.

    Parameters
    ----------
    gradient
        Sparse, shape (rows, width), with one sparse dimension and rows that may repeat.

    Returns
    -------
    The distinct rows, ascending, shape (r,), and their sums, shape (r, width).

    Examples
    --------
    >>> import torch
    >>> table = torch.nn.Embedding(9, 1, sparse=True)
    >>> looked_up = table(torch.tensor([3, 1, 3])).flatten()
    >>> (looked_up @ torch.tensor([1.0, 2.0, 4.0])).backward()
    >>> summed_rows(table.weight.grad)
    (tensor([1, 3]), tensor([[2.],
            [5.]]))
    """
    values = gradient._values()
    rows, place = torch.unique(gradient._indices()[0], return_inverse=True)
    sums = torch.zeros(len(rows), *values.shape[1:], dtype=values.dtype, device=values.device)
    return rows, sums.index_add_(0, place, values)


class Adagrad:
    """Adagrad over a module's parameters, with rates of their own for some.

    Embeddings (``nn.Embedding``, ``nn.EmbeddingBag``) learn at ``embedding_rate``, everything
    in a submodule called ``first_order`` at ``first_order_rate``, the rest at ``rate``.

    Parameters
    ----------
    module
        Whose parameters are to move.
    config
        The rates.
    """

    def __init__(self, module: nn.Module, config: LearnerConfig) -> None:
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.rates = rates(module, config)
        self.epsilon = config.epsilon
        self.sums = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        """The running sums of squared gradients, by parameter."""

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Move every parameter that has a gradient."""
        for name, gradient in gradients.items():
            weight, total = self.parameters[name], self.sums[name]
            adagrad_(weight, total, gradient, self.rates[name], self.epsilon)


def rates(module: nn.Module, config: LearnerConfig) -> dict[str, float]:
    """Say at which rate each parameter learns.

    >>> from torch import nn
    >>> module = nn.ModuleDict({"table": nn.Embedding(2, 3), "top": nn.Linear(3, 1)})
    >>> rates(module, LearnerConfig(rate=0.01, embedding_rate=0.05))
    {'table.weight': 0.05, 'top.weight': 0.01, 'top.bias': 0.01}
    """
    found = {}
    for owner, submodule in module.named_modules():
        is_embedding = isinstance(submodule, nn.Embedding | nn.EmbeddingBag)
        own = config.embedding_rate if is_embedding else config.rate
        rate = config.first_order_rate if FIRST_ORDER in owner.split(".") else own
        for name, _ in submodule.named_parameters(prefix=owner, recurse=False):
            found[name] = rate
    return found
