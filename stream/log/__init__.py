"""Logs: records in order, read from any position, written by one writer.

``api``     what a log is: records, readers, writers, stores, errors; how to reach a broker
``local``   logs in a folder, each an SQLite database
``kafka``   logs on a Kafka broker; a door of its own, since it needs kafka-python

A further kind of store is a :class:`LogStore` that an entry point of ``resprout.logs`` opens; the
contract that it must keep is ``tests/stream/log_contract.py``.
"""

from __future__ import annotations

from stream.log.api import (
    Headers,
    KafkaConfig,
    LogAccessError,
    LogCorruptError,
    LogDeletedError,
    LogError,
    LogFormatError,
    LogIdentityError,
    LogLockedError,
    LogLostError,
    LogReader,
    LogRefusedError,
    LogSettingsError,
    LogStore,
    LogStoreView,
    LogTrimmedError,
    LogUnreachableError,
    LogWriter,
    Record,
    StoredRecord,
)
from stream.log.local import LocalLogStore

__all__ = ["Headers", "KafkaConfig", "LocalLogStore", "LogAccessError", "LogCorruptError"]
__all__ += ["LogDeletedError", "LogError", "LogFormatError", "LogIdentityError", "LogLockedError"]
__all__ += ["LogLostError", "LogReader", "LogRefusedError", "LogSettingsError", "LogStore"]
__all__ += ["LogStoreView", "LogTrimmedError", "LogUnreachableError", "LogWriter", "Record"]
__all__ += ["StoredRecord"]
