"""The evaluator: what it writes, what it keeps in its checkpoint, and what one step does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pydantic import TypeAdapter

import stream
from evaluator.config import EvaluatorConfig
from evaluator.join import Join, JoinCursor
from evaluator.judging import Judging, JudgingState, LedgerState
from evaluator.windows import Scoring, ScoringMessage, ScoringState, Sums
from stream import LogPosition, MessageLog, RunSpec
from stream.log import LogStore, Record
from stream.messages import (
    Alarm,
    DeadLetter,
    Judgement,
    MaskChange,
    Message,
    Position,
    Progress,
    Window,
    dump,
)
from stream.state import Checkpoints
from stream.topics import (
    DEAD_LETTERS,
    LEDGER,
    MASK_CHANGES,
    TRUTH,
    WINDOWS,
    predictions,
    progress,
)

M = TypeVar("M", bound=Message)


class IdempotentWriter:
    """Writes the messages that a log does not hold yet.

    What was written after the checkpoint, before the restart, is read back at the start; as it
    comes again, it is compared and left out.

    Parameters
    ----------
    home
        Where the log is.
    name
        Of the log; this becomes its one writer.
    position
        The end of the log at the checkpoint; None at the first start.

    Attributes
    ----------
    copied
        Copies of progress that were written after the checkpoint, before the restart, by worker.
    letters
        Of the dead letters that were written then, the place of the last event, by partition.
    max_value_bytes
        The largest message that the log takes.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stream.log.local import LocalLogStore
    >>> from stream.messages import Decision
    >>> home = LocalLogStore(Path(tempfile.mkdtemp()))
    >>> first = IdempotentWriter(home, "windows")
    >>> first.append([Decision(count=500, why_not="maturing")])
    [Decision(kind='decision', count=500, ... why_not='maturing', ...)]
    >>> first.close()
    >>> IdempotentWriter(home, "windows").append([Decision(count=500, why_not="maturing")])
    []
    """

    def __init__(self, home: LogStore, name: str, position: LogPosition | None = None) -> None:
        self._writer = home.writer(name)
        self._log = home.reader(name)
        self.max_value_bytes = self._writer.max_value_bytes
        self.copied: Counter[str] = Counter()
        self.letters: dict[int, Position] = {}
        self._restart = position or LogPosition(self._log.identity, self._log.begin(0))
        self._unmet: set[str] = set()
        """Keys of letters on valid events, from before the restart, that have not come again."""
        tail: stream.LogFollower[Message] = MessageLog(self._log, name).follow(position=position)
        while found := tail.poll():
            self.copied.update(one.worker for one in found if isinstance(one, Progress))
            for one in found:
                if isinstance(one, DeadLetter) and one.reason == stream.Reason.NOT_LEARNED:
                    self._unmet.add(one.key)
                elif isinstance(one, DeadLetter):
                    self.letters[one.partition] = Position(one.offset, one.row)
        self._published = tail.seen

    @property
    def position(self) -> LogPosition:
        """Where the next writer begins to read back: the end of the log.

        Letters on valid events come with their batch; those from before the restart are read back
        until they have come again.
        """
        end = LogPosition(self._log.identity, self._log.end(0))
        return self._restart if self._unmet else end

    @property
    def conflicts(self) -> int:
        """Messages that came again and differed; the first stays."""
        return self._published.conflicts

    def append(self, messages: Sequence[M]) -> list[M]:
        """Write those of the messages that the log does not hold, and return them."""
        fresh, records = [], []
        for message in messages:
            value = dump(message)
            if self._published.accept(message.key, value):
                fresh.append(message)
                records.append(Record(value))
        # Each comes once between two restarts, so what has come need not be remembered.
        keys = [message.key for message in messages]
        self._published.forget(keys)
        self._unmet.difference_update(keys)
        if records:
            self._writer.append(records)
        return fresh

    def copy(self, progress: Sequence[Progress]) -> None:
        """Write progress, which depends on the wall clock and is never the same twice."""
        if progress:
            self._writer.append([Record(dump(message)) for message in progress])

    def flush(self) -> None:
        """Return once all that was written survives a crash."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and let the next writer in."""
        self._writer.close()
        self._log.close()


