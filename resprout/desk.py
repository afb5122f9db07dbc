"""A run opened to be looked at: its ledger, its masks, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from torch import Tensor

from learner.regime import Swap
from learner.snapshot import SnapshotError, SnapshotStore
from pruner import requests
from pruner.ending import InputEnd
from pruner.ledger import History, LedgerTail
from pruner.masks import MaskDamagedError
from pruner.projection import masks_of
from pruner.store import MaskMissingError, MaskStore, StoreError
from resprout import home
from resprout.folder import RunFolder
from resprout.options import Request as Asked
from resprout.options import failure, usage
from resprout.plan import Elsewhere, Plan
from resprout.versions import Version, versions
from stream import topics
from stream.log import LogHome
from stream.messages import Request
from stream.schema import FeatureSchema


@dataclass(frozen=True, slots=True)
class Desk:
    """A run as the ledger, the mask store and the snapshots show it."""

    plan: Plan
    logs: LogHome
    snapshots: SnapshotStore
    store: MaskStore
    history: History
    known: tuple[Version, ...]
    """All versions, oldest first."""

    def heads(self) -> tuple[tuple[Swap, ...], str | None]:
        """Return the heads that the store remembers, and why it cannot be asked, if so."""
        try:
            return self.store.history(), None
        except StoreError as error:
            return (), str(error)

    def in_force(self, heads: tuple[Swap, ...]) -> int | None:
        """Return the version in force: the head, or without one what the ledger says of now."""
        if heads:
            return heads[-1].version
        begun = [one.number for one in self.known if one.swap.count <= self.history.decided]
        return begun[-1] if begun else None

    def masks(self, version: Version) -> dict[str, Tensor] | None:
        """Return the masks of a version, from the store or its snapshot; None where both lack."""
        try:
            return self.store.get(version.swap.mask or "")
        except (MaskMissingError, MaskDamagedError, StoreError):
            try:
                return masks_of(self.snapshots.read(version.swap.snapshot))
            except SnapshotError:
                return None

    def masks_kept(self, version: Version) -> dict[str, Tensor]:
        """Return the masks of a version; ``ValueError`` where nothing holds them any more."""
        found = self.masks(version)
        if found is None:
            kept = ", ".join(str(swap.version) for swap in self.history.promoted) or "none"
            raise ValueError(f"the mask of version {version.number} is not kept; kept are {kept}")
        return found

    def before(self, version: Version) -> Version | None:
        """Return the version before one."""
        return next((one for one in self.known if one.number == version.number - 1), None)

    def open(self) -> list[Request]:
        """Return the requests that no decision has answered yet."""
        with closing(self.logs.reader(topics.REQUESTS)) as reader:
            return requests.RequestTail(reader).open(self.history.answered)

    def total(self) -> int | None:
        """Return the events of the whole input, None while that is not known."""
        with closing(self.logs.reader(topics.CLICKS)) as reader:
            return InputEnd(reader, self.snapshots, self.plan.source.schema).total()


@contextmanager
def opened(asked: Asked) -> Iterator[Desk]:
    """Open the run in a state folder; what it was begun with are its settings."""
    folder = RunFolder(asked.folder("generated"))
    with usage():
        record = folder.record()
        settings = asked.load((str(folder.path), record["settings"])).settings
        plan = Plan(settings, Elsewhere(FeatureSchema.model_validate(record["schema"])))
    with failure(), home.look(settings.stream, folder) as logs:
        with closing(logs.reader(topics.LEDGER)) as reader:
            tail = LedgerTail(reader, settings.store.versions)
            known = versions(tail.poll())
            identity = reader.identity
        with closing(home.masks(settings.store, folder, identity)) as store:
            yield Desk(plan, logs, folder.snapshots, store, tail.history, known)
