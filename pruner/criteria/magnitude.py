"""Magnitude: prune the smallest weights."""

from __future__ import annotations

from torch import Tensor

from pruner.criterion import Claim, Stateless
from pruner.evidence import Evidence


def magnitude(layer: Evidence) -> Tensor:
    r"""Score each weight by its size.

    .. math:: s_{ij} = |\theta_{ij}|

    With the linear schedule it is the baseline MP of Ye et al. 2020 (arXiv 2010.08655).

    Parameters
    ----------
    layer
        Evidence of one layer.

    Returns
    -------
    Scores of shape (out, in), non-negative.

    Examples
    --------
    >>> import torch
    >>> magnitude(Evidence(weight=torch.tensor([[2.0, -3.0]])))
    tensor([[2., 3.]])
    """
    return layer.weight.abs()


MAGNITUDE = Stateless(
    name="magnitude",
    function=magnitude,
    needs=frozenset(),
    claims=frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED, Claim.STATELESS}),
)
