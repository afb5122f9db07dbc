"""One writer a topic: it is the one member of a consumer group named after the topic.

Kafka lets anybody write. So a writer joins the group ``resprout.writer.<topic>`` as its one static
member and stays in it by heartbeats; a second writer first looks who is there. A holder that died
on this machine is known to be dead and replaced at once; one that died elsewhere keeps the next one
out until its session ends (``session_seconds``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import MemberToRemove

from stream.log.api import LogLockedError
from stream.log.kafka.connection import (
    ATTEMPT_MS,
    PAUSE_SECONDS,
    Connector,
    NotYetError,
    RetryPolicy,
    client_name,
)
from stream.log.kafka.topics import Topic

log = logging.getLogger(__name__)

_INSTANCE: Final = "writer"
_POLL_MS: Final = 100
_CALL_MS: Final = 1_000
_FOREVER_MS: Final = 2_000_000_000
_held: set[str] = set()
"""The holders of this process."""


class Lease:
    """The right to write a topic.

    Parameters
    ----------
    connector
        How to reach the broker.
    admin
        The client that asks who is there.
    topic
        What is to be written.

    Raises
    ------
    LogLockedError
        Somebody else holds it.
    """

    def __init__(self, connector: Connector, admin: KafkaAdminClient, topic: Topic) -> None:
        self._connector, self._config = connector, connector.config
        self._admin, self._topic = admin, topic
        self._group = f"resprout.writer.{topic.name}"
        self._doing = f"opening log {topic.log!r} for writing"
        self._consumer: KafkaConsumer | None = None
        self._member = ""
        self._checked = time.monotonic()
        self.holder = f"{client_name()}-{_process(os.getpid())}"
        self._wait_until_free()
        self._join()

    def check(self) -> None:
        """Raise :class:`LogLockedError` where somebody else took over; asks now and then."""
        if time.monotonic() - self._checked < self._config.session_seconds / 3:
            return
        there = self._look()
        if there is None:
            log.info("log %r: the session of its writer ended; joining anew", self._topic.log)
            self._leave()
            self._join()
        elif there.member != self._member:
            raise self._locked(there)
        self._checked = time.monotonic()

    def close(self) -> None:
        """Let the next writer in."""
        if self._consumer is None:
            return
        self._leave()
        self._evict(self._member)

    def _leave(self) -> None:
        """Stop the heartbeats."""
        _held.discard(self.holder)
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=_CALL_MS)
            self._consumer = None

    def _evict(self, member: str) -> None:
        """Take a member out of the group, if it is still there: it does not leave by itself."""
        out = MemberToRemove(group_instance_id=_INSTANCE, member_id=member)
        try:
            self._admin.remove_group_members(self._group, [out])
        except kafka_errors.KafkaError as error:
            log.info("log %r: its writer is free when the session ends: %s", self._topic.log, error)

    def _wait_until_free(self) -> None:
        """Return once nobody is there who may be alive."""
        begin = time.monotonic()
        while (there := self._look()) is not None:
            alive = _is_alive(there.client)
            if alive is False:
                self._evict(there.member)
                return
            # A session that has just been renewed lasts its whole length, and a bit to notice.
            if alive or time.monotonic() - begin > 1.5 * self._config.session_seconds:
                raise self._locked(there)
            time.sleep(PAUSE_SECONDS)

    def _look(self) -> _Member | None:
        """Return who is in the group."""

        def ask() -> Sequence[dict[str, Any]]:
            found = self._admin.describe_groups([self._group])[self._group]
            return [] if found["group_state"] in ("Dead", "Empty") else list(found["members"])

        for one in self._connector.retried(self._doing, ask):
            return _Member(one["member_id"], one["client_id"], one["client_host"].lstrip("/"))
        return None

    def _join(self) -> None:
        """Become the member."""
        session_ms = int(1000 * self._config.session_seconds)
        self._consumer = consumer = self._connector.connect(
            KafkaConsumer,
            metrics_enabled=False,
            client_id=self.holder,
            group_id=self._group,
            group_instance_id=_INSTANCE,
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            max_poll_interval_ms=_FOREVER_MS,
            auto_offset_reset="latest",
        )
        _held.add(self.holder)
        at = [TopicPartition(self._topic.name, 0)]
        try:
            # The leader of the group must know the partitions, or all are asked to join again.
            self._connector.retried(
                "joining a group", lambda: consumer.beginning_offsets(at, timeout_ms=ATTEMPT_MS)
            )
            consumer.subscribe([self._topic.name])
            self._become(consumer)
        except BaseException:
            self._leave()
            raise
        self._checked = time.monotonic()

    def _become(self, consumer: KafkaConsumer) -> None:
        """Join until the group knows us.

        Afterwards heartbeats keep us in it; it is not polled again, so nothing is read. A broker
        keeps the first member of a group waiting for others, by default for 3 s, so joining may
        take as long as a session though a broker may be away for less.
        """
        seconds = max(self._config.gone_seconds, self._config.session_seconds)
        config = self._config.model_copy(update={"gone_seconds": seconds})
        retry = RetryPolicy(config, self._doing)
        while True:
            try:
                consumer.poll(timeout_ms=_POLL_MS)
                error: Exception = NotYetError("joining takes long")
            except kafka_errors.KafkaError as failed:
                error = failed
            self._member = consumer.group_metadata().member_id
            # Asked in any case: a broker that is away does not make the joining fail.
            there = self._look()
            if self._member and there is not None:
                if there.member == self._member:
                    return
                raise self._locked(there)
            retry.wait(error)

    def _locked(self, there: _Member) -> LogLockedError:
        return LogLockedError(
            f"log {self._topic.log!r} (topic {self._topic.name!r}) is being written by "
            f"{there.client} on {there.host}; stop it first"
        )


class _Member(NamedTuple):
    """Who is in the group."""

    member: str
    """Given by the broker, anew with every joining."""
    client: str
    """As it named itself."""
    host: str


def _process(pid: int) -> str | None:
    """Name a process of this machine for good: numbers come again, start times do not.

    None where there is none, or none can be seen.
    """
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return f"{pid}.{started}.{_machine()}"


def _machine() -> str:
    """Name what process numbers count in: this boot of this machine or container."""
    seen = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(seen.encode()).hexdigest()[:8]


def _is_alive(holder: str) -> bool | None:
    """Say whether a holder lives; None where that cannot be seen from here."""
    process = holder.rpartition("-")[2]
    pid, _, rest = process.partition(".")
    if holder in _held:
        return True
    mine = _process(os.getpid())
    if mine is None or not pid.isdigit() or rest.rpartition(".")[2] != _machine():
        return None
    return process != mine and _process(int(pid)) == process
