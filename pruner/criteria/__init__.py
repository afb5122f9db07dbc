"""Criteria by name.

- ``aux``: a learned auxiliary variable for each weight.
- ``fisher_ema``: the average of the square of its effect on the loss.
- ``magnitude``: the size of the weight.
- ``mop``: the size of the weight, and the average of its gradients.
- ``random``: chance, the control beside every other.
- ``snip_momentum``: the decaying sum of the sizes of its effects on the loss.
- ``taylor``: the size of its effect on the loss of one batch.
- ``taylor_ema``: the average of that over batches.
- ``wanda``: the size of the weight times the size of its input.

A criterion is offered as a plain function ``Evidence -> scores``, as an object that is a
:class:`~pruner.criterion.Criterion`, or as a class that makes one from its ``Options``, a pydantic
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruner.criteria.aux import Aux
from pruner.criteria.fisher_ema import FisherEma
from pruner.criteria.magnitude import MAGNITUDE
from pruner.criteria.mop import Mop
from pruner.criteria.random import Random
from pruner.criteria.snip_momentum import SnipMomentum
from pruner.criteria.taylor import TAYLOR
from pruner.criteria.taylor_ema import TaylorEma
from pruner.criteria.wanda import Wanda
from pruner.criterion import Criterion, NoOptions, Stateless
from stream import plugins

__all__ = ["BUILT_IN", "GROUP", "build", "find", "known", "made"]

GROUP = "resprout.criteria"
"""The entry-point group under which other packages offer criteria."""

BUILT_IN: dict[str, Any] = {
    "aux": Aux,
    "fisher_ema": FisherEma,
    "magnitude": MAGNITUDE,
    "mop": Mop,
    "random": Random,
    "snip_momentum": SnipMomentum,
    "taylor": TAYLOR,
    "taylor_ema": TaylorEma,
    "wanda": Wanda,
}


def known() -> dict[str, str]:
    """Return the names of all criteria, and the package of each.

    >>> known()["aux"]
    'resprout'
    """
    return plugins.known(GROUP, BUILT_IN)


def find(name: str) -> Any:
    """Look up what is offered by the name used in the configuration.

    >>> find("magnitud")
    Traceback (most recent call last):
    ...
    ValueError: unknown criterion 'magnitud'; known: aux, fisher_ema, magnitude, ...
    """
    return plugins.find(GROUP, BUILT_IN, name)


def build(name: str, options: Mapping[str, Any] | None = None) -> Criterion:
    """Make a criterion from its name and options.

    >>> build("aux", {"penalty": 1.75}).options.penalty
    1.75
    """
    return made(name, find(name), options or {})


def made(name: str, offered: Any, options: Mapping[str, Any]) -> Criterion:
    """Make a criterion from what is offered: a class, an object or a plain function.

    >>> made("size", lambda layer: layer.weight**2, {}).name
    'size'
    """
    if isinstance(offered, type):
        built: Criterion = offered(getattr(offered, "Options", NoOptions)(**options))
        return built
    if options:
        NoOptions(**options)
    if hasattr(offered, "score"):
        criterion: Criterion = offered
        return criterion
    return Stateless(name, offered)
