"""A model that predicts and then learns, dense or under masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from learner.config import LearnerConfig
from learner.masking import ADAGRAD, FROZEN, MASK, UPDATER, Masking
from learner.optim import Adagrad
from stream import ClickBatch

_UNLIKELIEST = 1e-15
"""No prediction is closer to 0 or 1 than this."""
_LARGEST_GRADIENT = 1e12
"""The Euclidean norm of a batch's gradient at most, far beyond any that a model learns from: the
sums of its squares stay finite for as many batches as a run may have."""

Observer = Callable[[dict[str, Tensor]], None]
"""Sees the gradient of every prunable layer's effective weight, shape (out, in), by layer. The
tensors are good until it returns."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A batch predicted and not yet learned: one forward pass serves both."""

    batch: ClickBatch
    probability: NDArray[np.float64]
    """Shape (n,), the predicted chance of a click."""
    logits: Tensor
    """Shape (n,), with the graph that leads back to the parameters."""
    change: int
    """How often the model had changed when it predicted."""
    input_sq: dict[str, Tensor] = field(default_factory=dict)
    """Mean square of every input of each prunable linear layer, shape (in,), where asked for."""
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Of the loss, by parameter, once :meth:`OnlineModel.unlearnable` has looked at them."""


class OnlineModel:
    r"""A module and its Adagrad, learning from batches, with some weights pruned.

    What a mask does to the weights is described in :class:`~learner.masking.Masking`. The gradient
    is that of the effective weight, which is not zero where the weight is pruned: it tells a
    criterion that a pruned weight is missed.

    The module stays in evaluation mode: there is no dropout, and batch norms use their running
    statistics, so that a prediction does not depend on whether its batch is about to be learned.

    Parameters
    ----------
    module
        ``forward(dense, categorical)`` returns logits of shape (n,). It is taken over, not copied.
    config
        Rates, device and rules for masks.

    Examples
    --------
    >>> from learner.models.dlrm import DLRM, CategoricalField, DLRMOptions
    >>> module = DLRM(2, [CategoricalField(7)], DLRMOptions(bottom=(), top=(3,), embedding_dim=4))
    >>> model = OnlineModel(module, LearnerConfig())
    >>> model.prunable
    ('bottom.0', 'top.0', 'top.2')
    """

    def __init__(self, module: nn.Module, config: LearnerConfig) -> None:
        taken = [name for name in module.state_dict() if name.startswith(_PREFIXES)]
        if taken:
            raise ValueError(
                f"the model has a tensor {taken[0]!r}; rename the submodule: names that begin with "
                f"{', '.join(map(repr, _PREFIXES))} are the learner's own"
            )
        self.config = config
        self.device = device(config.device)
        self.module = module.to(self.device).eval()
        self.optimiser = Adagrad(module, config)
        self.masking = Masking(module, self.optimiser, config.masking)
        self._changes = 0
        self._shared: frozenset[str] = frozenset()

    @property
    def prunable(self) -> tuple[str, ...]:
        """The names of the layers that masks can cover."""
        return tuple(self.masking.layers)

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of each pruned layer, bool, shape (out, in); True is kept."""
        return self.masking.masks

    def share_embeddings(self, of: OnlineModel) -> None:
        """Read the embeddings of another model of the same kind from now on, and learn the rest.

        The tables are the other's own: what it learns is seen here at once, and what is loaded here
        leaves them as they are. Raises ``ValueError`` as :meth:`shareable` does.

        Parameters
        ----------
        of
            The model that goes on learning them.
        """
        tables = self.shareable()
        for name, table in tables.items():
            table.register_parameter("weight", of.module.get_parameter(f"{name}.weight"))
        self._shared = frozenset(f"{name}.weight" for name in tables)
        for name in self._shared & self.optimiser.parameters.keys():
            del self.optimiser.parameters[name], self.optimiser.sums[name]
        self._changes += 1

    def shareable(self) -> dict[str, nn.Module]:
        """Return the embeddings, by name, that another model of this kind can share.

        Raises ``ValueError`` where there are none, or where masks can cover them.
        """
        if self.config.masking.embeddings:
            raise ValueError(
                "embeddings cannot be both shared and pruned: set learner.masking.embeddings to "
                "false, or give the models tables of their own"
            )
        kinds = (nn.Embedding, nn.EmbeddingBag)
        tables: dict[str, nn.Module] = {
            n: one for n, one in self.module.named_modules() if isinstance(one, kinds)
        }
        if not tables:
            raise ValueError(
                "the model has no nn.Embedding that two models could share: give them tables of "
                "their own"
            )
        return tables

    def predict(self, batch: ClickBatch) -> NDArray[np.float64]:
        """Return the chance of a click of each event, shape (n,); labels are not looked at."""
        with torch.no_grad():
            return _probability(self._logits(batch))

    def forward(self, batch: ClickBatch, *, inputs: bool = False) -> ForwardPass:
        """Predict a batch that :meth:`learn_from` learns next, in one forward pass for both.

        The predictions are those of :meth:`predict`. With ``inputs`` the mean squares of the
        linear layers' inputs are gathered on the way.
        """
        input_sq: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_pre_hook(partial(_gather_mean_square, input_sq, name))
            for name, layer in self.masking.layers.items()
            if inputs and isinstance(layer, nn.Linear)
        ]
        logits = self._logits(batch)
        for hook in hooks:
            hook.remove()
        return ForwardPass(batch, _probability(logits.detach()), logits, self._changes, input_sq)

    def learn(self, batch: ClickBatch, observe: Observer | None = None) -> None:
        """Take one step on a batch; ``observe`` sees the gradients before mask and step."""
        self.learn_from(self.forward(batch), observe)

    def learn_from(self, forward: ForwardPass, observe: Observer | None = None) -> None:
        """Take the step on a batch that :meth:`forward` predicted.

        The loss is the weighted mean of the cross entropy over the batch.
        """
        if forward.change != self._changes:
            raise ValueError(
                f"the batch was predicted after {forward.change} changes of the model, which has "
                f"changed {self._changes} times by now; learn a batch right after predicting it"
            )
        gradients = dict(forward.gradients) or self._gradients(forward)
        # They are as large as the model's layers, and of no more use to whoever keeps the batch.
        forward.gradients.clear()
        if observe is not None:
            observe(self.masking.gradients(gradients))
        self.masking.step(gradients)
        self._changes += 1

    def unlearnable(self, forward: ForwardPass) -> NDArray[np.bool_]:
        r"""Tell which events of a batch would make weights or Adagrad's sums not finite.

        Those whose prediction is not finite. Where there are none, and the norm of the batch's
        gradient is not finite or above :math:`G = 10^{12}`, those of its :math:`n` events whose
        own share, :math:`w_i |g_i| / \sum_j w_j`, is not finite or above :math:`G / n`: by the
        triangle inequality there is one, and the others together stay below.

        Returns
        -------
        Shape (n,). Seldom is any True, and only then each event is looked at alone.
        """
        unfit = ~np.isfinite(forward.probability)
        if not unfit.any():
            forward.gradients.update(self._gradients(forward))
            if _norm(forward.gradients) <= _LARGEST_GRADIENT:
                return unfit
        batch = forward.batch
        share = batch.weight.astype(np.float64) / batch.weight.sum(dtype=np.float64)
        for row in np.flatnonzero(~unfit).tolist():
            own = _norm(self._gradients(self.forward(batch[row : row + 1])))
            unfit[row] = not own * share[row] <= _LARGEST_GRADIENT / len(batch)
        return unfit

    def gradients(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Return what an observer would see, shape (out, in) by layer, and learn nothing."""
        return self.masking.gradients(self._gradients(self.forward(batch)))

    def set_masks(
        self,
        masks: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        sums: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prune, as :meth:`learner.masking.Masking.set_masks` describes."""
        self.masking.set_masks(masks, weights, sums)
        self._changes += 1

    @torch.no_grad()
    def pull(self, to: OnlineModel, share: float) -> None:
        r"""Move all weights that are kept a share of the way to another model's.

        .. math:: w \leftarrow w + c \, (w' - w)

        Adagrad's sums stay.

        Parameters
        ----------
        to
            A model of the same kind, whose weights are whole.
        share
            c, 0 to 1.
        """
        for name, weight in self.optimiser.parameters.items():
            weight.lerp_(to.optimiser.parameters[name], share)
            mask = self.masks.get(name.removesuffix(".weight"))
            if mask is not None and name.endswith(".weight"):
                weight.masked_fill_(~mask, 0.0)
        self._changes += 1

    def theta(self, name: str) -> Tensor:
        """Return a layer's weights as they are stored, pruned or not, shape (out, in); a copy."""
        return self.masking.theta(name)

    def accumulator(self, name: str) -> Tensor:
        """Return a layer's Adagrad sums, shape (out, in): the tensor itself, to be read only."""
        return self.optimiser.sums[f"{name}.weight"]

    @torch.no_grad()
    def finite(self) -> bool:
        """Return whether all parameters and Adagrad sums are finite."""
        tensors = [*self.optimiser.parameters.values(), *self.optimiser.sums.values()]
        # What is not finite stays so in a sum, which takes a tenth of the time of looking at each;
        # but the sum of finite numbers may be too large.
        return all(bool(t.sum().isfinite()) or bool(t.isfinite().all()) for t in tensors)

    def state(self, *, shared: bool = True) -> dict[str, Tensor]:
        """Return a copy on the CPU of everything that learning continues from.

        Names are those of the module's state dict; beside them ``frozen.<layer>`` (θ where it is
        pruned, 0 elsewhere), ``mask.<layer>`` (uint8) and ``adagrad.<parameter>``. With ``shared``
        the embeddings that it reads from another model are among them; their sums never are.
        """
        named = dict(self.module.state_dict())
        if not shared:
            named = self._without_shared(named)
        named |= self.masking.state()
        named |= {ADAGRAD + name: tensor for name, tensor in self.optimiser.sums.items()}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state, bit for bit; what it holds of a mask updater is ignored.

        So are embeddings, where they are shared. Raises ``ValueError`` where names or shapes are
        not those of this model.
        """
        own, sums = self._without_shared(own_tensors(state)), with_prefix(state, ADAGRAD)
        sums = self._without_shared(sums)
        masks = masks_in(state)
        stash = with_prefix(state, FROZEN)
        check_tensors(own, self._without_shared(self.module.state_dict()))
        check_tensors(sums, self.optimiser.sums)
        check_tensors(stash, masks)
        self.masking.check(masks)
        self.module.load_state_dict(own, strict=False)
        for name, tensor in sums.items():
            self.optimiser.sums[name].copy_(tensor)
        self.masking.load(masks, stash)
        self._changes += 1

    def _without_shared(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name not in self._shared}

    def _logits(self, batch: ClickBatch) -> Tensor:
        logits: Tensor = self.module(self._tensor(batch.numeric), self._tensor(batch.categorical))
        return logits

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy is aligned as torch aligns it: matrix products of the same numbers at another
        # alignment may differ in their last bit.
        return torch.tensor(array, device=self.device)

    def _gradients(self, forward: ForwardPass) -> dict[str, Tensor]:
        label, weight = self._tensor(forward.batch.label), self._tensor(forward.batch.weight)
        loss = functional.binary_cross_entropy_with_logits(
            forward.logits, label, weight, reduction="sum"
        )
        parameters = self.optimiser.parameters
        found = torch.autograd.grad(
            loss / weight.sum(), list(parameters.values()), allow_unused=True
        )
        named = zip(parameters, found, strict=True)
        return {name: gradient for name, gradient in named if gradient is not None}


def own_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the module's own state dict out of a learner's state: effective weights.

    >>> list(own_tensors({"top.0.weight": torch.ones(1), "mask.top.0": torch.ones(1)}))
    ['top.0.weight']
    """
    return {name: tensor for name, tensor in state.items() if not name.startswith(_PREFIXES)}


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors whose names begin with a prefix out of a state, without the prefix.

    >>> list(with_prefix({"top.0.weight": torch.ones(1), "mask.top.0": torch.ones(1)}, MASK))
    ['top.0']
    """
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def masks_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the masks out of a state, by layer."""
    return {name: mask.bool() for name, mask in with_prefix(state, MASK).items()}


_PREFIXES = (FROZEN, MASK, ADAGRAD, UPDATER)


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


def device(name: str) -> torch.device:
    """Return a device that can be used here.

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


def _probability(logits: Tensor) -> NDArray[np.float64]:
    # In float64 a sigmoid reaches 1 from a logit of 37 on: certainty, whose loss may be infinite.
    likely = torch.sigmoid(logits.double()).clamp_(_UNLIKELIEST, 1 - _UNLIKELIEST)
    probability: NDArray[np.float64] = likely.cpu().numpy()
    return probability


def _norm(gradients: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of all gradients together; infinite or NaN where one is."""
    squares = 0.0
    for gradient in gradients.values():
        flat = (gradient._values() if gradient.is_sparse else gradient).reshape(-1)
        squares += torch.dot(flat, flat).item()
    return math.sqrt(squares)


def _gather_mean_square(
    found: dict[str, Tensor], name: str, _: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    found[name] = inputs[0].detach().square().mean(0)
