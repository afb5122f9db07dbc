"""Taylor: prune the weights whose removal would change the loss of this batch least."""

from __future__ import annotations

from torch import Tensor

from pruner.criterion import Claim, Stateless
from pruner.evidence import Evidence, Need


def taylor(layer: Evidence) -> Tensor:
    r"""Score each weight by the first-order change of the loss if it is pruned, at one batch.

    .. math:: s_{ij} = |g_{ij} \theta_{ij}|

    with :math:`\theta` the weight as stored and :math:`g` the gradient of the loss by the effective
    weight. With the linear schedule it is the baseline TP of Ye et al. 2020 (arXiv 2010.08655),
    after Molchanov et al. 2017 (arXiv 1611.06440), who score whole feature maps so. One batch says
    little about a weight; ``taylor_ema`` averages over many.

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
    >>> weight, gradient = torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0, 4.0]])
    >>> taylor(Evidence(weight=weight, gradient=gradient))
    tensor([[6., 4.]])
    """
    return layer.saliency


TAYLOR = Stateless(
    name="taylor",
    function=taylor,
    needs=frozenset({Need.GRADIENT}),
    claims=frozenset({Claim.NON_NEGATIVE, Claim.SIGN_IGNORED, Claim.STATELESS}),
)
