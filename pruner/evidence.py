"""What a criterion may know about a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

_OUT_IN = ("out", "in")
"""The dimensions of a layer's weights."""


class Need(StrEnum):
    """A kind of evidence that costs something and is gathered only where it is asked for."""

    GRADIENT = "gradient"
    INPUT_SQ = "input_sq"
    ACCUMULATOR = "accumulator"
    MEANS = "means"


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """Averages over the weights of all layers together."""

    saliency: Tensor
    """Of :math:`|g \\theta|`, shape ()."""
    magnitude: Tensor
    """Of :math:`|\\theta|`, shape ()."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """One layer at one batch, before the batch's step is taken.

    Shapes are checked here, so criteria need not.

    Examples
    --------
    >>> layer = Evidence(weight=torch.zeros(2, 3), gradient=torch.ones(2, 3))
    >>> layer.need(Need.GRADIENT).sum()
    tensor(6.)
    """

    weight: Tensor
    """θ, shape (out, in): as stored, so where a weight is cut this is not zero."""
    gradient: Tensor | None = None
    """Of the loss by the *effective* weight, shape (out, in); not zero where a weight is cut."""
    input_sq: Tensor | None = None
    """Mean square of each input over the batch, shape (in,)."""
    accumulator: Tensor | None = None
    """Adagrad's running sum of squared gradients, shape (out, in)."""
    mask: Tensor | None = None
    """bool, shape (out, in), True is kept; None while the layer is whole."""
    means: Means | None = None
    """Averages over all layers."""

    def __post_init__(self) -> None:
        if self.weight.ndim != len(_OUT_IN):
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}; it must be (out, in)")
        shape = tuple(self.weight.shape)
        for name in ("gradient", "accumulator", "mask"):
            _check(name, getattr(self, name), shape)
        _check("input_sq", self.input_sq, shape[1:])
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise ValueError(f"mask is {self.mask.dtype}; it must be torch.bool")

    def need(self, kind: Need) -> Tensor:
        """Return the tensor of a kind of evidence that must be there."""
        found = getattr(self, kind.value)
        if not isinstance(found, Tensor):
            raise ValueError(f"evidence {kind.value!r} was not gathered; name it in `needs`")
        return found

    def need_means(self) -> Means:
        """Return the averages over all layers, which must be there."""
        if self.means is None:
            raise ValueError("evidence 'means' was not gathered; name it in `needs`")
        return self.means

    @property
    def saliency(self) -> Tensor:
        r"""The first-order change of the loss if a weight is cut, :math:`|g \theta|`."""
        return (self.need(Need.GRADIENT) * self.weight).abs_()


def _check(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; beside this weight it must have {shape}"
        )


def means(layers: Mapping[str, Evidence]) -> Means:
    """Average over all weights of all layers.

    >>> one = Evidence(weight=torch.ones(1, 1), gradient=torch.zeros(1, 1))
    >>> three = Evidence(weight=torch.full((1, 3), -5.0), gradient=torch.ones(1, 3))
    >>> found = means({"a": one, "b": three})
    >>> found.saliency, found.magnitude
    (tensor(3.7500), tensor(4.))
    """
    weights = sum(layer.weight.numel() for layer in layers.values())
    saliency = torch.stack([layer.saliency.sum() for layer in layers.values()]).sum()
    magnitude = torch.stack([layer.weight.abs().sum() for layer in layers.values()]).sum()
    return Means(saliency / weights, magnitude / weights)
