"""A run opened to be inspected: its ledger, its masks, and what people ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from torch import Tensor

from learner import ModelVersion, Publication, SnapshotError, SnapshotStore, masks_of
from pruner import (
    FIRST,
    History,
    InputEnd,
    LedgerFollower,
    is_complete,
    reason_to_decline,
    requests,
    version_after,
    version_of,
)
from pruner.masks import (
    MaskDamagedError,
    MaskMissingError,
    MaskStore,
    StoreError,
    describe,
    open_store,
)
from resprout import homes
from resprout.cli.options import JSON, SETTINGS, STATE, failure, several, usage
from resprout.cli.options import CommandRequest as Asked
from resprout.folder import RunFolder
from resprout.spec import ExternalSource, RunDefinition
from stream import FeatureSchema, topics
from stream.log import LogStore
from stream.messages import Decision, Layer, Request, Verdict


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run as the ledger, the mask store and the snapshots show it."""

    plan: RunDefinition
    logs: LogStore
    snapshots: SnapshotStore
    store: MaskStore
    history: History
    known: tuple[Version, ...]
    """All versions, oldest first."""

    def head(self) -> tuple[Publication | None, str | None]:
        """Return the head of the store, and why it cannot be asked, if so."""
        try:
            return self.store.head(), None
        except StoreError as error:
            return None, str(error)

    def in_force(self, head: Publication | None) -> int | None:
        """Return the version in force: the head, or without one what the ledger says of now."""
        if head is not None:
            return head.version
        begun = [one.number for one in self.known if one.begins.count <= self.history.decided]
        return begun[-1] if begun else None

    def masks(self, version: Version) -> dict[str, Tensor] | None:
        """Return the masks of a version, from the store or its snapshot; None where both lack."""
        try:
            return self.store.get(version.begins.mask or "")
        except (MaskMissingError, MaskDamagedError, StoreError):
            try:
                return masks_of(self.snapshots.read(version.begins.snapshot))
            except SnapshotError:
                return None

    def masks_kept(self, version: Version) -> dict[str, Tensor]:
        """Return the masks of a version; ``ValueError`` where nothing holds them any more."""
        found = self.masks(version)
        if found is None:
            kept = ", ".join(str(one.version) for one in self.history.promoted) or "none"
            raise ValueError(f"the mask of version {version.number} is not kept; kept are {kept}")
        return found

    def before(self, version: Version) -> Version | None:
        """Return the version before one."""
        return next((one for one in self.known if one.number == version.number - 1), None)

    def open(self) -> list[Request]:
        """Return the requests that no decision has answered yet."""
        with closing(self.logs.reader(topics.REQUESTS)) as reader:
            return requests.RequestFollower(reader).open(self.history.answered)

    def total(self) -> int | None:
        """Return the events of the whole input, None while that is not known."""
        with closing(self.logs.reader(topics.CLICKS)) as reader:
            return InputEnd(reader, self.snapshots, self.plan.source.schema).total()


@contextmanager
def opened(asked: Asked) -> Iterator[OpenedRun]:
    """Open the run in a state folder; what it was begun with are its settings."""
    folder = RunFolder(asked.folder("generated"))
    with usage():
        record = folder.record()
        settings = asked.load((str(folder.path), record["settings"])).settings
        plan = RunDefinition(
            settings, ExternalSource(FeatureSchema.model_validate(record["schema"]))
        )
    with failure(), homes.look(settings.stream, folder) as logs:
        with closing(logs.reader(topics.LEDGER)) as reader:
            tail = LedgerFollower(reader, settings.store.versions)
            known = versions(tail.poll())
            identity = reader.identity
        with closing(open_store(settings.store, folder.masks, identity)) as store:
            yield OpenedRun(plan, logs, folder.snapshots, store, tail.history, known)


SHORTEST = 6
"""Digits by which a mask may be named, at least."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the sparse model, as the ledger tells of it."""

    begins: ModelVersion
    """As it begins."""
    made_by: str
    """In words: the rebuild, or the rollback."""
    sparsity: float | None
    layers: Mapping[str, Layer]

    @property
    def number(self) -> int:
        """The version."""
        return self.begins.version


@dataclass(frozen=True, slots=True)
class Difference:
    """How two masks of one layer differ, in weights."""

    weights: int
    both: int
    """Kept by both."""
    only_a: int
    only_b: int


def versions(ledger: Iterable[Decision | Verdict]) -> tuple[Version, ...]:
    """Return all versions that a ledger tells of, oldest first."""
    found: dict[int, Version] = {}
    for one in ledger:
        made = _made(one, found)
        if made is not None:
            found[made.number] = made
    return tuple(found.values())


