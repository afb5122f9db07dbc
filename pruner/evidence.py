"""What a criterion may know about a layer, and how it is gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor

from learner import ForwardPass, Gradients, OnlineModel
from stream import plugins

GROUP = "resprout.evidence"
_AXES = 2
"""Of the weights of a layer: out, in."""
"""The entry-point group under which other packages offer kinds of evidence."""

Provider = Callable[[OnlineModel, Gradients, ForwardPass], Mapping[str, Tensor]]
"""Gathers one kind of evidence: takes the model, the gradients of the effective weights by layer
and the batch with its predictions; returns a tensor of any shape for every prunable layer."""


class Need(StrEnum):
    """A built-in kind of evidence that costs something and is gathered only where it is needed."""

    GRADIENT = "gradient"
    INPUT_SQ = "input_sq"
    ACCUMULATOR = "accumulator"
    MEANS = "means"


_BUILT_IN: frozenset[str] = frozenset(Need)


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
    """θ, shape (out, in): as stored, so where a weight is pruned this is not zero."""
    gradient: Tensor | None = None
    """Of the loss by the *effective* weight, shape (out, in); not zero where a weight is pruned."""
    input_sq: Tensor | None = None
    """Mean square of each input over the batch, shape (in,)."""
    accumulator: Tensor | None = None
    """Adagrad's running sum of squared gradients, shape (out, in)."""
    mask: Tensor | None = None
    """bool, shape (out, in), True is kept; None while the layer is whole."""
    means: Means | None = None
    """Averages over all layers."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What providers of other packages gathered, by the name of the kind; any shape."""

    def __post_init__(self) -> None:
        shape = tuple(self.weight.shape)
        if len(shape) != _AXES:
            raise ValueError(f"weight has shape {shape}; it must be (out, in)")
        for name in ("gradient", "accumulator", "mask", "input_sq"):
            tensor, wanted = getattr(self, name), shape[1:] if name == "input_sq" else shape
            if tensor is not None and tuple(tensor.shape) != wanted:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; beside this weight it must have "
                    f"{wanted}"
                )
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise ValueError(f"mask is {self.mask.dtype}; it must be torch.bool")

    def need(self, kind: str) -> Tensor:
        """Return the tensor of a kind of evidence that must be there."""
        found = getattr(self, kind) if kind in _BUILT_IN else self.extra.get(kind)
        if not isinstance(found, Tensor):
            raise ValueError(f"evidence '{kind}' was not gathered; name it in `needs`")
        return found

    def need_means(self) -> Means:
        """Return the averages over all layers, which must be there."""
        if self.means is None:
            raise ValueError("evidence 'means' was not gathered; name it in `needs`")
        return self.means

    @property
    def saliency(self) -> Tensor:
        r"""The first-order change of the loss if a weight is pruned, :math:`|g \theta|`."""
        return (self.need(Need.GRADIENT) * self.weight).abs_()


def with_means(layers: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """Add the averages over all weights of all layers to each layer's evidence.

    >>> one = Evidence(weight=torch.ones(1, 1), gradient=torch.zeros(1, 1))
    >>> three = Evidence(weight=torch.full((1, 3), -5.0), gradient=torch.ones(1, 3))
    >>> found = with_means({"a": one, "b": three})["a"].means
    >>> found.saliency, found.magnitude
    (tensor(3.7500), tensor(4.))
    """
    weights = sum(layer.weight.numel() for layer in layers.values())
    saliency = torch.stack([layer.saliency.sum() for layer in layers.values()]).sum()
    magnitude = torch.stack([layer.weight.abs().sum() for layer in layers.values()]).sum()
    found = Means(saliency / weights, magnitude / weights)
    return {name: replace(one, means=found) for name, one in layers.items()}


def provider(kind: str) -> Provider:
    """Look up the provider of a kind of evidence that is not built in.

    >>> provider("curvature")
    Traceback (most recent call last):
    ...
    ValueError: unknown evidence 'curvature'; known: accumulator, gradient, input_sq, means
    """
    found: Provider = plugins.find(GROUP, dict.fromkeys(_BUILT_IN), kind)
    return found


def layers_of(model: OnlineModel) -> dict[str, Evidence]:
    """Return what is known of a model's prunable layers without any batch: weights and masks."""
    return {
        name: Evidence(model.theta(name), mask=model.masks.get(name)) for name in model.prunable
    }


def gather(
    model: OnlineModel, needs: frozenset[str], gradients: Gradients, forward: ForwardPass
) -> dict[str, Evidence]:
    """Gather what is known of a model's prunable layers at one batch.

    Parameters
    ----------
    model
        Whose layers.
    needs
        Kinds of evidence beside weights, masks and gradients; averages are not gathered here.
    gradients
        Of the effective weights by layer, shape (out, in); a layer that the batch did not use has a
        gradient of zero.
    forward
        The batch and its predictions.
    """
    extra = {n: provider(n)(model, gradients, forward) for n in needs - _BUILT_IN}
    found = {}
    for name, bare in layers_of(model).items():
        gradient = gradients.get(name)
        if gradient is None:
            gradient = torch.zeros_like(bare.weight)
        found[name] = replace(
            bare,
            gradient=gradient.to_dense() if gradient.is_sparse else gradient,
            input_sq=forward.input_sq.get(name) if Need.INPUT_SQ in needs else None,
            accumulator=model.accumulator(name) if Need.ACCUMULATOR in needs else None,
            extra={kind: by_layer[name] for kind, by_layer in extra.items()},
        )
    return found
