"""What to prune and when.

The modules of this room answer one question each:

- ``config``: the settings.
- ``evidence``, ``criterion``: how important is a weight? ``criteria``: criteria by name.
  ``conformance``: does one keep its promises?
- ``allocation``: how much of which layer is kept, and which entries? ``schedule``: how sparse when?
- ``updaters``: how do masks change, in a rebuild and in service? A door of its own.
- ``triggers``: when to rebuild? ``decisions``, ``verdicts``: what is decided, as pure functions.
  ``requests``: what people ask for.
- ``masks``: where masks and the head are kept for those who serve. A door of its own.
- ``worker``: the prune worker, which does all of this.
"""

from pruner.config import ComparisonConfig, PrunerConfig, StoreConfig, TriggerConfig
from pruner.conformance import check
from pruner.criterion import Claim, Criterion, CriterionFailedError, LearnsMask, Stateless
from pruner.decisions import (
    FIRST,
    REQUEST,
    FirstMaskSource,
    History,
    LedgerFollower,
    LedgerMaskSource,
    PendingRequest,
    Rules,
    decide,
    is_complete,
    reason_to_decline,
    version_after,
    version_of,
)
from pruner.evidence import Evidence, Need
from pruner.requests import RequestFollower
from pruner.triggers import TRIGGERS, Fire, Hold, Score, Seen, Trigger
from pruner.worker import InputEnd, PrunePorts, PruneStep, PruneWorker, WindowFollower

__all__ = ["FIRST", "REQUEST", "TRIGGERS", "Claim", "ComparisonConfig", "Criterion"]
__all__ += ["CriterionFailedError", "Evidence", "Fire", "FirstMaskSource", "History", "Hold"]
__all__ += ["InputEnd", "LearnsMask", "LedgerFollower", "LedgerMaskSource", "Need"]
__all__ += ["PendingRequest", "PrunePorts", "PruneStep", "PruneWorker", "PrunerConfig"]
__all__ += ["RequestFollower", "Rules", "Score", "Seen", "Stateless", "StoreConfig", "Trigger"]
__all__ += ["TriggerConfig", "WindowFollower", "check", "decide", "is_complete"]
__all__ += ["reason_to_decline", "version_after", "version_of"]
