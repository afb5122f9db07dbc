"""Logs on a Kafka broker: each is a topic.

``store``       the topics of a broker, as logs
``topics``      topics are made, looked up and checked; records as Kafka has them
``reader``      reading a topic
``writer``      writing a topic, one writer a topic
``connection``  connecting, and what errors mean
``network``     the one module that uses what is private to kafka-python

Only those who use it import it, since it needs kafka-python.

What can go wrong, and what then happens; nothing hangs, nothing is skipped in silence. Errors are
those of :mod:`stream.log`.

=====================================  ==========================================================
what                                   policy
=====================================  ==========================================================
broker restarts, or is away            waited for, up to ``gone_seconds``; then
                                       ``LogUnreachableError``. Readers and writers can be used
                                       again when it is back
wrong password, unknown certificate    ``LogAccessError`` at once, with the reason and the setting
authority, no permission
our certificate not accepted, its      ``LogAccessError`` at once, with the file and the setting
key or file unusable
topic missing where only looked at     ``LogError`` that names it; nothing is made
offset expired                         ``LogTrimmedError`` with the oldest offset that is kept
position after the end                 ``LogLostError``: the broker has lost records
topic deleted                          ``LogDeletedError``
topic deleted and made again           ``LogIdentityError``: its id is looked at when it is opened,
                                       at every flush and once a second while it is read
holes in the offsets                   passed; aborted and open transactions are not seen
record does not match its checksum     ``LogCorruptError``
record too large                       ``LogRefusedError`` with size, limit and setting; nothing is
                                       appended, the writer continues
time that the broker refuses           ``LogRefusedError`` with the time; the writer continues, with
                                       a new producer
settings that delete or change events  ``LogSettingsError`` when the topic is opened
by their time
second writer                          ``LogLockedError`` that names it
                                       (:mod:`stream.log.kafka.writer`)
committing positions fails             a line in the log: only lag monitors read them
=====================================  ==========================================================
"""

from stream.log.kafka.store import KafkaLogStore

__all__ = ["KafkaLogStore"]
