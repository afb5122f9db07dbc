"""Where the logs are, for commands that look at a run and for the workers that begin it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from typing import Any

from resprout.folder import RunFolder
from resprout.settings import Settings
from stream import StartPosition, StreamConfig, clicks_from, open_logs, start_offsets, topics
from stream.log import LogIdentityError, LogStore
from stream.topics import CLICKS

log = logging.getLogger(__name__)

_COMMON = (topics.TRUTH, topics.LEDGER, topics.REQUESTS, topics.WINDOWS, topics.DEAD_LETTERS)
LOOK_SECONDS = 5.0
"""How long a command that a person waits for lets a broker be away, where
``stream.kafka.gone_seconds`` is not set."""


def look(config: StreamConfig, folder: RunFolder) -> AbstractContextManager[LogStore]:
    """Open the logs for a command that a person waits for.

    It gives up soon, and makes no logs outside the state folder: only runs and workers do. Inside
    the folder of a run that has just begun, a log that is not there yet is made, empty.
    """
    return open_logs(hurried(config), folder.home.folder, writable=config.logs_in_folder)


def hurried(config: StreamConfig) -> StreamConfig:
    """Let a broker be away for a few seconds only, unless the settings say for how long.

    >>> hurried(StreamConfig()).kafka.gone_seconds
    5.0
    >>> hurried(StreamConfig(kafka={"gone_seconds": 60})).kafka.gone_seconds
    60.0
    """
    if "gone_seconds" in config.kafka.model_fields_set:
        return config
    kafka = config.kafka.model_copy(update={"gone_seconds": LOOK_SECONDS})
    return config.model_copy(update={"kafka": kafka})


def every_log(settings: Settings, partitions: int = 1) -> dict[str, int]:
    """Name all logs of a run, with their partitions: of the clicks as many as asked for.

    >>> every_log(Settings())["clicks"], "progress.never_rebuilt" in every_log(Settings())
    (1, True)
    """
    models = (*(model.name for model in settings.models), "candidate-1")
    predictions = map(topics.predictions, models)
    progress = map(topics.progress, settings.workers)
    return {topics.CLICKS: partitions, **dict.fromkeys((*_COMMON, *predictions, *progress), 1)}


def begun(
    logs: LogStore, begin: StartPosition | None, folder: RunFolder
) -> tuple[LogStore, Mapping[int, int]]:
    """Show workers the clicks from where their run begins.

    The first worker finds the place and writes it into the state folder. So a time is looked up
    once, however late other workers start, and whatever has come or been trimmed by then.

    Parameters
    ----------
    logs
        Where the logs are.
    begin
        The setting; None is the first event.
    folder
        Of the run, which all its workers share.

    Returns
    -------
    The store, and by partition the offset with which the run begins; empty: the first.
    """
    if begin is None:
        return logs, {}

    def find() -> dict[str, Any]:
        offsets = start_offsets(clicks, begin)
        places = ", ".join(f"offset {offset} of partition {p}" for p, offset in offsets.items())
        log.info("the run begins in the clicks with %s", places)
        return {"log": clicks.identity, "offsets": offsets}

    with closing(logs.reader(CLICKS)) as clicks:
        place = folder.begin_at(find)
        if place["log"] != clicks.identity:
            raise LogIdentityError(
                f"the run in {folder.path} began in the clicks log {place['log']}, this one is "
                f"{clicks.identity}: it was deleted and made again; begin with a new state folder"
            )
    offsets = {int(p): offset for p, offset in place["offsets"].items()}
    return clicks_from(logs, offsets), offsets
