"""What came of a run.

::

    history  the messages of a run, gathered as they come; plot, report, page and API look at it
    tables   the timeline, and the tables of the report
    report   one page of HTML (needs matplotlib and jinja2)
    plot     the picture, as SVG or PNG (needs matplotlib)

The door does not import the last two, which are heavy: import them from their modules.
"""

from __future__ import annotations

from evaluator.run.history import RangeScores, RunHistory
from evaluator.run.tables import RunTables, TextTable, place, timeline, warnings

__all__ = ["RangeScores", "RunHistory", "RunTables", "TextTable", "place", "timeline", "warnings"]
