"""The application: it wires the four rooms and is the only place that sees all of them."""

from __future__ import annotations

from resprout.application import run
from resprout.result import Result
from resprout.settings import Settings
from stream.config import GeneratorConfig
from stream.generator import GeneratorSource
from stream.replay import FileSource
from stream.schema import FeatureSchema, load_schema

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
