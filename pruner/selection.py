"""Which entries of a layer are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(scores: Tensor, kept: int) -> Tensor:
    """Keep exactly ``kept`` entries, those of the highest scores; of equals the earlier ones.

    Parameters
    ----------
    scores
        Any shape, finite or infinite, no NaN.
    kept
        0 to the number of entries.

    Returns
    -------
    bool, the shape of ``scores``.

    Examples
    --------
    >>> top_k(torch.tensor([[1.0, 2.0], [2.0, 2.0]]), kept=2)
    tensor([[False,  True],
            [ True, False]])
    """
    flat = scores.flatten()
    if not 0 <= kept <= len(flat):
        raise ValueError(f"cannot keep {kept} of {len(flat)} weights")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = flat.kthvalue(len(flat) - kept + 1).values
    mask = flat > least
    ties = (flat == least).nonzero().flatten()
    mask[ties[: kept - int(mask.sum())]] = True
    return mask.view(scores.shape)
