"""The state folder of a run: where everything that outlives the process stands."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner import SnapshotStore
from resprout.settings import WORKERS, replaced, with_defaults
from resprout.spec import RunDefinition, decisive, differences
from stream import FeatureSchema, StartPosition, clicks_from, start_offsets
from stream.log import LocalLogStore, LogIdentityError, LogStore
from stream.state import (
    Checkpoints,
    FileLock,
    dump_checked,
    lock_folder,
    read_checked,
    sync,
)
from stream.topics import CLICKS

log = logging.getLogger(__name__)

LOCK, LOCKS, RECORD, BEGIN, LOGS = "lock", "workers", "run.json", "begin.json", "logs.json"
_FORMAT = 1
"""Of these files."""
_DRAFT = ".draft-"
_DRAFTS = tuple(f"{_DRAFT}{name}-" for name in (RECORD, BEGIN, LOGS))
PLOT = "ne"
"""What the files of the plot are called, before ``-light.svg`` and so on."""
REPORT = "report.html"
_WRITTEN_AGAIN = (
    "name another folder, or delete the file and continue with the settings and the schema that "
    "the run was begun with: it is written again, and nothing can compare them this once"
)
"""What to do about a damaged record: it holds nothing that the command does not say."""
_IDENTIFIED_AGAIN = (
    "name another folder, or delete the file and continue: it is written again from the logs that "
    "are there, which nothing can compare this once"
)
_MOST_SHOWN = 5
"""Differences that an error names."""
_PLOTS = {f"{PLOT}-{theme}.{end}" for theme in ("light", "dark") for end in ("svg", "png")}
_LEFT = {LOCK, LOCKS}
"""What is never deleted: deleting a lock would let two holders in."""
_OURS = _LEFT | {RECORD, BEGIN, LOGS, "logs", "snapshots", "checkpoints", "masks", REPORT} | _PLOTS


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what.

    One process that runs all workers takes the whole folder. Workers that are processes of their
    own share it, and each takes its own part.

    ::

        lock                of a process that runs all workers
        workers/NAME/lock   of whoever is that worker
        run.json            what it was begun with: settings, schema, warm start
        begin.json          where in the clicks it began, if not with the first event
        logs.json           the identities of logs that it cannot do without
        logs/NAME/          the logs
        snapshots/MODEL/    published copies of models
        checkpoints/NAME/   the last states of each worker
        masks/              masks and the head
        ne-*.svg, ne-*.png  the plot, where it was asked for
        report.html         the report, where it was asked for
    """

    path: Path

    @property
    def home(self) -> LocalLogStore:
        """The logs."""
        return LocalLogStore(self.path / "logs")

    @property
    def snapshots(self) -> SnapshotStore:
        """The snapshots."""
        return SnapshotStore(self.path / "snapshots")

    def checkpoints(self, worker: str) -> Checkpoints:
        """Return the checkpoints of one worker."""
        return Checkpoints(self.path / "checkpoints" / worker)

    @property
    def masks(self) -> Path:
        """The folder of the masks, where they are kept on disk."""
        return self.path / "masks"

    @contextmanager
    def lock(self, workers: Iterable[str] = WORKERS) -> Iterator[None]:
        """Take the whole folder; :class:`stream.state.StateLockedError` names who else uses it.

        Parameters
        ----------
        workers
            Those that the run may have; whoever has been a worker here is asked as well.
        """
        with ExitStack() as held:
            held.enter_context(closing(self._take(self.path, "resprout")))
            known = (path.name for path in (self.path / LOCKS).glob("*"))
            for worker in dict.fromkeys((*workers, *known)):
                held.enter_context(closing(self.lock_worker(worker, holder="resprout")))
            yield

    def lock_worker(self, worker: str, holder: str | None = None) -> FileLock:
        """Take what belongs to one worker; the others may be processes of their own."""
        return self._take(self.path / LOCKS / worker, holder or worker)

    def _take(self, path: Path, holder: str) -> FileLock:
        try:
            return lock_folder(path, name=holder)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OSError:
        """Name the folder where nothing can be written, and the way out."""
        at = "" if error.filename in (None, str(self.path)) else f": {error.filename}"
        return OSError(
            f"no run can be kept in {self.path} ({error.strerror or error}{at}); name another "
            "folder with --state"
        )

    def record(self) -> dict[str, Any]:
        """Return what the run was begun with."""
        keys = ("settings", "schema", "init_from")
        try:
            found = read_checked(self.path / RECORD, _FORMAT, _WRITTEN_AGAIN, keys)
        except (FileNotFoundError, NotADirectoryError):
            what = "is a file and" if self.path.is_file() else "holds"
            raise FileNotFoundError(
                f"{self.path} {what} no run; name the state folder of one"
            ) from None
        for name in replaced(found.get("settings", {})):
            raise ValueError(
                f"{self.path} holds a run of an earlier version of Resprout, which this one cannot "
                f"continue: its {RECORD} has {name}, which is no longer a setting; name another "
                "folder, or use that version"
            )
        return found

    def check(self, plan: RunDefinition, part: str = "") -> None:
        """See that a run that was begun here is this one, in a part of what it depends on.

        Raises :class:`ValueError` naming differences whose names begin with ``part``.
        """
        if not (self.path / RECORD).exists():
            return
        begun = self.record()
        begun["settings"] = decisive(with_defaults(begun["settings"]))
        begun["schema"] = FeatureSchema.model_validate(begun["schema"]).model_dump(mode="json")
        changed = [
            one
            for one in differences(begun, plan.record())
            if one.startswith(part) and not one.startswith(plan.idle)
        ]
        if changed:
            raise ValueError(
                f"state folder {self.path} was begun otherwise: {_few(changed)}; continue as it "
                "was begun, name another folder, or start afresh"
            )

    def begin(self, plan: RunDefinition) -> None:
        """Write down what the run is begun with, or see that it is what it was begun with.

        Where several workers begin it at once, one writes and all see the whole of it.
        """
        self._keep(RECORD, plan.record)
        self.check(plan)

    def begin_at(self, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return where in the clicks the run began; the first worker to ask finds it, for all."""
        self._keep(BEGIN, find)
        way_out = (
            "name another folder, or delete it and set stream.begin to the offsets that the first "
            "worker logged"
        )
        return read_checked(self.path / BEGIN, _FORMAT, way_out, ("log", "offsets"))

    def check_logs(self, identities: Mapping[str, str]) -> None:
        """See that logs are those that the run began with; the first worker writes down which.

        Raises :class:`LogIdentityError` for one that was deleted and made again.

        Parameters
        ----------
        identities
            Of logs that are read from their beginning, so that no checkpoint knows them: by name.
        """
        self._keep(LOGS, lambda: {"logs": dict(identities)})
        known = read_checked(self.path / LOGS, _FORMAT, _IDENTIFIED_AGAIN)["logs"]
        for name, identity in identities.items():
            if known.get(name, identity) != identity:
                raise LogIdentityError(
                    f"the run in {self.path} began with the log {name} {known[name]}, this one is "
                    f"{identity}: it was deleted and made again; begin with a new state folder"
                )

    def _keep(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Write a file, whole, unless it is there or somebody else has written it by then."""
        if (self.path / name).exists():
            return
        draft = self.path / f"{_DRAFT}{name}-{uuid.uuid4().hex}"
        content = dump_checked(_FORMAT, make())
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, self.path / name)
        draft.unlink()
        sync(self.path)

    def clear(self) -> None:
        """Delete the run; a folder that holds anything else, or no run at all, is refused."""
        try:
            there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise self._refused(error) from error
        drafts = {name for name in there if name.startswith(_DRAFTS)}
        strange = there - (_OURS if RECORD in there else _LEFT) - drafts
        if strange:
            raise ValueError(
                f"{self.path} holds {min(strange)!r}, which is no part of a run, and is not "
                "deleted; name another folder"
            )
        if there:
            with self.lock():
                # The record goes last: without it, what is left is nobody's to delete.
                for name in sorted((_OURS | drafts) - _LEFT - {RECORD}):
                    _delete(self.path / name)
                _delete(self.path / RECORD)


def last_run(runs: Path, pattern: str = "*") -> Path | None:
    """Return the state folder in ``runs`` in which any worker was started last; None without one.

    Whoever works in a folder takes its locks, and whoever only looks leaves them alone.
    """

    def started(folder: Path) -> int:
        locks = (folder / LOCK, *(folder / LOCKS).glob(f"*/{LOCK}"), folder / RECORD)
        return max(path.stat().st_mtime_ns for path in locks if path.exists())

    return max(
        (path.parent for path in runs.glob(f"{pattern}/{RECORD}")), key=started, default=None
    )


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


def _few(names: Sequence[str]) -> str:
    """List a handful, and count the others.

    >>> _few(["seed was 0, is 4"]), _few([*"abcdefg"])
    ('seed was 0, is 4', 'a; b; c; d; e; and 2 more')
    """
    more = len(names) - _MOST_SHOWN
    return "; ".join([*names[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
