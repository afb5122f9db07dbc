"""The state folder of a run: where everything that outlives the process stands."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.snapshot import SnapshotStore
from pruner.store import DiskMaskStore, MaskStore, MemoryMaskStore
from resprout.plan import Plan, differences
from stream.embedded import EmbeddedHome
from stream.state import Checkpoints, StateFolder, write_atomic

LOCK, RECORD = "lock", "run.json"
PLOT = "ne"
"""What the files of the plot are called, before ``-light.svg`` and ``-dark.svg``."""
_PLOTS = {f"{PLOT}-light.svg", f"{PLOT}-dark.svg"}
_OURS = {LOCK, RECORD, "logs", "snapshots", "checkpoints", "masks"} | _PLOTS
_MAY_CHANGE = "settings.stream.ahead_events"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what.

    ::

        run.json            what it was begun with: settings, schema, warm start
        logs/NAME/          the logs
        snapshots/MODEL/    published copies of models
        checkpoints/NAME/   the last states of each worker
        masks/              masks and the head
        ne-*.svg            the plot, where it was asked for
    """

    path: Path

    @property
    def home(self) -> EmbeddedHome:
        """The logs."""
        return EmbeddedHome(self.path / "logs")

    @property
    def snapshots(self) -> SnapshotStore:
        """The snapshots."""
        return SnapshotStore(self.path / "snapshots")

    def checkpoints(self, worker: str) -> Checkpoints:
        """Return the checkpoints of one worker."""
        return Checkpoints(self.path / "checkpoints" / worker)

    def masks(self, kind: str) -> MaskStore:
        """Return the mask store."""
        return DiskMaskStore(self.path / "masks") if kind == "disk" else MemoryMaskStore()

    def lock(self) -> StateFolder:
        """Take the folder; :class:`stream.state.StateLockedError` names who else has it."""
        return StateFolder.lock(self.path, name="resprout")

    def record(self) -> dict[str, Any]:
        """Return what the run was begun with."""
        try:
            found: dict[str, Any] = json.loads((self.path / RECORD).read_text("utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.path} holds no run; name the state folder of one"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path / RECORD} is damaged ({error}); name another folder"
            ) from None
        return found

    def check(self, plan: Plan) -> None:
        """See that a run that was begun here is this one."""
        if not (self.path / RECORD).exists():
            return
        changed = [
            one
            for one in differences(self.record(), plan.record())
            if not one.startswith(_MAY_CHANGE)
        ]
        if changed:
            raise ValueError(
                f"state folder {self.path} was begun otherwise: {'; '.join(changed)}; go on as it "
                "was begun, name another folder, or start afresh"
            )

    def begin(self, plan: Plan) -> None:
        """Write down what the run is begun with, or see that it is what it was begun with."""
        self.check(plan)
        if not (self.path / RECORD).exists():
            write_atomic(self.path / RECORD, json.dumps(plan.record(), indent=1).encode())

    def clear(self) -> None:
        """Delete the run; a folder that holds anything else, or no run at all, is refused."""
        there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        strange = there - _OURS if RECORD in there else there - {LOCK}
        if strange:
            raise ValueError(
                f"{self.path} holds {min(strange)!r}, which is no part of a run, and is not "
                "deleted; name another folder"
            )
        if there:
            with self.lock():
                # The record goes last: without it, what is left is nobody's to delete.
                for name in sorted(_OURS - {LOCK, RECORD}):
                    _delete(self.path / name)
                _delete(self.path / RECORD)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
