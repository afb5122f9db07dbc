"""A model that predicts and then learns, dense or under masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from learner.config import LearnerConfig
from learner.optim import Adagrad
from stream.batch import ClickBatch

FROZEN, MASK, ADAGRAD = "frozen.", "mask.", "adagrad."
"""Prefixes of the names in :meth:`OnlineModel.state` that are not the module's own."""

_UNLIKELIEST = 1e-15
"""No prediction is closer to 0 or 1 than this."""

Observer = Callable[[dict[str, Tensor]], None]
"""Sees the gradient of every prunable layer's effective weight, shape (out, in), by layer. The
tensors are good until it returns."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A batch predicted and not yet learned: the forward pass serves both."""

    batch: ClickBatch
    probability: NDArray[np.float64]
    """Shape (n,), the predicted chance of a click."""
    logits: Tensor
    """Shape (n,), with the graph that leads back to the parameters."""
    change: int
    """How often the model had changed when it predicted."""
    input_sq: dict[str, Tensor] = field(default_factory=dict)
    """Mean square of every input of each prunable layer, shape (in,), where asked for."""


class OnlineModel:
    r"""A module and its Adagrad, learning from batches, with some weights pruned.

    A mask :math:`m` over a prunable layer makes its effective weight :math:`w = m \theta`. The
    module's ``weight`` holds :math:`w`; where :math:`m = 0` the value of :math:`\theta` is kept
    apart and stands still, so a weight that comes back has the value it had. The gradient is that
    of the effective weight, which is not zero where :math:`w` is: it is what tells a criterion
    that a pruned weight is missed. It is masked before the step.

    The module stays in evaluation mode: there is no dropout, and batch norms use their running
    statistics, so that a prediction does not depend on whether its batch is about to be learned.

    Parameters
    ----------
    module
        ``forward(dense, categorical)`` returns logits of shape (n,). It is taken over, not copied.
    config
        Rates and device.

    Examples
    --------
    >>> from learner.models.dlrm import DLRM, CategoricalField, DLRMOptions
    >>> module = DLRM(2, [CategoricalField(7)], DLRMOptions(bottom=(), top=(3,), embedding_dim=4))
    >>> model = OnlineModel(module, LearnerConfig())
    >>> model.prunable
    ('bottom.0', 'top.0', 'top.2')
    """

    def __init__(self, module: nn.Module, config: LearnerConfig) -> None:
        _check_names(module)
        self.config = config
        self.device = device(config.device)
        self.module = module.to(self.device).eval()
        self.optimiser = Adagrad(module, config)
        self.layers = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and f"{name}.weight" in self.optimiser.parameters
        }
        self.masks: dict[str, Tensor] = {}
        """The mask of each pruned layer, bool, shape (out, in); True is kept."""
        self._frozen: dict[str, Tensor] = {}
        self._changes = 0
        self._weights = {name: f"{name}.weight" for name in self.layers}

    @property
    def prunable(self) -> tuple[str, ...]:
        """The names of the layers that masks can cover: every ``nn.Linear`` that learns."""
        return tuple(self.layers)

    def predict(self, batch: ClickBatch) -> NDArray[np.float64]:
        """Return the chance of a click of each event, shape (n,); labels are not looked at."""
        with torch.no_grad():
            return _probability(self._logits(batch))

    def ahead(self, batch: ClickBatch, *, inputs: bool = False) -> ForwardPass:
        """Predict a batch that :meth:`learn_from` will learn, in one forward pass for both.

        The predictions are those of :meth:`predict`. With ``inputs`` the mean squares of the
        layers' inputs are gathered on the way.
        """
        input_sq: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_pre_hook(_mean_square_into(input_sq, name))
            for name, layer in self.layers.items()
            if inputs
        ]
        logits = self._logits(batch)
        for hook in hooks:
            hook.remove()
        return ForwardPass(batch, _probability(logits.detach()), logits, self._changes, input_sq)

    def learn(self, batch: ClickBatch, observe: Observer | None = None) -> None:
        """Take one step on a batch; ``observe`` sees the gradients before mask and step."""
        self.learn_from(self.ahead(batch), observe)

    def learn_from(self, ahead: ForwardPass, observe: Observer | None = None) -> None:
        """Take the step on a batch that :meth:`ahead` predicted.

        The loss is the weighted mean of the cross entropy over the batch.
        """
        if ahead.change != self._changes:
            raise ValueError(
                f"the batch was predicted after {ahead.change} changes of the model, which has "
                f"changed {self._changes} times by now; learn a batch right after predicting it"
            )
        gradients = self._gradients(ahead)
        if observe is not None:
            observe(self._of_layers(gradients))
        for name, mask in self.masks.items():
            gradients[self._weights[name]].mul_(mask)
        self.optimiser.step(gradients)
        self._changes += 1

    def gradients(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Return what an observer would see, shape (out, in) by layer, and learn nothing."""
        return self._of_layers(self._gradients(self.ahead(batch)))

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Prune: from now on only the masked-in weights of these layers count and learn.

        Layers without a mask are whole. A weight that a former mask had cut comes back with the
        value it had then.

        Parameters
        ----------
        masks
            By layer, bool, shape (out, in); True is kept.
        """
        for name, mask in masks.items():
            self._check_mask(name, mask)
        with torch.no_grad():
            for name in self.masks.keys() - masks.keys():
                self.layers[name].weight.copy_(self.theta(name))
                del self.masks[name], self._frozen[name]
            for name in self.layers.keys() & masks.keys():
                self._mask_layer(name, masks[name].to(self.device, copy=True))
        self._changes += 1

    def theta(self, name: str) -> Tensor:
        """Return a layer's weights as they are stored, cut or not, shape (out, in); a copy."""
        weight = self.layers[name].weight.detach()
        mask = self.masks.get(name)
        return weight.clone() if mask is None else torch.where(mask, weight, self._frozen[name])

    def accumulator(self, name: str) -> Tensor:
        """Return a layer's Adagrad sums, shape (out, in): the tensor itself, to be read only."""
        return self.optimiser.sums[self._weights[name]]

    def finite(self) -> bool:
        """Say whether all parameters and Adagrad sums are finite."""
        tensors = [*self.optimiser.parameters.values(), *self.optimiser.sums.values()]
        return all(_finite(tensor.detach()) for tensor in tensors)

    def state(self) -> dict[str, Tensor]:
        """Return a copy on the CPU of everything that learning goes on from.

        Names are those of the module's state dict; beside them ``frozen.<layer>`` (θ where it is
        cut, 0 elsewhere), ``mask.<layer>`` (uint8) and ``adagrad.<parameter>``.
        """
        named = dict(self.module.state_dict())
        named |= {FROZEN + name: tensor for name, tensor in self._frozen.items()}
        named |= {MASK + name: mask.to(torch.uint8) for name, mask in self.masks.items()}
        named |= {ADAGRAD + name: tensor for name, tensor in self.optimiser.sums.items()}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state, bit for bit.

        Raises ``ValueError`` where names or shapes are not those of this model.
        """
        own = own_tensors(state)
        sums = {n.removeprefix(ADAGRAD): t for n, t in state.items() if n.startswith(ADAGRAD)}
        masks = {n.removeprefix(MASK): t.bool() for n, t in state.items() if n.startswith(MASK)}
        frozen = {n.removeprefix(FROZEN): t for n, t in state.items() if n.startswith(FROZEN)}
        check_tensors(own, self.module.state_dict())
        check_tensors(sums, self.optimiser.sums)
        check_tensors(frozen, masks)
        for name, mask in masks.items():
            self._check_mask(name, mask)
        self.module.load_state_dict(own)
        for name, tensor in sums.items():
            self.optimiser.sums[name].copy_(tensor)
        self.masks = {name: mask.to(self.device, copy=True) for name, mask in masks.items()}
        self._frozen = {name: tensor.to(self.device, copy=True) for name, tensor in frozen.items()}
        self._changes += 1

    def clone(self) -> OnlineModel:
        """Return an equal model that shares nothing with this one."""
        twin = OnlineModel(deepcopy(self.module), self.config)
        twin.load(self.state())
        return twin

    def _logits(self, batch: ClickBatch) -> Tensor:
        logits: Tensor = self.module(self._tensor(batch.numeric), self._tensor(batch.categorical))
        return logits

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy stands where torch aligns it: matrix products of the same numbers at another
        # alignment may differ in their last bit.
        return torch.tensor(array, device=self.device)

    def _gradients(self, ahead: ForwardPass) -> dict[str, Tensor]:
        label, weight = self._tensor(ahead.batch.label), self._tensor(ahead.batch.weight)
        loss = functional.binary_cross_entropy_with_logits(
            ahead.logits, label, weight, reduction="sum"
        )
        parameters = self.optimiser.parameters
        found = torch.autograd.grad(
            loss / weight.sum(), list(parameters.values()), allow_unused=True
        )
        named = zip(parameters, found, strict=True)
        return {name: gradient for name, gradient in named if gradient is not None}

    def _of_layers(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: gradients[weight] for name, weight in self._weights.items() if weight in gradients
        }

    def _check_mask(self, name: str, mask: Tensor) -> None:
        if name not in self.layers:
            known = ", ".join(self.layers)
            raise ValueError(f"a mask for {name!r}, which is no prunable layer; those are: {known}")
        shape = tuple(self.layers[name].weight.shape)
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise ValueError(
                f"mask of {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; "
                f"it must be torch.bool of shape {shape}"
            )

    def _mask_layer(self, name: str, mask: Tensor) -> None:
        theta = self.theta(name)
        self.layers[name].weight.copy_(theta.masked_fill(~mask, 0.0))
        self._frozen[name] = theta.masked_fill_(mask, 0.0)
        self.masks[name] = mask


def own_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the module's own state dict out of :meth:`OnlineModel.state`: effective weights.

    >>> list(own_tensors({"top.0.weight": torch.ones(1), "mask.top.0": torch.ones(1)}))
    ['top.0.weight']
    """
    return {name: t for name, t in state.items() if not name.startswith((FROZEN, MASK, ADAGRAD))}


def check_tensors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes are not those of a model, naming each.

    >>> check_tensors({"a": torch.zeros(2), "b": torch.zeros(1)}, {"b": torch.zeros(3)})
    Traceback (most recent call last):
    ...
    ValueError: tensors do not fit the model: 'a' is unknown; 'b' has shape (1,), not (3,)
    """
    faults = [f"{name!r} is missing" for name in wanted if name not in given]
    faults += [f"{name!r} is unknown" for name in given if name not in wanted]
    faults += [
        f"{name!r} has shape {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if faults:
        raise ValueError(f"tensors do not fit the model: {'; '.join(faults)}")


def _check_names(module: nn.Module) -> None:
    """Refuse a module whose names could not be told from those of masks and sums in a state."""
    taken = [n for n in module.state_dict() if n.startswith((FROZEN, MASK, ADAGRAD))]
    if taken:
        raise ValueError(
            f"the model has a tensor {taken[0]!r}; rename the submodule: names that begin with "
            f"{FROZEN!r}, {MASK!r} or {ADAGRAD!r} are the learner's own"
        )


def device(name: str) -> torch.device:
    """Name a device that can be used here.

    >>> device("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"learner.device {name!r} cannot be used here: {error}; 'cpu' always can"
        ) from error
    return found


def _finite(tensor: Tensor) -> bool:
    # What is not finite stays so in a sum, which takes a tenth of the time of looking at each; but
    # the sum of finite numbers may be too large.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _probability(logits: Tensor) -> NDArray[np.float64]:
    # In float64 a sigmoid reaches 1 from a logit of 37 on: certainty, whose loss may be infinite.
    likely = torch.sigmoid(logits.double()).clamp_(_UNLIKELIEST, 1 - _UNLIKELIEST)
    probability: NDArray[np.float64] = likely.cpu().numpy()
    return probability


def _mean_square_into(
    found: dict[str, Tensor], name: str
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name] = inputs[0].detach().square().mean(0)

    return hook
