"""What other packages offer by entry points, looked up by the names used in the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

__all__ = ["Check", "find", "known", "run_checks"]

Offered = TypeVar("Offered")


def find(group: str, built_in: Mapping[str, Any], name: object) -> Any:
    """Look up what goes by a name: what is built in, else what an installed package offers.

    Only what is named is loaded.

    Parameters
    ----------
    group
        The entry-point group, such as ``resprout.criteria``; its last part names the kind.
    built_in
        Ours, by name.
    name
        As it stands in the configuration.

    Examples
    --------
    >>> find("resprout.shapes", {"disc": 1, "ring": 2}, "ring")
    2
    >>> find("resprout.shapes", {"disc": 1, "ring": 2}, "rnig")
    Traceback (most recent call last):
    ...
    ValueError: unknown shape 'rnig'; known: disc, ring
    """
    if isinstance(name, str) and name in built_in:
        return built_in[name]
    plugins = {entry.name: entry for entry in entry_points(group=group)}
    if name in plugins:
        entry = plugins[str(name)]
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"cannot load {name!r} from {entry.value!r}: {error}") from error
    kind = _SINGULAR.get(group.rpartition(".")[2], group.rpartition(".")[2].rstrip("s"))
    known = ", ".join(sorted({*built_in, *plugins}))
    raise ValueError(f"unknown {kind} {name!r}; known: {known}")


def known(group: str, built_in: Mapping[str, Any]) -> dict[str, str]:
    """Return all names that :func:`find` knows, and the package of each.

    >>> known("resprout.shapes", {"ring": 2, "disc": 1})
    {'disc': 'resprout', 'ring': 'resprout'}
    """
    offered = entry_points(group=group)
    origins = {entry.name: entry.dist.name if entry.dist else "unknown" for entry in offered}
    return dict(sorted((origins | dict.fromkeys(built_in, "resprout")).items()))


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of what a package offers."""

    name: str
    passed: bool
    detail: str
    """What must be so; where the check failed, what was found."""


def run_checks(
    checks: Mapping[str, Callable[[Offered], str | None]], offered: Offered
) -> list[Check]:
    """Run checks: functions that return what is wrong, or None; an error is a fault too.

    >>> run_checks({"is_small": lambda number: f"it is {number}" if number > 9 else None}, 12)
    [Check(name='is_small', passed=False, detail='it is 12')]
    """
    results = []
    for name, function in checks.items():
        promise = (function.__doc__ or "").strip()
        try:
            fault = function(offered)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        results.append(Check(name, fault is None, promise if fault is None else fault))
    return results


_SINGULAR = {"criteria": "criterion", "logs": "home of logs"}
