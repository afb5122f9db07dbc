"""The application: it wires the four rooms, and is the only one that imports all of them.

What a run is
    ``settings``    every room's settings, read from everywhere they may stand, and checked together
    ``spec``        what a run is to do, before anything is opened
    ``folder``      the state folder: what is kept where, who holds it, and where the run began
How it is carried out
    ``wiring``      the workers of a process, with the logs and stores that each of them uses
    ``runner``      the loop around their steps, each in a thread of its own
    ``run``         a process with some workers or all of them; :func:`run`, and what came of it
    ``retention``   what the logs do not keep is deleted
How people see it
    ``cli``         the commands
    ``monitoring``  progress, health, metrics, the live page
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resprout.run import Result, run
    from resprout.settings import Settings
    from stream import FeatureSchema, load_schema
    from stream.sources import FileSource, GeneratorConfig, GeneratorSource

__all__ = [
    "FeatureSchema",
    "FileSource",
    "GeneratorConfig",
    "GeneratorSource",
    "Result",
    "Settings",
    "load_schema",
    "run",
]

_HOMES = {"Result": "resprout.run", "run": "resprout.run", "Settings": "resprout.settings"}
_HOMES |= dict.fromkeys(("FeatureSchema", "load_schema"), "stream")
_HOMES |= dict.fromkeys(("FileSource", "GeneratorConfig", "GeneratorSource"), "stream.sources")


class _Package(ModuleType):
    """Loads what it offers once it is asked for: torch takes seconds, and help needs none of it."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Python puts a module that is imported into its package; the package offers the function.
        is_module = name == "run" and isinstance(value, ModuleType)
        super().__setattr__(name, value.run if is_module else value)


sys.modules[__name__].__class__ = _Package
