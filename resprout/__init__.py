"""The application: it wires the four rooms and is the only place that sees all of them."""

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
