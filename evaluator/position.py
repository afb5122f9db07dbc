"""Where a reader stands in a log, and that it is still the same log."""

from __future__ import annotations

from dataclasses import dataclass

from stream.log import LogIdentityError, LogReader


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A place in one very log."""

    identity: str
    offset: int
    """The next record to read."""


def resume(log: LogReader, name: str, position: LogPosition | None) -> int:
    """Return the offset to read on from; None begins with the oldest record.

    Raises
    ------
    LogIdentityError
        If the position was taken in another log of that name.
    """
    if position is None:
        return log.begin(0)
    if position.identity != log.identity:
        raise LogIdentityError(
            f"the position is in the log {name} {position.identity}, this one is {log.identity}: "
            "it was deleted and made again; begin with a new state folder"
        )
    return position.offset
