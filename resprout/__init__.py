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
