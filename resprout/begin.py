"""Where in the clicks a run begins: found once, and then the same for all its workers."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

from resprout.folder import RunFolder
from stream.begin import Begin, BegunHome, offsets_at
from stream.log import LogHome, LogIdentityError
from stream.topics import CLICKS

log = logging.getLogger(__name__)


def begun(logs: LogHome, begin: Begin | None, folder: RunFolder) -> LogHome:
    """Let workers see the clicks from where their run begins.

    Whoever comes first finds the place and writes it into the state folder. So a time is looked
    up once, however late other workers start, and whatever has come or been trimmed by then.

    Parameters
    ----------
    logs
        Where the logs live.
    begin
        The setting; None is the first event.
    folder
        Of the run, which all its workers share.
    """
    if begin is None:
        return logs

    def find() -> dict[str, Any]:
        offsets = offsets_at(clicks, begin)
        told = ", ".join(f"offset {offset} of partition {p}" for p, offset in offsets.items())
        log.info("the run begins in the clicks with %s", told)
        return {"log": clicks.identity, "offsets": offsets}

    with closing(logs.reader(CLICKS)) as clicks:
        place = folder.begin_at(find)
        if place["log"] != clicks.identity:
            raise LogIdentityError(
                f"the run in {folder.path} began in the clicks log {place['log']}, this one is "
                f"{clicks.identity}: it was deleted and made again; begin with a new state folder"
            )
    return BegunHome(logs, {int(p): offset for p, offset in place["offsets"].items()})
