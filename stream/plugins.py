"""What other packages offer by entry points, looked up by the names used in the settings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

__all__ = ["find"]


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


_SINGULAR = {"criteria": "criterion", "logs": "home of logs"}
