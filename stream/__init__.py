"""Events and where they come from: clicks, the logs, and the messages that travel on them.

What an event is, and its bytes
    ``schema``          the features, and how each becomes numbers
    ``batch``           the click event, what can be wrong with one, and many as arrays
    ``codec``           the records of the ``clicks`` log, decoded and checked
    ``columnar``        arrays as bytes: clicks, predictions, truth
Where events come from
    ``sources``         a door: files, and a synthetic stream that drifts
Where they are stored
    ``log``             a door: logs in a folder; ``log.kafka``: logs on a broker
    ``config``          the settings of this room; opens the logs and makes the source they name
    ``retention``       what the logs do not keep
    ``state``           a door: locks, files written whole or not at all, checkpoints
How clicks are read
    ``reader``          batches, cut by count
    ``ordering``        each partition, decoded ahead, and which of them comes next
    ``sharing``         decoded by each reader, or once for all readers of a process
    ``start_position``  where a run starts, if not with the first event
What else travels, and how it is followed
    ``messages``        a door: predictions, windows, decisions, progress
    ``follow``          the messages of a log, each once
    ``topics``          a door: the names of all logs
    ``spec``            what all workers of a run have in common; the models that there can be
    ``plugins``         a door: what other packages offer, by entry points
"""

from __future__ import annotations

from stream.batch import ClickBatch, ClickEvent, Reason, encode, json_schema, printable
from stream.codec import (
    END,
    Invalid,
    columnar_record,
    dead_letter,
    end_record,
    kind_of,
    not_learned,
)
from stream.columnar import (
    TruthBatch,
    predictions_from_bytes,
    predictions_to_bytes,
    truth_from_bytes,
    truth_to_bytes,
)
from stream.config import RetentionConfig, StreamConfig, make_source, open_logs
from stream.follow import (
    Deduplicator,
    LogFollower,
    LoggedMessage,
    LogPosition,
    MessageLog,
    check_decided,
    check_position,
    read_all,
    resume,
)
from stream.ordering import OnInvalid, ReadOrder, Recorded, Resumed, open_order
from stream.reader import ClickCursor, ClickReader, CountedBatch, nothing_follows
from stream.retention import FIRST_CLICK, LogTrimmer, Needed, RestartPoint, RestartPoints
from stream.schema import (
    MISSING,
    PADDING,
    CategoricalFeature,
    FeatureSchema,
    NumericFeature,
    load_schema,
)
from stream.sharing import share_clicks
from stream.spec import MODELS, ModelSpec, RunSpec, Waiting, find_model, model_of
from stream.start_position import (
    StartPosition,
    clicks_from,
    clicks_with_known_ends,
    start_offsets,
)

__all__ = ["END", "FIRST_CLICK", "MISSING", "MODELS", "PADDING", "CategoricalFeature", "ClickBatch"]
__all__ += ["ClickCursor", "ClickEvent", "ClickReader", "CountedBatch", "Deduplicator"]
__all__ += ["FeatureSchema", "Invalid", "LogFollower", "LogPosition", "LogTrimmer", "LoggedMessage"]
__all__ += ["MessageLog", "ModelSpec", "Needed", "NumericFeature", "OnInvalid", "ReadOrder"]
__all__ += ["Reason", "Recorded", "RestartPoint", "RestartPoints", "Resumed", "RetentionConfig"]
__all__ += ["RunSpec", "StartPosition", "StreamConfig", "TruthBatch", "Waiting", "check_decided"]
__all__ += ["check_position", "clicks_from", "clicks_with_known_ends"]
__all__ += ["columnar_record", "dead_letter", "encode", "end_record", "find_model", "json_schema"]
__all__ += ["kind_of", "load_schema", "make_source", "model_of", "not_learned", "nothing_follows"]
__all__ += ["open_logs", "open_order", "predictions_from_bytes", "predictions_to_bytes"]
__all__ += [
    "printable",
    "read_all",
    "resume",
    "share_clicks",
    "start_offsets",
    "truth_from_bytes",
    "truth_to_bytes",
]