def _made(message: Decision | Verdict, earlier: Mapping[int, Version]) -> Version | None:
    if isinstance(message, Verdict):
        return _promoted(message) if message.verdict == "promoted" else None
    back = message.rollback
    if back is None:
        return None
    old = earlier[back.to_version]
    # What it shares with the version before it, only the masks can tell.
    layers = {n: one.model_copy(update={"overlap": None}) for n, one in old.layers.items()}
    return Version(version_after(back), f"back to version {old.number}", old.sparsity, layers)


def _promoted(verdict: Verdict) -> Version:
    plan = verdict.rebuild
    made_by = "first mask" if plan.reason == FIRST else f"rebuild {plan.number}, {plan.reason}"
    return Version(version_of(verdict), made_by, verdict.sparsity, verdict.layers)


def find(known: Sequence[Version], named: str) -> Version:
    """Return the version of a number, or the last one of a mask named by its first digits.

    >>> one = Version(
    ...     ModelVersion(1, "candidate-1/9-af", 9, "d32172defc9c76d1"), "first mask", 0.8, {}
    ... )
    >>> find([one], "1") is one, find([one], "d32172d") is one
    (True, True)
    >>> find([one], "7")
    Traceback (most recent call last):
    ...
    ValueError: no version '7'; versions are 1 (or give 6 digits or more of a mask's hash)
    """
    numbered = [one for one in known if str(one.number) == named]
    hashed = [one for one in known if (one.begins.mask or "").startswith(named)]
    found = numbered or (hashed if len(named) >= SHORTEST else [])
    masks = sorted({one.begins.mask or "" for one in found})
    if len(masks) > 1:
        raise ValueError(f"{named!r} begins several masks: {', '.join(masks)}; give more digits")
    if not found:
        there = ", ".join(str(one.number) for one in known) or "none yet"
        raise ValueError(
            f"no version {named!r}; versions are {there} (or give {SHORTEST} digits or more of a "
            "mask's hash)"
        )
    return found[-1]


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Compare two masks, layer by layer.

    >>> import torch
    >>> a = {"top": torch.tensor([[True, True, False, False]])}
    >>> difference(a, {"top": torch.tensor([[True, False, True, False]])})
    {'top': Difference(weights=4, both=1, only_a=1, only_b=1)}
    """
    return {name: _difference(a[name], b[name]) for name in a}


def _difference(a: Tensor, b: Tensor) -> Difference:
    both = int((a & b).sum())
    return Difference(a.numel(), both, int(a.sum()) - both, int(b.sum()) - both)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Put cells under each other, all but the last column as wide as their widest cell.

    >>> list(columns([("layer", "kept"), ("bottom.0", "12")]))
    ['layer     kept', 'bottom.0  12']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()


_RUN = several(STATE, SETTINGS, JSON)
_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why, for the ledger.")

MASKS = """See which versions of the sparse model there are, and go back to an earlier one.

\b
Examples:
  resprout masks list --state runs/demo
  resprout masks diff 1 2 --state runs/demo
  resprout masks rollback 1 --reason "clicks fell" --state runs/demo