POLL_SECONDS: Final = 1.0
"""Pause between two readings of progress."""


class ProgressMirror:
    """Reads what is new in the ``progress`` logs, every now and then; no decision depends on it.

    Parameters
    ----------
    home
        Where the logs live.
    workers
        Whose logs are read.
    positions
        By log, how far it had been copied at the checkpoint; without one from its beginning.
    copied
        By worker, how many records after that have a copy too, from before the restart.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        home: LogStore,
        workers: Sequence[str],
        positions: Mapping[str, LogPosition],
        copied: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._due = clock, clock()
        self._tails: dict[str, stream.LogFollower[Progress]] = {}
        for worker in workers:
            name = progress(worker)
            self._tails[name] = tail = MessageLog(home, name).follow(
                Progress, position=positions.get(name)
            )
            left = copied.get(worker, 0)
            while left > 0 and (found := tail.poll(left)):
                left -= len(found)

    @property
    def positions(self) -> dict[str, LogPosition]:
        """By log, the position after all that :meth:`poll` has returned."""
        return {name: tail.position for name, tail in self._tails.items()}

    def poll(self, *, at_once: bool = False) -> list[Progress]:
        """Return what has come; nothing where it was read a moment ago.

        Parameters
        ----------
        at_once
            Look, however short a time ago that was.
        """
        now = self._clock()
        if now < self._due and not at_once:
            return []
        self._due = now + POLL_SECONDS
        tails = self._tails.values()
        return [one for tail in tails for found in iter(tail.poll, []) for one in found]

    def sync(self) -> None:
        """Return once all that has been read survives a crash of the machine."""
        for tail in self._tails.values():
            tail.reader.sync()

    def close(self) -> None:
        """Release the logs."""
        for tail in self._tails.values():
            tail.close()


_BEFORE: Final = Position(-1, 0)
_MAX_UNKEPT: Final = 10_000


class DeadLetterWriter:
    """Writes one letter for each invalid event, however often it is read.

    A letter is written before the batch that skips its event is there: a producer whose events are
    all wrong would never see why. So the letters may be ahead of the checkpoint of the clicks, and
    the checkpoint holds how far they are beside it.

    Parameters
    ----------
    writer
        Of the log ``deadletters``.
    through
        By partition, the last place of which a letter was written before the checkpoint. After
        that, the writer knows them.

    Attributes
    ----------
    through
        The same as of now; for the next checkpoint, once the writer is flushed.
    """

    def __init__(self, writer: IdempotentWriter, through: Mapping[int, Position]) -> None:
        self.through = dict(through)
        self._writer = writer
        self._written: list[DeadLetter] = []
        self._unkept = 0

    @property
    def many(self) -> bool:
        """So many were written since the last checkpoint that one is due."""
        return self._unkept >= _MAX_UNKEPT

    def write(self, invalid: Sequence[stream.Invalid]) -> None:
        """Write a letter for each event that has none; they are of one partition, in order."""
        partition, last = invalid[0].partition, invalid[-1].place
        through = self.through.get(partition, _BEFORE)
        self.through[partition] = max(through, last)
        self._append([one for one in invalid if one.place > through])

    def set_aside(self, events: Sequence[stream.Invalid]) -> None:
        """Write a letter for each valid event that some model could not learn.

        They are known only once their batch is scored, when events after them may have letters.
        """
        self._append(events)

    def _append(self, invalid: Sequence[stream.Invalid]) -> None:
        most = self._writer.max_value_bytes
        fresh = [stream.dead_letter(one, most) for one in invalid]
        self._written += self._writer.append(fresh)
        self._unkept += len(fresh)

    def take(self) -> tuple[DeadLetter, ...]:
        """Return what was written since the last call."""
        written, self._written = tuple(self._written), []
        return written

    def keep(self) -> dict[int, Position]:
        """Flush, and return how far they go, for a checkpoint.

        A letter from before a restart may stand there though its event has not been read again.
        """
        self._writer.flush()
        self._unkept = 0
        letters, through = self._writer.letters, self.through
        ahead = {at: last for at, last in letters.items() if last > through.get(at, _BEFORE)}
        return {**through, **ahead}


_PART: Final = "evaluator.json"


@dataclass(frozen=True, slots=True)
class EvaluatorState:
    """All that the evaluator knows; small, since nothing is half joined."""

    cursor: JoinCursor | None = None
    """None before the first event."""
    scoring: ScoringState = field(default_factory=ScoringState)
    judging: JudgingState = field(default_factory=JudgingState)
    logs: dict[str, LogPosition] = field(default_factory=dict)
    """By name: the ends of the logs that it writes, and how far those of others are copied."""
    letters: dict[int, Position] = field(default_factory=dict)
    """By partition, the last place of which a dead letter is written: well before a batch skips it,
    so it may be after the cursor."""


_ADAPTER: Final = TypeAdapter(EvaluatorState)


def save(checkpoints: Checkpoints, count: int, state: EvaluatorState) -> None:
    """Write a checkpoint; equal states give equal bytes."""
    checkpoints.write(count, {_PART: _ADAPTER.dump_json(state)})


def load(checkpoints: Checkpoints) -> EvaluatorState:
    """Read the newest checkpoint; where there is none, begin with the first event.

    >>> import tempfile
    >>> from pathlib import Path
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
    >>> save(checkpoints, 500, EvaluatorState(judging=JudgingState(judged=2)))
    >>> load(checkpoints).judging.judged
    2
    """
    newest = checkpoints.latest()
    if newest is None:
        return EvaluatorState()
    try:
        return _ADAPTER.validate_json(newest.parts[_PART])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"checkpoint {newest.path} is none of an evaluator of this release: {error}; use the "
            "release that wrote it, or begin with a new state folder"
        ) from error


def restart_point(
    config: EvaluatorConfig, spec: RunSpec, parts: Mapping[str, bytes] | None = None
) -> stream.RestartPoint:
    """Return what the evaluator reads when it continues from a checkpoint, or begins.

    Parameters
    ----------
    config
        What is scored.
    spec
        What must be as with the other workers.
    parts
        Of the checkpoint; None: it begins.
    """
    state = EvaluatorState() if parts is None else _ADAPTER.validate_json(parts[_PART])
    scoring = state.cursor or JoinCursor(stream.FIRST_CLICK)
    judging = [*state.judging.starts.values(), state.judging.cursor]
    cursors = [scoring, *(one for one in judging if one is not None)]
    offsets = {
        predictions(model): min(_offset(cursor.predictions.get(model)) for cursor in cursors)
        for model in config.models
    }
    offsets[predictions("candidate-1")] = _offset(state.judging.candidates)
    # A judgement does not read the truth.
    offsets[TRUTH] = _offset(scoring.truth)
    for log in (WINDOWS, *map(progress, spec.workers)):
        offsets[log] = _offset(state.logs.get(log))
    return stream.RestartPoint([cursor.clicks for cursor in cursors], offsets)


def _offset(position: LogPosition | None) -> int:
    return 0 if position is None else position.offset


@dataclass(frozen=True, slots=True)
class EvaluatorStep:
    """What one step did."""

    count: int
    """Events scored since the start of the run."""
    events: int = 0
    """Events scored in this step; those judged are scored too, at another time."""
    messages: tuple[ScoringMessage | Judgement, ...] = ()
    """What followed in this step: windows, scores so far, stability, alarms, counts of invalid
    events, judgements; after a restart also those that the log holds already."""
    dead_letters: tuple[DeadLetter, ...] = ()
    """Written in this step."""
    mask_changes: tuple[MaskChange, ...] = ()
    """Copied in this step."""
    sums: Sums | None = None
    """Of the events scored; None where there were none."""
    waiting_for: stream.Waiting | None = None
    """Why there was nothing to do; None where something was done."""
    done: bool = False
    """The input has ended and everything about it is written."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """Those of :attr:`messages`."""
        return tuple(one for one in self.messages if isinstance(one, Window))

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those of :attr:`messages`."""
        return tuple(one for one in self.messages if isinstance(one, Alarm))


