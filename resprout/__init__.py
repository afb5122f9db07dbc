"""The application: it wires the four rooms and is the only place that sees all of them."""

from __future__ import annotations

from resprout.run import Result, run
from resprout.settings import Settings
from stream.schema import FeatureSchema, load_schema
from stream.sources.files import FileSource
from stream.sources.generator import GeneratorSource
from stream.sources.truth import GeneratorConfig

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