"""


@click.group(help=MASKS)
def masks() -> None:
    """Gather the commands."""


@masks.command(name="list")
@_RUN
@click.pass_obj
def list_versions(asked: Asked) -> None:
    """List all versions, oldest first; * marks the one in force."""
    with opened(asked) as run:
        head, away = run.head()
        in_force = run.in_force(head)
        kept = {one.version for one in run.history.promoted}
        listed = [
            _row(one) | {"kept": one.number in kept, "in_force": one.number == in_force}
            for one in run.known
        ]
        found = {
            "in_force": in_force,
            "head": asdict(head) if head else None,
            "history": [one.number for one in run.known if one.number <= (in_force or 0)],
            "store_away": away,
            "decided": run.history.decided,
            "versions": listed,
            "requests": [one.model_dump(mode="json") for one in run.open()],
        }
    _print(asked, found, _listing(found))


@masks.command()
@click.argument("version", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def show(asked: Asked, version: str) -> None:
    """Show a mask layer by layer."""
    with opened(asked) as run, failure():
        one = find(run.known, version)
        before = run.before(one)
        layers = _layers(run, one, before)
    found = _row(one) | {
        "before": before.number if before else None,
        "layers": {name: layer.model_dump() for name, layer in layers.items()},
    }
    beside = f"also kept by {before.number}" if before else "also kept before"
    rows = [("layer", "weights", "kept", "sparsity", beside)]
    for name, layer in layers.items():
        shared = "" if layer.overlap is None else f"{layer.overlap:.1%}"
        rows.append(
            (name, f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.sparsity:.1%}", shared)
        )
    title = f"version {one.number}: {one.made_by}, in force from {one.begins.count:,} on"
    _print(asked, found, [title, f"mask {one.begins.mask}", "", *columns(rows)])


@masks.command()
@click.argument("a", metavar="VERSION|HASH")
@click.argument("b", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def diff(asked: Asked, a: str, b: str) -> None:
    """Compare two masks layer by layer."""
    with opened(asked) as run, failure():
        one, other = find(run.known, a), find(run.known, b)
        layers = difference(run.masks_kept(one), run.masks_kept(other))
    found = {
        "a": _row(one),
        "b": _row(other),
        "layers": {name: asdict(layer) for name, layer in layers.items()},
    }
    rows = [("layer", "weights", "kept by both", f"only {one.number}", f"only {other.number}")]
    for name, layer in layers.items():
        kept = (f"{layer.both:,}", f"{layer.only_a:,}", f"{layer.only_b:,}")
        rows.append((name, f"{layer.weights:,}", *kept))
    _print(asked, found, list(columns(rows)))


@masks.command()
@click.argument("version", type=click.IntRange(min=1))
@_REASON
@_RUN
@click.pass_obj
def rollback(asked: Asked, version: int, reason: str) -> None:
    """Let an earlier version serve again, under a new number.

    The prune worker takes it into its next decision; an open rebuild is then rejected.
    """
    with opened(asked) as run, failure():
        request = requests.rollback(version, reason)
        count = _ask(run, request)
        history, effective = run.history, count + run.plan.spec.lead_events
        superseded = history.open if history.open and history.busy_until >= count else None
    found = {
        "request": request.model_dump(mode="json"),
        "decided": count,
        "effective": effective,
        "supersedes": superseded.number if superseded else None,
    }
    lines = [
        f"asked to go back to version {version}",
        f"with the decision on the next window, {count:,}, at {effective:,}",
    ]
    if superseded is not None:
        lines.append(
            f"rebuild {superseded.number}, open until {superseded.end:,}, is then rejected"
        )
    _print(asked, found, lines)


@click.command()
@_REASON
@_RUN
@click.pass_obj
def rebuild(asked: Asked, reason: str) -> None:
    """Begin a rebuild now, whatever the trigger says.

    The prune worker takes it into its next decision; the candidate is judged like any other.
    """
    with opened(asked) as run, failure():
        request = requests.rebuild(reason)
        count = _ask(run, request)
        end = count + run.plan.spec.rebuild_events
    found = {"request": request.model_dump(mode="json"), "decided": count, "end": end}
    lines = [
        "asked for a rebuild",
        f"with the decision on the next window, {count:,}; a better candidate takes over at "
        f"{end:,}",
    ]
    _print(asked, found, lines)


def _ask(run: OpenedRun, request: Request) -> int:
    """Write a request that can be granted as things stand, and return the window it goes into."""
    history, rules, total = run.history, run.plan.rules, run.total()
    if total is not None and is_complete(history, total, rules.spec.window_events):
        raise ValueError(f"the run is over: its input ended after {total:,} events")
    count = history.decided + rules.spec.window_events * (1 + len(run.open()))
    declined = reason_to_decline(history, request, count, rules)
    if declined is not None:
        raise ValueError(f"no {request.action}: {declined}")
    requests.ask(run.logs, request)
    return count


def _layers(run: OpenedRun, version: Version, before: Version | None) -> dict[str, Layer]:
    """Describe a mask layer by layer; where it is not kept any more, as the ledger does."""
    own = run.masks(version)
    if own is None:
        return dict(version.layers)
    return describe(own, run.masks(before) if before else None)


def _row(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "count": version.begins.count,
        "made_by": version.made_by,
        "sparsity": version.sparsity,
        "mask": version.begins.mask,
        "snapshot": version.begins.snapshot,
    }


def _listing(found: dict[str, Any]) -> list[str]:
    """Write the list for people."""
    if not found["versions"]:
        return [f"no version yet: decided through {found['decided']:,}"]
    rows = [("", "version", "from", "made by", "sparsity", "mask", "kept")]
    for one in found["versions"]:
        sparsity = "" if one["sparsity"] is None else f"{one['sparsity']:.1%}"
        mark, kept = "*" if one["in_force"] else "", "yes" if one["kept"] else "no"
        cells = (str(one["version"]), f"{one['count']:,}", one["made_by"], sparsity, one["mask"])
        rows.append((mark, *cells, kept))
    lines = [*columns(rows)]
    if found["store_away"] is not None:
        lines.append(f"by the ledger alone, the mask store is away: {found['store_away']}")
    elif found["head"] is None:
        lines.append("by the ledger alone: the mask store has no head")
    return lines + [_asked_line(one) for one in found["requests"]]


def _asked_line(request: dict[str, Any]) -> str:
    version = "" if request["version"] is None else f" to version {request['version']}"
    return f"asked, not yet decided: {request['action']}{version} ({request['reason']})"


def _print(asked: Asked, found: dict[str, Any], lines: list[str]) -> None:
    click.echo(json.dumps(found) if asked.json else "\n".join(lines))