class Evaluator:
    """Joins predictions to clicks, closes windows, judges candidates.

    It is the one writer of the logs ``windows`` and ``deadletters``. What it writes follows from
    the clicks, the predictions and the ledger alone, however often it is stopped; only *where* in
    ``windows`` judgements and copies of the ledger and of ``maskchanges`` are between the windows
    depends on timing, and so does which partition's dead letters come first.
    Copies of the workers' progress depend on the wall clock altogether, and nobody compares them.

    Parameters
    ----------
    home
        Where the logs are.
    config
        What is scored.
    spec
        What must be as with the other workers.
    checkpoints
        Its own; read at the start.
    """

    def __init__(
        self,
        home: LogStore,
        config: EvaluatorConfig,
        spec: RunSpec,
        checkpoints: Checkpoints,
    ) -> None:
        def open_join(cursor: JoinCursor) -> Join:
            return Join(home, replace(spec, has_truth=False), cursor)

        state = load(checkpoints)
        self._config, self._checkpoints = config, checkpoints
        self._scoring = Scoring(config, spec, state.scoring)
        self._judging = Judging(open_join, spec, state.judging)
        self._ledger = LedgerState(home.reader(LEDGER), spec, state.logs.get(LEDGER))
        self._changes: stream.LogFollower[MaskChange] | None = None
        if spec.grafts:
            # There are few, so every start reads them from the first: a learner that was restarted
            # may repeat any.
            self._changes = MessageLog(home, MASK_CHANGES).follow(MaskChange)
            copied = state.logs.get(MASK_CHANGES)
            self._copied = stream.resume(self._changes.reader, MASK_CHANGES, copied)
        self._writer = IdempotentWriter(home, WINDOWS, state.logs.get(WINDOWS))
        self._dead = IdempotentWriter(home, DEAD_LETTERS, state.logs.get(DEAD_LETTERS))
        self._letters = DeadLetterWriter(self._dead, state.letters)
        self._join = Join(home, spec, state.cursor, self._letters.write)
        self._progress = ProgressMirror(home, spec.workers, state.logs, self._writer.copied)
        self._window_events = spec.window_events
        self._polls_ledger = True
        self._done = False

    @property
    def conflicts(self) -> int:
        """Messages since this start that repeated another of their key and differed from it.

        A worker whose repeats differ is not deterministic; the first of each counts.
        """
        parts = (self._join, self._judging, self._ledger, self._writer, self._dead, self._changes)
        return sum(part.conflicts for part in parts if part is not None)

    def step(self) -> EvaluatorStep:
        """Score at most one batch, and judge one or what there is; never wait.

        1. Copy what is new in the ledger; while scoring runs, only where a decision may be due. As
           often, copy how the mask has changed between two versions.
        2. Take one batch into the judgement under way, if its candidate has predicted it.
        3. Score one batch, once every model that must has predicted it: windows. Where there is
           none, take all that the candidate has predicted into the judgement. Whatever is found on
           the way that is not a valid event becomes a dead letter at once.
        4. Copy the workers' progress, every now and then.
        5. Checkpoint if due, after what was written has been flushed.
        """
        if self._done:
            return EvaluatorStep(self._join.count, done=True)
        copied = self._writer.append(self._ledger.poll()) if self._polls_ledger else []
        judged = [self._judge()]
        step = self._score()
        while judged[-1][0] and not step.events:
            judged.append(self._judge())
        changes = self._copy_changes() if self._polls_ledger or step.done else ()
        self._writer.copy(self._progress.poll(at_once=step.done))
        self._polls_ledger = not step.events or step.count % self._window_events == 0
        on_grid = step.events and step.count % self._config.checkpoint_events == 0
        if step.done or on_grid or self._letters.many:
            self._checkpoint()
            self._done = step.done
        step = replace(step, dead_letters=self._letters.take(), mask_changes=changes)
        if copied or changes or judged[0][0]:
            judgements = tuple(one for _, one in judged if one)
            step = replace(step, messages=step.messages + judgements, waiting_for=None)
        return step

    def close(self) -> None:
        """Checkpoint, and let the next evaluator in.

        The progress of its last step is written after that step, so it is copied here; and so is
        a change of the mask after the last batch, which nothing that is scored waits for.
        """
        self._copy_changes()
        if not self._done:
            self._checkpoint()
        self._writer.copy(self._progress.poll(at_once=True))
        logs = (self._join, self._judging, self._ledger, self._progress, self._writer, self._dead)
        for part in (*logs, self._changes):
            if part is not None:
                part.close()

    def _copy_changes(self) -> tuple[MaskChange, ...]:
        """Copy what is new of how the mask changes between two versions, where it does."""
        if self._changes is None:
            return ()
        new = [one for found in iter(self._changes.poll_logged, []) for one in found]
        return tuple(self._writer.append([n.message for n in new if n.offset >= self._copied]))

    def _judge(self) -> tuple[int, Judgement | None]:
        """Judge at most one batch; return its events, and the judgement if it ends one."""
        events, judgement = self._judging.step(self._ledger)
        if judgement:
            self._writer.append([judgement])
        return events, judgement

    def _score(self) -> EvaluatorStep:
        """Score the next batch if everything about it is there."""
        count = self._join.count
        limit = self._ledger.limit() if len(self._config.models) > 1 else None
        if limit and count >= limit[0]:
            return EvaluatorStep(count, waiting_for=limit[1])
        batch = self._join.next(self._ledger.required(self._config.models, count))
        if batch is None:
            if self._join.ended:
                return self._finish()
            return EvaluatorStep(count, waiting_for=self._join.missing)
        if batch.set_aside:
            self._letters.set_aside(self._join.describe(batch))
        sums, messages = self._scoring.add(batch)
        self._writer.append(messages)
        if self._judging.may_begin(batch.end):
            self._judging.remember(self._join.cursor)
        return EvaluatorStep(batch.end, len(batch.label), messages, sums=sums)

    def _finish(self) -> EvaluatorStep:
        """Close what is open at the end of the input, and wait for the last word of the ledger."""
        messages = self._scoring.finish(self._join.drain())
        self._writer.append(messages)
        count, ledger = self._join.count, self._ledger
        decides = len(self._config.models) > 1 or bool(ledger.plans)
        done = not decides or (ledger.complete(count) and self._judging.is_idle(ledger, count))
        waiting_for = None if done or messages else stream.Waiting(LEDGER)
        return EvaluatorStep(count, messages=messages, waiting_for=waiting_for, done=done)

    def _checkpoint(self) -> None:
        """Flush what was written, and what was read, *then* write down how far both go."""
        for read in (self._join, self._judging, self._ledger, self._progress):
            read.sync()
        if self._changes is not None:
            self._changes.reader.sync()
        self._writer.flush()
        letters = self._letters.keep()
        logs = {
            WINDOWS: self._writer.position,
            DEAD_LETTERS: self._dead.position,
            LEDGER: self._ledger.position,
            **self._progress.positions,
            **({MASK_CHANGES: self._changes.position} if self._changes else {}),
        }
        scoring, judging = self._scoring.state, self._judging.state
        state = EvaluatorState(self._join.cursor, scoring, judging, logs, letters)
        save(self._checkpoints, self._join.count, state)
