"""What a run is to do, before anything is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from learner import MaskUpdater, OnlineModel
from learner.models import begin_from, build, weights_file
from pruner import ComparisonConfig, LearnsMask, Rules, StoreConfig, triggers
from pruner.updaters import DenseEvidence, for_comparison, recipe
from resprout.settings import DENSE, EVALUATOR, PRUNER, SOURCE, SPARSE, Settings
from stream import FeatureSchema, RunSpec, clicks_with_known_ends, make_source
from stream.log import KafkaConfig, LogStore, StoredRecord
from stream.sources import FileSource, GeneratorSource, Source

_DEPLOYMENT = (
    "serve",
    "stream.ahead_events",
    "stream.generator.events",
    "stream.generator.rate",
    "stream.home_options",
    "stream.max_invalid_ratio",
    "stream.max_lead_events",
    "stream.retention",
    *(f"stream.kafka.{name}" for name in KafkaConfig.model_fields if name != "prefix"),
    *(
        f"store.{name}"
        for name in StoreConfig.model_fields
        if name not in ("kind", "prefix", "versions")
    ),
)
"""Settings that decide nothing: where the servers are and what they ask for, how fast clicks come
and when they end. The processes of one run may differ in them."""


_LONGEST = 70
"""Characters of a value that are shown; a SHA-256 fits."""


@dataclass(frozen=True, slots=True)
class ExternalSource:
    """Clicks that somebody else writes: another process, or a producer that is none of ours."""

    schema: FeatureSchema


@dataclass(frozen=True, slots=True)
class RunDefinition:
    """The settings, the clicks and where the dense model begins."""

    settings: Settings
    source: Source | ExternalSource
    init_from: Path | None = None
    """What the dense model begins with: a safetensors state dict, or a snapshot of a dense one."""

    @classmethod
    def generated(cls, settings: Settings) -> Self:
        """Plan to learn from generated clicks."""
        return cls(settings, make_source(settings.stream, settings.seed))

    feeds: bool = True
    """Whether a process that carries out the whole run feeds it; else it works on what is there."""

    def check(self) -> None:
        """See at the start that it can be carried out: build once what the settings name."""
        if self.settings.stream.begin is not None and not isinstance(self.source, ExternalSource):
            raise ValueError(
                "stream.begin is set, and this run writes its clicks itself, so it begins with the "
                "first event: leave stream.begin out, or name with --schema the features of events "
                "that somebody else sends"
            )
        if self.settings.stream.ends is not None and not isinstance(self.source, ExternalSource):
            raise ValueError(
                "stream.ends is set, and this run knows who writes its clicks: leave it out, or "
                "name with --schema the features of events that somebody else sends"
            )
        if self.settings.stream.deduplicate_events and isinstance(self.source, FileSource):
            raise ValueError(
                "stream.deduplicate_events is set, and rows of files are written as columns, which "
                "have no ids: leave it out, and remove duplicates from the file"
            )
        model = self.model()
        self._check_pruning(model)
        triggers.build(self.settings.trigger)
        masking = self.settings.learner.masking
        for setting in ("returning_weights", "returning_sums"):
            if getattr(masking, setting) == "given":
                raise ValueError(
                    f"learner.masking.{setting} = 'given' is for models in Python, whose masks "
                    "come with values; no mask updater of a run gives any: use another value"
                )
        for name in self.settings.comparisons:
            try:
                self.comparison_updater(name, model)
            except ValueError as error:
                raise ValueError(f"comparisons.{name}: {error}") from error

    def _check_pruning(self, model: OnlineModel) -> None:
        how = recipe(self.settings.pruner, self.spec)
        how.check(model)
        criterion = how.criterion
        if self.settings.pruner.evidence == "dense" and isinstance(criterion, LearnsMask):
            raise ValueError(
                f"pruner.evidence = 'dense' needs a criterion that ranks weights, and "
                f"{criterion.name!r} learns a mask in a prune phase: use 'fisher_ema', or set "
                "pruner.evidence to 'candidate'"
            )
        if self.grafts:
            try:
                model.shareable()
            except ValueError as error:
                raise ValueError(f"{error}, as pruner.regime = 'd2s' does") from error

    def clicks_of(self, logs: LogStore) -> LogStore:
        """Show the clicks of a store without the end records of producers that are not known."""
        return clicks_with_known_ends(logs, self.ends_with)

    def ends_with(self, end: StoredRecord) -> bool:
        """Whether an end record is of a producer that the run knows.

        That is the generator of its settings or, by their schema, its files; of clicks from outside
        see ``stream.ends``. What a source of another package writes is not known: any end counts.
        """
        stream, source = self.settings.stream, self.source
        made_by, schema = end.header("source"), end.header("schema")
        if stream.ends is not None:
            return made_by is not None and made_by.decode(errors="replace") in stream.ends
        if isinstance(source, FileSource):
            return made_by is None and schema == source.schema.digest.encode()
        if isinstance(source, GeneratorSource):
            return made_by == source.identity
        if stream.source != "generator" or not isinstance(source, ExternalSource):
            return True
        generator = GeneratorSource(stream.generator, self.settings.seed).identity
        return made_by in (None, generator) and schema in (None, source.schema.digest.encode())

    def model(self, *, grafted: bool = False) -> OnlineModel:
        """Make the model as it is before its first event.

        With ``grafted`` its masks come with the values of the weights that return.
        """
        settings, schema = self.settings, self.source.schema
        module = build(settings.model.name, schema, settings.model.options, settings.seed)
        config = settings.learner
        if grafted:
            given = {"returning_weights": "given", "returning_sums": "given"}
            masking = config.masking.model_copy(update=given)
            config = config.model_copy(update={"masking": masking})
        online = OnlineModel(module, config)
        if self.init_from is not None:
            begin_from(online, self.init_from)
        return online

    @property
    def grafts(self) -> bool:
        """Whether the served model learns along with the dense one, from its embeddings."""
        return self.settings.pruner.regime == "graft"

    def check_workers(self, names: Collection[str]) -> None:
        """Refuse workers of one process that cannot do without each other."""
        if self.grafts and (DENSE in names) != (SPARSE in names):
            raise ValueError(
                f"with pruner.regime = 'graft' {DENSE} and {SPARSE} share their embeddings, and so "
                f"a process: start `resprout learn {DENSE} {SPARSE}`, or set pruner.regime to 'd2s'"
            )

    def evidence(self, dense: OnlineModel) -> DenseEvidence:
        """Make what observes the dense model for its masks."""
        rng = np.random.default_rng([self.settings.seed, *DENSE.encode()])
        return DenseEvidence(recipe(self.settings.pruner, self.spec), dense, rng)

    def comparison_updater(self, name: str, model: OnlineModel) -> MaskUpdater:
        """Make the mask updater of a comparison for its model."""
        settings = self.settings
        config = settings.comparisons.get(name, ComparisonConfig())
        seed = [settings.seed, *name.encode()]
        return for_comparison(config, settings.pruner, model, self.spec, seed)

    @property
    def spec(self) -> RunSpec:
        """What all workers of the run have in common.

        Snapshots keep the settings that decide a model: not those of the stream, nor where masks
        are kept and metrics seen.
        """
        settings, pruner = self.settings, self.settings.pruner
        return RunSpec(
            schema=self.source.schema,
            batch_events=settings.stream.batch_events,
            window_events=settings.trigger.window_events,
            snapshot_events=settings.learner.snapshot_events,
            first_mask_events=pruner.first_mask_events,
            rebuild_events=pruner.rebuild_events,
            prune_events=pruner.prune_events,
            judge_events=pruner.judge_events,
            lead_events=pruner.lead_events,
            seed=settings.seed,
            config_json=settings.model_dump_json(exclude={"stream", "store", "serve"}),
            has_truth=isinstance(self.source, GeneratorSource),
            models=settings.models,
            workers=settings.workers,
            grafts=self.grafts,
        )

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers of a process that carries out the whole run."""
        is_fed = self.feeds and not isinstance(self.source, ExternalSource)
        feeders = (SOURCE,) if is_fed else ()
        models = self.settings.evaluator.models
        comparisons = (model for model in models if model not in (DENSE, SPARSE))
        return (*feeders, DENSE, SPARSE, *comparisons, PRUNER, EVALUATOR)

    @property
    def rules(self) -> Rules:
        """What decisions depend on."""
        return Rules(self.spec, triggers.build(self.settings.trigger))

    @property
    def idle(self) -> tuple[str, ...]:
        """How the names of what :meth:`record` holds begin that decides nothing in this run."""
        return () if isinstance(self.source, GeneratorSource) else ("settings.stream.generator.",)

    def record(self) -> dict[str, Any]:
        """Return what a state folder remembers of its run, as JSON knows it.

        Nothing that the processes of a run may differ in is among it, and so no password.
        """
        path = weights_file(self.init_from) if self.init_from else None
        warm = hashlib.sha256(path.read_bytes()).hexdigest() if path else None
        return {
            "settings": decisive(self.settings.model_dump(mode="json")),
            "schema": self.source.schema.model_dump(mode="json"),
            "init_from": warm,
        }


