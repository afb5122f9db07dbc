"""What to prune and when.

The modules of this room answer one question each:

- ``config``: the settings.
- ``evidence``, ``criterion``: how important is a weight? ``criteria``: criteria by name.
  ``conformance``: does one keep its promises?
- ``sparsity``: how many weights are kept when, of which layer, and which ones?
- ``updaters``: how do masks change, in a rebuild and in service? A door of its own.
- ``triggers``: when to rebuild? ``decisions``: what is decided, as pure functions.
  ``requests``: what people ask for.
- ``masks``: where are masks and the head kept for servers of the model? A door of its own.
- ``worker``: the prune worker, which does all of this.
"""

from pruner.config import ComparisonConfig, PrunerConfig, StoreConfig, TriggerConfig
from pruner.criterion import Claim, Criterion, LearnsMask, Stateless
from pruner.decisions import (
    FIRST,
    REQUEST,
    FirstMaskSource,
    History,
    LedgerFollower,
    LedgerMaskSource,
    Rules,
    is_complete,
    reason_to_decline,
    version_after,
    version_of,
)
from pruner.evidence import Evidence, Need
from pruner.triggers import TRIGGERS, Fire, Hold, Trigger
from pruner.worker import InputEnd, PrunePorts, PrunerNeeds, PruneStep, PruneWorker

__all__ = ["FIRST", "REQUEST", "TRIGGERS", "Claim", "ComparisonConfig", "Criterion", "Evidence"]
__all__ += ["Fire", "FirstMaskSource", "History", "Hold", "InputEnd", "LearnsMask"]
__all__ += ["LedgerFollower", "LedgerMaskSource", "Need", "PrunePorts", "PruneStep", "PruneWorker"]
__all__ += ["PrunerConfig", "PrunerNeeds", "Rules", "Stateless", "StoreConfig", "Trigger"]
__all__ += ["TriggerConfig", "is_complete", "reason_to_decline", "version_after", "version_of"]
