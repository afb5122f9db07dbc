"""A run to disturb: small, and yet much happens in it.

==========  =====  ======  ===========  =====  ==========
rebuild     from   mask    judged from  ends   verdict
==========  =====  ======  ===========  =====  ==========
1, decided
at 4000      4000    5500  (the first)   7000  promoted
at 10000     8000    9500        12000  13000  promoted
at 14000    12000   13500        16000  17000  promoted
at 18000    16000   17500        20000  21000  rejected
at 22000    20000   21500        24000  25000  unfinished
==========  =====  ======  ===========  =====  ==========

The input ends after 24050 events: inside a rebuild, a window and a batch.
"""

from __future__ import annotations

from typing import Any

from resprout.settings import Settings
from resprout.spec import RunDefinition
from tests.resprout.small import small

BATCH, TOTAL = 100, 24_050

CHANGED: dict[str, Any] = {
    "seed": 2,
    "stream__batch_events": BATCH,
    "stream__ahead_events": 2_000,
    "stream__generator__events": TOTAL,
    "stream__generator__drifts": [{"kind": "abrupt", "begin": 8_000, "every_events": 6_000}],
    "learner__rate": 0.1,
    "learner__snapshot_events": 4_000,
    "learner__checkpoint_events": 1_500,
    "learner__publish_events": 1_200,
    "pruner__first_mask_events": 4_000,
    "pruner__rebuild_events": 3_000,
    "pruner__prune_events": 1_500,
    "pruner__judge_events": 1_000,
    "pruner__lead_events": 1_000,
    "pruner__checkpoint_events": 700,
    "trigger__window_events": 1_000,
    "trigger__every_events": 3_000,
    "evaluator__windows": [500, 1_000],
    "evaluator__checkpoint_events": 1_100,
}


def eventful(**more: Any) -> Settings:
    """Return the settings of the run, with more of them as :func:`tests.resprout.small.small`."""
    return small(**CHANGED | more)


PLAN = RunDefinition.generated(eventful())
