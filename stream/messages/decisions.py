"""What a person asks for, what the pruner decides, and how that ends."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stream.messages.message import Message
from stream.messages.scores import Judgement


class RebuildPlan(Message):
    """A rebuild, from the decision to the swap."""

    number: int
    """1 for the first mask, then counting up."""
    reason: str
    """``first``, or the name of the trigger."""
    cause: str
    """The reason in words, with the figures that made it."""
    snapshot: int
    """s: the count of the dense snapshot it starts from."""
    decided: int
    """W: the end of the window that decided it."""
    end: int
    """E: the candidate learns snapshot + 1 .. E and takes over at E + 1."""

    @property
    def candidate(self) -> str:
        """The name its predictions bear."""
        return f"candidate-{self.number}"


Action = Literal["rollback", "rebuild"]


class Request(Message):
    """What a person asked for by command line."""

    kind: Literal["request"] = "request"
    id: str = Field(min_length=1)
    """Drawn once; a request is taken once."""
    action: Action
    version: int | None = Field(default=None, ge=1)
    """The version to go back to, of a rollback."""
    reason: str
    """In the person's own words."""
    time_ms: int
    """When it was asked, by the wall clock."""

    @model_validator(mode="after")
    def _names_a_version(self) -> Self:
        if (self.version is None) == (self.action == "rollback"):
            raise ValueError(
                f"a {self.action} of version {self.version}: a rollback names a version, a rebuild "
                "does not"
            )
        return self

    @property
    def key(self) -> str:
        """Kind and id."""
        return f"request/{self.id}"


class Rollback(Message):
    """An earlier version of the sparse model that serves again, under a new number."""

    to_version: int
    version: int
    """The one that begins behind ``effective``."""
    snapshot: str
    """Of the version gone back to, relative to the folder of snapshots."""
    mask: str | None
    """Content hash of its mask."""
    effective: int
    """W + lead: the sparse model takes the weights and the mask back behind this count."""


class Decision(Message):
    """What was decided on the window that ends at ``count``."""

    kind: Literal["decision"] = "decision"
    count: int
    rebuild: RebuildPlan | None = None
    why_not: str | None = None
    """The reason where no rebuild begins."""
    request: Request | None = None
    """What a person had asked for, where this decision answers it."""
    declined: str | None = None
    """Why the request was not granted; the decision is then the one without it."""
    rollback: Rollback | None = None
    """Where the request was granted and asks for one; an open rebuild is then rejected."""

    @property
    def key(self) -> str:
        """Kind and count."""
        return f"decision/{self.count}"


VerdictName = Literal["promoted", "rejected", "failed", "unfinished"]


class Layer(Message):
    """One pruned layer of a candidate."""

    weights: int
    kept: int
    sparsity: float
    """Share of weights removed."""
    overlap: float | None
    """Share of the kept weights that the mask before it kept too; None for the first mask."""


class Verdict(Message):
    """How a rebuild ended; ``count`` is its E."""

    kind: Literal["verdict"] = "verdict"
    count: int
    rebuild: RebuildPlan
    verdict: VerdictName
    reason: str
    version: int | None
    """The sparse version that begins at E + 1, where promoted."""
    snapshot: str | None
    """Name of the candidate's snapshot, relative to the folder of snapshots."""
    mask: str | None
    """Content hash of the mask."""
    sparsity: float | None
    layers: dict[str, Layer]
    judgement: Judgement | None
    """None for the first mask, which is promoted without one."""
    cost_events: int
    """Events that the prune worker learned from or gathered evidence on."""

    @property
    def key(self) -> str:
        """Kind and count."""
        return f"verdict/{self.count}"
