"""See the masks, and ask for another: ``resprout masks`` and ``resprout rebuild``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from pruner import requests
from pruner.ledger import declines, settled
from pruner.masks import describe
from resprout.desk import Desk, opened
from resprout.options import JSON, SETTINGS, STATE, failure, several
from resprout.options import Request as Asked
from resprout.versions import Version, columns, difference, find
from stream.messages import Layer, Request

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
    with opened(asked) as desk:
        heads, away = desk.heads()
        in_force = desk.in_force(heads)
        kept = {swap.version for swap in desk.history.promoted}
        listed = [
            _row(one) | {"kept": one.number in kept, "in_force": one.number == in_force}
            for one in desk.known
        ]
        found = {
            "in_force": in_force,
            "head": asdict(heads[-1]) if heads else None,
            "history": [swap.version for swap in heads],
            "store_away": away,
            "decided": desk.history.decided,
            "versions": listed,
            "requests": [one.model_dump(mode="json") for one in desk.open()],
        }
    _print(asked, found, _listing(found))


@masks.command()
@click.argument("version", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def show(asked: Asked, version: str) -> None:
    """Show a mask layer by layer."""
    with opened(asked) as desk, failure():
        one = find(desk.known, version)
        before = desk.before(one)
        layers = _layers(desk, one, before)
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
    title = f"version {one.number}: {one.made_by}, in force from {one.swap.count:,} on"
    _print(asked, found, [title, f"mask {one.swap.mask}", "", *columns(rows)])


@masks.command()
@click.argument("a", metavar="VERSION|HASH")
@click.argument("b", metavar="VERSION|HASH")
@_RUN
@click.pass_obj
def diff(asked: Asked, a: str, b: str) -> None:
    """Compare two masks layer by layer."""
    with opened(asked) as desk, failure():
        one, other = find(desk.known, a), find(desk.known, b)
        layers = difference(desk.masks_kept(one), desk.masks_kept(other))
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
    with opened(asked) as desk, failure():
        request = requests.rollback(version, reason)
        count = _ask(desk, request)
        history, effective = desk.history, count + desk.plan.rules.lead_events
        overrules = history.open if history.open and history.busy >= count else None
    found = {
        "request": request.model_dump(mode="json"),
        "decided": count,
        "effective": effective,
        "overrules": overrules.number if overrules else None,
    }
    lines = [
        f"asked to go back to version {version}",
        f"with the decision on the next window, {count:,}, at {effective:,}",
    ]
    if overrules is not None:
        lines.append(f"rebuild {overrules.number}, open until {overrules.end:,}, is then rejected")
    _print(asked, found, lines)


@click.command()
@_REASON
@_RUN
@click.pass_obj
def rebuild(asked: Asked, reason: str) -> None:
    """Begin a rebuild now, whatever the trigger says.

    The prune worker takes it into its next decision; the candidate is judged like any other.
    """
    with opened(asked) as desk, failure():
        request = requests.rebuild(reason)
        count = _ask(desk, request)
        end = count + desk.plan.rules.rebuild_events
    found = {"request": request.model_dump(mode="json"), "decided": count, "end": end}
    lines = [
        "asked for a rebuild",
        f"with the decision on the next window, {count:,}; a better candidate takes over at "
        f"{end:,}",
    ]
    _print(asked, found, lines)


def _ask(desk: Desk, request: Request) -> int:
    """Write a request that can be granted as things stand, and return the window it goes into."""
    history, rules, total = desk.history, desk.plan.rules, desk.total()
    if total is not None and settled(history, total, rules.window_events):
        raise ValueError(f"the run is over: its input ended after {total:,} events")
    count = history.decided + rules.window_events * (1 + len(desk.open()))
    declined = declines(history, request, count, rules)
    if declined is not None:
        raise ValueError(f"no {request.action}: {declined}")
    requests.ask(desk.logs, request)
    return count


def _layers(desk: Desk, version: Version, before: Version | None) -> dict[str, Layer]:
    """Describe a mask layer by layer; where it is not kept any more, as the ledger does."""
    own = desk.masks(version)
    if own is None:
        return dict(version.layers)
    return describe(own, desk.masks(before) if before else None)


def _row(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "count": version.swap.count,
        "made_by": version.made_by,
        "sparsity": version.sparsity,
        "mask": version.swap.mask,
        "snapshot": version.swap.snapshot,
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
