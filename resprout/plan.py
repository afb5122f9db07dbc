"""What a run is to do, before anything is opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from evaluator.config import Agreement
from learner.models import build
from learner.online import OnlineModel
from learner.prequential import RunPlan
from learner.warm import warm_start
from pruner import trigger
from pruner.ledger import Rules
from pruner.pruning import recipe
from pruner.regime import Leash
from resprout.settings import Settings
from stream.generator import GeneratorSource
from stream.source import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings, the clicks and where the dense model begins."""

    settings: Settings
    source: Source
    init_from: Path | None = None
    """A safetensors state dict that the dense model begins with."""

    @classmethod
    def generated(cls, settings: Settings) -> Self:
        """Plan to learn from generated clicks."""
        return cls(settings, GeneratorSource(settings.stream.generator, settings.seed))

    def check(self) -> None:
        """Build once what the settings name, so that what is unknown is found at the start."""
        self.model()
        recipe(self.settings.pruner, self.settings.stream.batch_events)
        trigger.build(self.settings.trigger)

    def model(self) -> OnlineModel:
        """Make the model as it is before its first event."""
        settings, schema = self.settings, self.source.schema
        module = build(settings.model.name, schema, settings.model.options, settings.seed)
        if self.init_from is not None:
            warm_start(module, self.init_from)
        return OnlineModel(module, settings.learner)

    @property
    def learners(self) -> RunPlan:
        """What all learners have in common.

        Snapshots keep the settings, without those of the stream: these do not decide a model.
        """
        settings = self.settings
        known = settings.model_dump_json(exclude={"stream"})
        return RunPlan(self.source.schema, settings.stream.batch_events, known, settings.seed)

    @property
    def agreement(self) -> Agreement:
        """What the evaluator must hold in common with the others."""
        settings = self.settings
        return Agreement(
            batch_events=settings.stream.batch_events,
            trigger_events=settings.trigger.window_events,
            rebuild_events=settings.pruner.rebuild_events,
            judge_events=settings.pruner.judge_events,
            truth=isinstance(self.source, GeneratorSource),
        )

    @property
    def rules(self) -> Rules:
        """What decisions depend on."""
        settings = self.settings
        return Rules(
            trigger=trigger.build(settings.trigger),
            window_events=settings.trigger.window_events,
            first_mask_events=settings.pruner.first_mask_events,
            rebuild_events=settings.pruner.rebuild_events,
            snapshot_events=settings.learner.snapshot_events,
        )

    @property
    def leash(self) -> Leash:
        """How far the sparse model may run ahead of the decisions."""
        return Leash(self.settings.trigger.window_events, self.settings.pruner.lead_events)

    def record(self) -> dict[str, Any]:
        """Return what a state folder remembers of its run, as JSON knows it."""
        warm = hashlib.sha256(self.init_from.read_bytes()).hexdigest() if self.init_from else None
        return {
            "settings": self.settings.model_dump(mode="json"),
            "schema": self.source.schema.model_dump(mode="json"),
            "init_from": warm,
        }


def differences(before: dict[str, Any], now: dict[str, Any], at: str = "") -> list[str]:
    """Name what differs between two records.

    >>> differences({"settings": {"seed": 0}, "x": 1}, {"settings": {"seed": 4}, "x": 1})
    ['settings.seed was 0, is 4']
    """
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{at}{name}.")
        elif old != new:
            found.append(f"{at}{name} was {old!r}, is {new!r}")
    return found