def decisive(settings: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Leave out of settings by section what the processes of one run may differ in.

    >>> decisive({"seed": 0, "stream": {"batch_events": 500, "ahead_events": 20_000}, "serve": {}})
    {'seed': 0, 'stream': {'batch_events': 500}}
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if at + name in _DEPLOYMENT:
            continue
        kept[name] = decisive(value, f"{at}{name}.") if isinstance(value, Mapping) else value
    return kept


def differences(before: dict[str, Any], now: dict[str, Any], at: str = "") -> list[str]:
    """Name what differs between two records, long values in short.

    >>> differences({"settings": {"seed": 0}, "x": 1}, {"settings": {"seed": 4}, "x": 1})
    ['settings.seed was 0, is 4']
    >>> differences({"x": [{"a": 1}, {"a": 2}]}, {"x": [{"a": 1}, {"a": 3}]})
    ['x.1.a was 2, is 3']
    """
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, list) and isinstance(new, list) and _are_alike(old, new):
            old, new = ({str(i): one for i, one in enumerate(of)} for of in (old, new))
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{at}{name}.")
        elif old != new:
            found.append(f"{at}{name} was {_short(old)}, is {_short(new)}")
    return found


def _are_alike(old: list[Any], new: list[Any]) -> bool:
    """Whether both hold as many sections, such as the features of a schema."""
    return len(old) == len(new) and all(isinstance(one, dict) for one in (*old, *new))


def _short(value: Any) -> str:
    """Write a value so that an error message stays one that is read.

    >>> _short("abrupt"), _short([{"name": f"item_{i}"} for i in range(10)])
    ("'abrupt'", 'a list of 10')
    """
    text = repr(value)
    if len(text) <= _LONGEST:
        return text
    return f"a list of {len(value)}" if isinstance(value, list) else f"{text[: _LONGEST - 3]}..."
