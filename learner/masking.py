"""Masks over a model's weights: which can be pruned, and what happens to those that are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from learner.config import MaskingConfig
from learner.optim import Adagrad

FROZEN, MASK, ADAGRAD, UPDATER = "frozen.", "mask.", "adagrad.", "updater."
"""Prefixes of the names in a learner's state that are not the module's own."""

MaskListener = Callable[[str, Tensor | None], None]
"""Called with the name of a layer and its new mask after a change; None: nothing is pruned now."""


class Masking:
    r"""The masks of a model, and the values of the weights that they prune.

    A mask :math:`m` over a layer makes its effective weight :math:`w = m \theta`. The module's
    ``weight`` holds :math:`w`; where :math:`m = 0` the value of :math:`\theta` is kept apart, in
    the stash. :class:`~learner.config.MaskingConfig` decides which layers can be pruned, with what
    weight and Adagrad sum a pruned weight comes back, and whether it learns meanwhile.

    Parameters
    ----------
    module
        The model; the weights of its layers are changed in place.
    optimiser
        Takes the steps, and holds the sums.
    config
        The rules.

    Attributes
    ----------
    layers
        The layers that masks can cover, by name: those of the kinds asked for that learn.
    masks
        The mask of each pruned layer, bool, shape (out, in), of an embedding (rows, width); True is
        kept.
    listeners
        Called after every change of a mask.

    Examples
    --------
    >>> from learner.config import LearnerConfig
    >>> module = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> _ = module[0].weight.data.copy_(torch.tensor([[3.0, 5.0]]))
    >>> masking = Masking(module, Adagrad(module, LearnerConfig()), MaskingConfig())
    >>> masking.set_masks({"0": torch.tensor([[True, False]])})
    >>> module[0].weight.tolist(), masking.theta("0").tolist()
    ([[3.0, 0.0]], [[3.0, 5.0]])
    """

    def __init__(self, module: nn.Module, optimiser: Adagrad, config: MaskingConfig) -> None:
        kinds = (nn.Linear, nn.Embedding) if config.embeddings else (nn.Linear,)
        self.layers: dict[str, nn.Module] = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, kinds) and f"{name}.weight" in optimiser.parameters
        }
        self.masks: dict[str, Tensor] = {}
        self.listeners: list[MaskListener] = []
        self._config = config
        self._optimiser = optimiser
        self._weights = {name: optimiser.parameters[f"{name}.weight"] for name in self.layers}
        self._stash: dict[str, Tensor] = {}

    def theta(self, name: str) -> Tensor:
        """Return a layer's weights as they are stored, pruned or not, (out, in); a copy."""
        weight, mask = self._weights[name].detach(), self.masks.get(name)
        return weight.clone() if mask is None else torch.where(mask, weight, self._stash[name])

    def gradients(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose the gradients of the layers' weights, by layer, from those of all parameters."""
        keys = ((name, f"{name}.weight") for name in self.layers)
        return {name: found[key] for name, key in keys if key in found}

    @torch.no_grad()
    def set_masks(
        self,
        masks: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        sums: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prune: from now on only the weights that these masks keep take part in predictions.

        A layer without a mask is whole.

        Parameters
        ----------
        masks
            By layer, bool, shape (out, in); True is kept. They are copied.
        weights
            By layer, shape (out, in): what returning weights start with, where the rule is
            ``given``.
        sums
            The same for their Adagrad sums.

        Raises
        ------
        ValueError
            Where a mask does not fit, or a value that the rules ask for is not given; nothing is
            changed then.
        """
        self.check(masks)
        new = {n: mask.to(self._weights[n].device, copy=True) for n, mask in masks.items()}
        returning = {n: ~old & new[n] if n in new else ~old for n, old in self.masks.items()}
        of_weights, of_sums = self._config.returning_weights, self._config.returning_sums
        weights, sums = weights or {}, sums or {}
        for what, rule, given in (("weights", of_weights, weights), ("sums", of_sums, sums)):
            for name, back in returning.items():
                if rule == "given" and name not in given and back.any():
                    raise ValueError(
                        f"learner.masking.returning_{what} is 'given', and weights of {name!r} "
                        f"return without any {what} given; give them with the masks, or choose "
                        "another rule"
                    )
        changed = [name for name in self.layers if name in new or name in self.masks]
        for name in changed:
            theta, mask = self.theta(name), new.get(name)
            if (returns := returning.get(name)) is not None:
                _start(theta, returns, of_weights, weights.get(name))
                total = self._optimiser.sums[f"{name}.weight"]
                _start(total, returns, of_sums, sums.get(name))
            if mask is None:
                self._weights[name].copy_(theta)
                del self.masks[name], self._stash[name]
            else:
                self._weights[name].copy_(theta.masked_fill(~mask, 0.0))
                self.masks[name], self._stash[name] = mask, theta.masked_fill_(mask, 0.0)
        self._announce(changed)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Let the optimiser take a step with the gradients of the effective weights.

        Where only kept weights learn, the others' gradients are set to zero, in place.
        """
        masked = {n: g for n, g in self.gradients(gradients).items() if n in self.masks}
        if self._config.learning == "kept":
            for name, gradient in masked.items():
                values = gradient._values() if gradient.is_sparse else gradient
                values.mul_(self.masks[name][_rows(gradient)])
            self._optimiser.step(gradients)
            return
        for name, gradient in masked.items():
            at, weight, stash = _rows(gradient), self._weights[name], self._stash[name]
            weight[at] = torch.where(self.masks[name][at], weight[at], stash[at])
        self._optimiser.step(gradients)
        for name, gradient in masked.items():
            at, weight, stash = _rows(gradient), self._weights[name], self._stash[name]
            theta, mask = weight[at].clone(), self.masks[name][at]
            weight[at], stash[at] = theta.masked_fill(~mask, 0.0), theta.masked_fill(mask, 0.0)

    def state(self) -> dict[str, Tensor]:
        """Return the stash, 0 where a weight is kept, and the masks (uint8), by prefixed name."""
        named = {FROZEN + name: tensor for name, tensor in self._stash.items()}
        return named | {MASK + name: mask.to(torch.uint8) for name, mask in self.masks.items()}

    def load(self, masks: Mapping[str, Tensor], stash: Mapping[str, Tensor]) -> None:
        """Take over masks and stash that fit each other and the weights of the module."""
        before = self.masks
        self.masks = {n: m.to(self._weights[n].device, copy=True) for n, m in masks.items()}
        self._stash = {n: t.to(self._weights[n].device, copy=True) for n, t in stash.items()}
        self._announce(before | self.masks)

    def check(self, masks: Mapping[str, Tensor]) -> None:
        """Refuse a mask of an unknown layer, or of another type or shape than its weights'."""
        for name, mask in masks.items():
            if name not in self.layers:
                known = ", ".join(self.layers)
                raise ValueError(
                    f"a mask for {name!r}, which is no prunable layer; those are: {known}"
                )
            shape = tuple(self._weights[name].shape)
            if mask.dtype != torch.bool or tuple(mask.shape) != shape:
                raise ValueError(
                    f"mask of {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; "
                    f"it must be torch.bool of shape {shape}"
                )

    def _announce(self, changed: Iterable[str]) -> None:
        for listener in self.listeners:
            for name in changed:
                listener(name, self.masks.get(name))


def _start(tensor: Tensor, returning: Tensor, rule: str, given: Tensor | None) -> None:
    """Set what returning weights start with, in place; ``stash`` and ``keep`` change nothing."""
    if rule == "zero":
        tensor.masked_fill_(returning, 0.0)
    elif rule == "given" and given is not None:
        tensor.copy_(torch.where(returning, given.to(tensor.device), tensor))


def _rows(gradient: Tensor) -> Tensor | slice:
    """Return the rows that a gradient touches: all, or those of a batch in an embedding."""
    return gradient._indices()[0] if gradient.is_sparse else slice(None)
