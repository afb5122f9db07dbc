"""Telling lag monitors how far a worker has read; nobody ever reads it back."""

from __future__ import annotations

import logging
import time
from typing import Final

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 5.0


class Progress:
    """Commits the positions of one reader to a group, now and then; a failure changes nothing.

    Parameters
    ----------
    admin
        The client that commits.
    group
        Whose positions they are, such as ``resprout.dense``.
    """

    def __init__(self, admin: KafkaAdminClient, group: str) -> None:
        self._admin = admin
        self._group = group
        self._positions: dict[TopicPartition, OffsetAndMetadata] = {}
        self._told = time.monotonic()
        self._failed = False

    def note(self, at: TopicPartition, offset: int) -> None:
        """Remember that everything before an offset has been dealt with."""
        self._positions[at] = OffsetAndMetadata(offset, "", -1)
        if time.monotonic() - self._told > _EVERY_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Commit what has been noted."""
        self._told = time.monotonic()
        try:
            results = self._admin.alter_group_offsets(self._group, dict(self._positions))
            refused = {one for one in results.values() if one is not kafka_errors.NoError}
        except kafka_errors.KafkaError as error:
            refused = {type(error)}
        self._positions.clear()
        if refused and not self._failed:
            names = ", ".join(sorted(one.__name__ for one in refused))
            log.warning("lag monitors do not see group %s: %s", self._group, names)
        self._failed = bool(refused)
