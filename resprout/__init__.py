"""The application: it wires the four rooms and is the only place that sees all of them.

::

    settings    every room's configuration, composed and checked
    spec        what a run is to do, before anything is opened
    folder      the state folder, where everything that outlives a process is kept
    homes       where logs and masks are, for a run and for commands that look at one
    wiring      opens logs and stores, and makes the workers of a run
    runner      steps workers until they are done, a thread each
    run         a run in one process, and what came of it: the Python API
    workers     one worker as a process of its own
    monitoring  what people and Prometheus see of a run
    cli         the command line
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
