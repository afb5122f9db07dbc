"""The live page: a run as it happens, and any run again afterwards.

Everything on it is a function of the ``windows`` log alone; a viewer continues at its offset.

::

    app      the web server, and what is answered at which address
    feed     a history that follows its log, and the replies that are made of it
    static/  the page itself: it draws what the server lists, and knows no model or metric by name
"""

from __future__ import annotations

from evaluator.page.app import (
    Access,
    AddressTakenError,
    Pages,
    Probe,
    WebServer,
    listen,
    probe_application,
    serve_page,
)
from evaluator.page.feed import PageFeed, Timetable

__all__ = ["Access", "AddressTakenError", "PageFeed", "Pages", "Probe", "Timetable", "WebServer"]
__all__ += ["listen", "probe_application", "serve_page"]
