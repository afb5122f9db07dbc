"""How a process that serves follows the head: it polls, and keeps the last good mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from torch import Tensor

from learner.regime import Swap
from pruner.masks import MaskDamagedError
from pruner.store import MaskMissingError, MaskStore, StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version of the sparse model, with its masks."""

    swap: Swap
    masks: dict[str, Tensor] = field(repr=False)


class MaskFollower:
    """Follows the head of a store.

    A store that is away, a head that went back after a wipe and a mask that is missing or damaged
    change nothing: the last good version stays, and the next :meth:`poll` tries again.

    Parameters
    ----------
    store
        What the sparse learner publishes to.

    Examples
    --------
    >>> import torch
    >>> from pruner.store import MemoryMaskStore
    >>> store = MemoryMaskStore()
    >>> follower = MaskFollower(store)
    >>> follower.poll() is None
    True
    >>> mask = store.put({"top": torch.tensor([[True, False]])})
    >>> store.publish(Swap(1, "candidate-1/150000-af", 150_000, mask))
    >>> follower.poll().masks
    {'top': tensor([[ True, False]])}
    """

    def __init__(self, store: MaskStore) -> None:
        self._store = store
        self.served: Served | None = None
        self.fault: str | None = None
        """Why the last poll could not follow, in words."""

    def poll(self) -> Served | None:
        """Look at the head, and return the version to serve; None before the first."""
        try:
            self._look()
        except (StoreError, MaskMissingError, MaskDamagedError) as error:
            if self.fault is None:
                log.warning("the last mask stays in service: %s", error)
            self.fault = str(error)
        else:
            self.fault = None
        return self.served

    def _look(self) -> None:
        head = self._store.head()
        now = self.served.swap.version if self.served else 0
        if head is not None and head.version > now and head.mask is not None:
            self.served = Served(head, self._store.get(head.mask))
