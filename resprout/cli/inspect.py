"""A run looked at, and what people ask of it: its versions and masks, its dead letters."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from torch import Tensor

from learner import SnapshotError, masks_of
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
from resprout.cli.options import (
    JSON,
    PAST,
    SETTINGS,
    CommandRequest,
    failure,
    look,
    several,
    usage,
)
from resprout.folder import RunFolder
from resprout.monitoring.console import aligned
from resprout.settings import SPARSE, Settings
from resprout.spec import ExternalSource, RunDefinition
from stream import FeatureSchema, MessageLog, printable, share_clicks, topics
from stream.log import LogStore
from stream.messages import DeadLetter, Decision, Layer, MaskChange, Request, Verdict


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What the state folder says of a run; the command line may say where the servers are."""

    folder: RunFolder
    record: Mapping[str, Any]
    settings: Settings
    schema: FeatureSchema

    @classmethod
    def of(cls, folder: RunFolder, request: CommandRequest) -> RecordedRun:
        """Read it."""
        with usage():
            record = folder.record()
            settings = request.load((str(folder.path), record["settings"])).settings
            return cls(folder, record, settings, FeatureSchema.model_validate(record["schema"]))

    def total(self, logs: LogStore) -> int | None:
        """Return the events of the whole input, None while that is not known."""
        stream, plan = (
            self.settings.stream,
            RunDefinition(self.settings, ExternalSource(self.schema)),
        )
        clicks = share_clicks(
            plan.clicks_of(logs), self.schema, deduplicate_events=stream.deduplicate_events
        )
        with closing(clicks.reader(topics.CLICKS)) as reader:
            return InputEnd(reader, self.folder.snapshots, self.schema).total()


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the sparse model, as the ledger tells of it."""

    version: int
    count: int
    """It is in force from here on."""
    made_by: str
    """In words: the rebuild, or the rollback."""
    sparsity: float | None
    mask: str | None
    snapshot: str
    """It begins with these weights."""
    layers: Mapping[str, Layer]

    def row(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "layers"}


def versions(ledger: Iterable[Decision | Verdict]) -> tuple[Version, ...]:
    """Return all versions that a ledger tells of, oldest first."""
    found: dict[int, Version] = {}
    for one in ledger:
        if isinstance(one, Verdict) and one.verdict == "promoted":
            begins, sparsity, layers = version_of(one), one.sparsity, one.layers
            plan = one.rebuild
            first = plan.reason == FIRST
            made_by = "first mask" if first else f"rebuild {plan.number}, {plan.reason}"
        elif isinstance(one, Decision) and one.rollback is not None:
            begins, old = version_after(one.rollback), found[one.rollback.to_version]
            # What it shares with the version before it, only the masks can tell.
            layers = {n: la.model_copy(update={"overlap": None}) for n, la in old.layers.items()}
            made_by, sparsity = f"back to version {old.version}", old.sparsity
        else:
            continue
        found[begins.version] = Version(
            begins.version, begins.count, made_by, sparsity, begins.mask, begins.snapshot, layers
        )
    return tuple(found.values())


SHORTEST = 6
"""Digits by which a mask may be named, at least."""


def find(known: Sequence[Version], named: str) -> Version:
    """Return the version of a number, or the last one of a mask named by its first digits.

    >>> one = Version(1, 9, "first mask", 0.8, "d32172defc9c76d1", "candidate-1/9-af", {})
    >>> find([one], "1") is one, find([one], "d32172d") is one
    (True, True)
    >>> find([one], "7")
    Traceback (most recent call last):
    ...
    ValueError: no version '7'; versions are 1 (or give 6 digits or more of a mask's hash)
    """
    found = [one for one in known if str(one.version) == named]
    if not found and len(named) >= SHORTEST:
        found = [one for one in known if (one.mask or "").startswith(named)]
    masks = sorted({one.mask or "" for one in found})
    if len(masks) > 1:
        raise ValueError(f"{named!r} begins several masks: {', '.join(masks)}; give more digits")
    if not found:
        there = ", ".join(str(one.version) for one in known) or "none yet"
        raise ValueError(
            f"no version {named!r}; versions are {there} (or give {SHORTEST} digits or more of a "
            "mask's hash)"
        )
    return found[-1]


@dataclass(frozen=True, slots=True)
class Difference:
    """How two masks of one layer differ, in weights."""

    weights: int
    both: int
    """Kept by both."""
    only_a: int
    only_b: int


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Compare two masks, layer by layer.

    >>> import torch
    >>> a = {"top": torch.tensor([[True, True, False, False]])}
    >>> difference(a, {"top": torch.tensor([[True, False, True, False]])})
    {'top': Difference(weights=4, both=1, only_a=1, only_b=1)}
    """
    found = {}
    for name, one in a.items():
        both = int((one & b[name]).sum())
        only = int(one.sum()) - both, int(b[name].sum()) - both
        found[name] = Difference(one.numel(), both, *only)
    return found


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run as the ledger, the mask store and the snapshots show it."""

    recorded: RecordedRun
    plan: RunDefinition
    logs: LogStore
    store: MaskStore
    history: History
    known: tuple[Version, ...]
    """All versions, oldest first."""

    def masks(self, version: Version) -> dict[str, Tensor] | None:
        """Return the masks of a version, from the store or its snapshot; None where both lack."""
        try:
            return self.store.get(version.mask or "")
        except (MaskMissingError, MaskDamagedError, StoreError):
            try:
                return masks_of(self.recorded.folder.snapshots.read(version.snapshot))
            except SnapshotError:
                return None

    def grafts(self, since: int) -> list[MaskChange]:
        """Return how the mask has changed after a count without a new version."""
        if not self.logs.exists(topics.MASK_CHANGES):
            return []
        changes = MessageLog(self.logs, topics.MASK_CHANGES).read(MaskChange)
        return [one for one in changes if one.model == SPARSE and one.count > since]

    def open(self) -> list[Request]:
        """Return the requests that no decision has answered yet."""
        with closing(self.logs.reader(topics.REQUESTS)) as reader:
            return requests.RequestFollower(reader).open(self.history.answered)

    def ask(self, request: Request) -> int:
        """Write a request that can be granted now, and return the window that it goes into."""
        history, rules, total = self.history, self.plan.rules, self.recorded.total(self.logs)
        if total is not None and is_complete(history, total, rules.spec.window_events):
            raise ValueError(f"the run is over: its input ended after {total:,} events")
        count = history.decided + rules.spec.window_events * (1 + len(self.open()))
        declined = reason_to_decline(history, request, count, rules)
        if declined is not None:
            raise ValueError(f"no {request.action}: {declined}")
        requests.ask(self.logs, request)
        return count


@contextmanager
def opened(asked: CommandRequest) -> Iterator[OpenedRun]:
    """Open the run in a state folder; what it was begun with are its settings.

    What goes wrong while it is open ends the command with exit code 1.
    """
    folder = asked.past()
    recorded = RecordedRun.of(folder, asked)
    settings = recorded.settings
    plan = RunDefinition(settings, ExternalSource(recorded.schema))
    with failure(), look(settings.stream, folder) as logs:
        with closing(logs.reader(topics.LEDGER)) as reader:
            tail = LedgerFollower(reader, settings.store.versions)
            known = versions(tail.poll())
            identity = reader.identity
        with closing(open_store(settings.store, folder.masks, identity)) as store:
            yield OpenedRun(recorded, plan, logs, store, tail.history, known)


_RUN = several(PAST, SETTINGS, JSON)
_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why, for the ledger.")

MASKS = """See which versions of the sparse model there are, and go back to an earlier one.

\b
Examples, of the last run or of --state FOLDER:
  resprout masks list
  resprout masks show 2
  resprout masks diff 1 2

\b
While a run is under way:
  resprout masks rollback 1 --reason "clicks fell"
"""


def _print(asked: CommandRequest, found: dict[str, Any], lines: Iterable[str]) -> None:
    click.echo(json.dumps(found) if asked.json else "\n".join(lines))


@click.group(help=MASKS)
def masks() -> None:
    """Gather the commands."""


@masks.command(name="list")
@_RUN
@click.pass_obj
def list_versions(asked: CommandRequest) -> None:
    """List all versions, oldest first; * marks the one in force."""
    with opened(asked) as run:
        head, away = None, None
        try:
            head = run.store.head()
        except StoreError as error:
            away = str(error)
        begun = [one.version for one in run.known if one.count <= run.history.decided]
        in_force = head.version if head else max(begun, default=None)
        kept = {one.version for one in run.history.promoted}
        since = next((one.count for one in run.known if one.version == in_force), None)
        grafts = [] if since is None else run.grafts(since)
        found = {
            "in_force": in_force,
            "head": asdict(head) if head else None,
            "history": [one.version for one in run.known if one.version <= (in_force or 0)],
            "store_away": away,
            "decided": run.history.decided,
            "versions": [
                one.row() | {"kept": one.version in kept, "in_force": one.version == in_force}
                for one in run.known
            ],
            "grafts": len(grafts),
            "last_graft": grafts[-1].count if grafts else None,
            "requests": [one.model_dump(mode="json") for one in run.open()],
        }
    _print(asked, found, _listing(found))


def _listing(found: dict[str, Any]) -> Iterator[str]:
    """Write the list for people."""
    if not found["versions"]:
        yield f"no version yet: decided through {found['decided']:,}"
        return
    rows = [("", "version", "from", "made by", "sparsity", "mask", "kept")]
    for one in found["versions"]:
        sparsity = "" if one["sparsity"] is None else f"{one['sparsity']:.1%}"
        mark, kept = "*" if one["in_force"] else "", "yes" if one["kept"] else "no"
        cells = (str(one["version"]), f"{one['count']:,}", one["made_by"], sparsity, one["mask"])
        rows.append((mark, *cells, kept))
    yield from aligned(rows)
    if number := found["grafts"]:
        yield (
            f"the mask of version {found['in_force']} has moved by {number:,} "
            f"graft{'s' if number > 1 else ''} since it began, the last at {found['last_graft']:,}"
        )
    if found["store_away"] is not None:
        yield f"by the ledger alone, the mask store is away: {found['store_away']}"
    elif found["head"] is None:
        yield "by the ledger alone: the mask store has no head"
    for one in found["requests"]:
        version = "" if one["version"] is None else f" to version {one['version']}"
        yield f"asked, not yet decided: {one['action']}{version} ({one['reason']})"


@masks.command()
@click.argument("version", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def show(asked: CommandRequest, version: str) -> None:
    """Show a mask layer by layer."""
    with opened(asked) as run:
        one = find(run.known, version)
        before = next((v for v in run.known if v.version == one.version - 1), None)
        own, layers = run.masks(one), dict(one.layers)
        # Where a mask is not kept any more, what the ledger says of it is.
        if own is not None:
            layers = describe(own, run.masks(before) if before else None)
    found = one.row() | {
        "before": before.version if before else None,
        "layers": {name: layer.model_dump() for name, layer in layers.items()},
    }
    beside = f"also kept by {before.version}" if before else "also kept before"
    rows = [("layer", "weights", "kept", "sparsity", beside)]
    for name, layer in layers.items():
        shared = "" if layer.overlap is None else f"{layer.overlap:.1%}"
        rows.append(
            (name, f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.sparsity:.1%}", shared)
        )
    title = f"version {one.version}: {one.made_by}, in force from {one.count:,} on"
    _print(asked, found, [title, f"mask {one.mask}", "", *aligned(rows)])


@masks.command()
@click.argument("a", metavar="VERSION|HASH")
@click.argument("b", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def diff(asked: CommandRequest, a: str, b: str) -> None:
    """Compare two masks layer by layer."""
    with opened(asked) as run:
        one, other = find(run.known, a), find(run.known, b)
        compared = []
        for version in (one, other):
            own = run.masks(version)
            if own is None:
                kept = ", ".join(str(v.version) for v in run.history.promoted) or "none"
                raise ValueError(
                    f"the mask of version {version.version} is not kept; kept are {kept}"
                )
            compared.append(own)
        layers = difference(*compared)
    found = {
        "a": one.row(),
        "b": other.row(),
        "layers": {name: asdict(layer) for name, layer in layers.items()},
    }
    rows: list[tuple[str, ...]] = [
        ("layer", "weights", "kept by both", f"only {one.version}", f"only {other.version}")
    ]
    rows += [(name, *(f"{n:,}" for n in asdict(layer).values())) for name, layer in layers.items()]
    _print(asked, found, aligned(rows))


@masks.command()
@click.argument("version", type=click.IntRange(min=1))
@_REASON
@_RUN
@click.pass_obj
def rollback(asked: CommandRequest, version: int, reason: str) -> None:
    """Let an earlier version serve again, under a new number.

    The prune worker takes it into its next decision; an open rebuild is then rejected.
    """
    with opened(asked) as run:
        request = requests.rollback(version, reason)
        count = run.ask(request)
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
def rebuild(asked: CommandRequest, reason: str) -> None:
    """Begin a rebuild now, whatever the trigger says.

    The prune worker takes it into its next decision; the candidate is judged like any other.
    """
    with opened(asked) as run:
        request = requests.rebuild(reason)
        count = run.ask(request)
        end = count + run.plan.spec.rebuild_events
    found = {"request": request.model_dump(mode="json"), "decided": count, "end": end}
    lines = [
        "asked for a rebuild",
        f"with the decision on the next window, {count:,}; a better candidate takes over at "
        f"{end:,}",
    ]
    _print(asked, found, lines)


@click.command()
@_RUN
@click.pass_obj
def deadletters(request: CommandRequest) -> None:
    r"""List the events that did not validate: where they stand, why, and their bytes.

    Bytes are shown as text, those that are none as \xff; --json has them as base64 too.
    """
    recorded = RecordedRun.of(request.past(), request)
    found: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    with failure(), look(recorded.settings.stream, recorded.folder) as logs:
        for letter in MessageLog(logs, topics.DEAD_LETTERS).read(DeadLetter):
            reasons[letter.reason] += 1
            if request.json:
                headers = [{"name": n, "value": v, "text": readable(v)} for n, v in letter.headers]
                more = {"text": readable(letter.raw), "headers": headers}
                found.append(letter.model_dump(mode="json") | more)
            else:
                click.echo("\n".join(_lines(letter)))
    if request.json:
        click.echo(json.dumps({"reasons": dict(reasons.most_common()), "letters": found}))
    elif total := reasons.total():
        each = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        click.echo(f"{total} dead letter{'s' if total > 1 else ''}: {each}")
    else:
        click.echo("no dead letters")


def readable(encoded: str) -> str | None:
    """Decode bytes that are text a terminal can show; None where they are not.

    >>> readable("eyJsYWJlbCI6IDJ9"), readable("/w=="), readable("GwBj")
    ('{"label": 2}', None, None)
    """
    try:
        text = base64.b64decode(encoded).decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None


def _lines(letter: DeadLetter) -> Iterator[str]:
    """Write a dead letter for people; text that somebody else wrote is made safe."""

    def content(encoded: str) -> str:
        text = base64.b64decode(encoded).decode("utf-8", "surrogateescape")
        lines = ("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
        return "\n          ".join(lines)

    place = f"partition {letter.partition}, offset {letter.offset}, row {letter.row}"
    if letter.file is not None:
        line = "" if letter.line is None else f":{letter.line}"
        place = f"{printable(letter.file)}{line} ({place})"
    yield f"{place}: {letter.reason}: {printable(letter.detail)}"
    for name, value in letter.headers:
        yield f"  header  {printable(name)}: {content(value)}"
    yield f"  bytes   {content(letter.raw)}"
