"""The settings: every room's own configuration, composed and checked against each other.

Lowest to highest: defaults, the ``[settings]`` of the schema file, the TOML file, the environment
(``RESPROUT_SECTION__KEY``), arguments.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import to_json
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from evaluator import EvaluatorConfig
from learner import LearnerConfig, ModelConfig
from pruner import ComparisonConfig, PrunerConfig, StoreConfig, TriggerConfig
from stream import MODELS as SPECS
from stream import ModelSpec, StreamConfig, find_model

MODELS = tuple(model.name for model in SPECS)
"""Those that every run knows; the settings may name further ones."""
DENSE, SPARSE, NEVER_REBUILT, *_ = MODELS
SOURCE, PRUNER, EVALUATOR = "source", "pruner", "evaluator"
WORKERS = (SOURCE, *MODELS, PRUNER, EVALUATOR)
"""The workers that every run knows."""
TAKEN = (*WORKERS, "bayes", "bayes_ce", "call_events", "call_seconds", "dead_letters", "events")
TAKEN += ("events_per_second", "grafts", "last_half", "rebuilds", "rollbacks", "seed", "windows")
"""What no comparison may be called: a worker, or what stands beside the models in results."""
_COMPARISON = re.compile(r"[a-z][a-z0-9_]*")
PREFIX = "RESPROUT_"
DELIMITER = "__"

Layer = tuple[str, Mapping[str, Any]]
"""Where values come from, in words, and the values by section."""

REPLACED: Final = {
    "pruner.selection": "leave it out: the weights with the highest scores are kept, as with "
    "'top_k', its only value; patterns are pruner.pattern",
}
"""Settings of earlier versions by dotted name, and what to write instead."""


class ServeConfig(BaseModel):
    """Where a process answers those who ask how it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is seen from everywhere, as inside a container."""
    port: int | None = Field(default=0, ge=0, le=65_535)
    """Of the live page, ``/healthz`` and ``/metrics``. 0: any free one; None: none at all. Where
    nothing is set, the page is at 8000 if that is free.
    """
    hosts: tuple[str, ...] = ()
    """Names under which it is asked, beside ``localhost`` and addresses of numbers; a request with
    any other in its header ``Host`` is refused."""
    token: SecretStr | None = Field(default=None, min_length=16)
    """What everybody must show, but for ``/healthz``: a browser as ``/?token=...``, once, a program
    in the header ``Authorization: Bearer ...``; null: nobody needs any."""
    certfile: str | None = None
    """A certificate in PEM, to be asked over TLS."""
    keyfile: str | None = None
    """The key of ``certfile``, where that does not hold it."""

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.keyfile is not None and self.certfile is None:
            raise ValueError("serve.keyfile is set without serve.certfile; name both")
        return self


class Settings(BaseSettings):
    """All that a run depends on, beside its clicks.

    Examples
    --------
    >>> Settings(pruner={"sparsity": 0.9}).pruner.sparsity
    0.9
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_parse_none_str="null",
        # A password may be among them: :func:`load` says of each bad value what may be said.
        hide_input_in_errors=True,
    )

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides every random thing: the synthetic stream, weights at the start, criteria."""
    stream: StreamConfig = StreamConfig()
    model: ModelConfig = ModelConfig()
    learner: LearnerConfig = LearnerConfig()
    pruner: PrunerConfig = PrunerConfig()
    trigger: TriggerConfig = TriggerConfig()
    store: StoreConfig = StoreConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    comparisons: dict[str, ComparisonConfig] = Field(default_factory=dict)
    """Further models by name, which begin as the first mask's. The run has those of them that
    ``evaluator.models`` names; ``never_rebuilt`` is always known, with the updater ``fixed``."""
    serve: ServeConfig = ServeConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments and environment, and nothing else."""
        return init_settings, Environment(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _are_current(cls, values: Any) -> Any:
        refuse_replaced(values)
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        complaints = [*_uneven(self), *_misfits(self)]
        if complaints:
            changed = fitting(self)
            if changed:
                these = ", ".join(f"{name} = {value}" for name, value in changed.items())
                complaints.append(f"settings counted in events are linked, and these fit: {these}")
            raise ValueError("; ".join(complaints))
        return self

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models that there can be, the root first, the comparisons last.

        >>> settings = Settings(comparisons={"adapting": {"updater": "adaptation"}})
        >>> [model.name for model in settings.models]
        ['dense', 'sparse', 'never_rebuilt', 'adapting']
        """
        return (*SPECS, *(find_model(name) for name in self.comparisons))

    @property
    def workers(self) -> tuple[str, ...]:
        """All workers that there can be, in the order of what they wait for."""
        return (SOURCE, *(model.name for model in self.models), PRUNER, EVALUATOR)


class Environment(EnvSettingsSource):
    """The ``RESPROUT_*`` variables; one that names no setting is refused, not passed over."""

    def __call__(self) -> dict[str, Any]:
        """Return the values by section."""
        sections = self.settings_cls.model_fields
        for name in sorted(os.environ):
            dotted = name.upper().removeprefix(PREFIX).lower().replace(DELIMITER, ".")
            if not name.upper().startswith(PREFIX):
                continue
            if dotted in REPLACED:
                raise ValueError(f"{name} is no longer a setting; {REPLACED[dotted]}")
            if dotted.partition(".")[0] not in sections:
                known = ", ".join(f"{PREFIX}{s.upper()}" for s in sections)
                raise ValueError(f"unknown environment variable {name}; known: {known}")
        return super().__call__()


_ANY_COUNT = (
    "stream.",
    "trigger.every_events",
    "trigger.phase_events",
    "evaluator.alarms.window_events",
)
"""How the names of settings begin that are counted in events, and need not fall between batches."""


_SCALED: Final = (
    "learner.checkpoint_events",
    "learner.snapshot_events",
    "learner.publish_events",
    "pruner.first_mask_events",
    "pruner.rebuild_events",
    "pruner.prune_events",
    "pruner.judge_events",
    "pruner.lead_events",
    "pruner.checkpoint_events",
    "trigger.window_events",
    "trigger.cooldown_events",
    "trigger.every_events",
    "evaluator.checkpoint_events",
)
"""Settings that are a number of windows, beside ``evaluator.windows``."""
_RUN_WINDOWS: Final = 48
"""Windows of ``trigger.window_events`` in a run whose settings are derived from its length: the
first mask is cut after 20 of them and in force after 22, as with the defaults."""
_BATCHES: Final = (500, 250, 100, 50, 25, 10)
"""Sizes of a batch to choose from, the largest first."""
_WINDOW_BATCHES: Final = 100
"""Batches of a window, as with the defaults; with fewer the models take too few steps."""


def scaled(events: int) -> dict[str, Any]:
    """Derive all settings that are counted in events from the length of the input.

    They keep the proportions of the defaults, which suit 2.4 million events: a window of the
    trigger is 1 / 48 of the input, rounded down to five batches, and the others are as many windows
    as they are by default. A batch is a hundredth of a window, of the sizes 10 to 500.

    Parameters
    ----------
    events
        Of the whole input; one that is longer than 2.4 million has the defaults, and one that is
        shorter than 2 400 the settings of 2 400.

    Returns
    -------
    Settings by dotted name; empty where the defaults suit.

    Examples
    --------
    >>> small = scaled(100_000)
    >>> small["stream.batch_events"], small["trigger.window_events"]
    (10, 2050)
    >>> small["pruner.first_mask_events"], small["pruner.rebuild_events"]
    (41000, 4100)
    >>> scaled(3_000_000)
    {}
    """
    defaults = Settings.model_construct()
    full = defaults.trigger.window_events
    longest = events // _RUN_WINDOWS
    if longest >= full:
        return {}
    fits = (one for one in _BATCHES if one * _WINDOW_BATCHES <= longest)
    batch = next(fits, _BATCHES[-1])
    # The smallest windows are a fifth of these.
    window = max(longest // (5 * batch), 1) * 5 * batch
    derived: dict[str, Any] = {"stream.batch_events": batch}
    for name, value in flat(defaults):
        if name in _SCALED:
            derived[name] = value * window // full
    # Half a window is no whole number of batches where a window is an odd one.
    grafts = defaults.pruner.graft_events * window // full
    derived["pruner.graft_events"] = grafts // batch * batch
    windows = [size * window // full for size in defaults.evaluator.windows]
    return derived | {"evaluator.windows": windows}


def counted(names: Iterable[str]) -> tuple[str, ...]:
    """Choose of the names of settings those that :func:`scaled` derives.

    >>> counted(["seed", "trigger.window_events", "evaluator.windows"])
    ('trigger.window_events', 'evaluator.windows')
    """
    derived = {"stream.batch_events", "pruner.graft_events", "evaluator.windows", *_SCALED}
    return tuple(name for name in names if name in derived)


def fitting(settings: Settings) -> dict[str, Any]:
    """Change settings that are counted in events so that they fit each other.

    The batch and the window of the trigger stay nearest to what they are, then the others.

    Returns
    -------
    Those that change, by dotted name.

    Examples
    --------
    >>> asked = Settings.model_construct(trigger=TriggerConfig(window_events=20_000))
    >>> fitting(asked)
    {'evaluator.windows': [10000, 20000, 50000, 100000, 1000000]}
    """
    batch = settings.stream.batch_events

    def even(events: float, step: int = batch, least: int = 1) -> int:
        """Round to a multiple."""
        return max(round(events / step), least) * step

    values = dict(flat(settings))
    names = [n for n in values if n.endswith("_events") and not n.startswith(_ANY_COUNT)]
    # What is None or 0 fits.
    fit = {name: even(values[name]) for name in names if values[name]}
    window, snapshot = fit["trigger.window_events"], fit["learner.snapshot_events"]
    if math.lcm(window, snapshot) > max(fit["pruner.first_mask_events"], window):
        snapshot = fit["learner.snapshot_events"] = window
    first = even(fit["pruner.first_mask_events"], math.lcm(window, snapshot))
    fit["pruner.first_mask_events"] = first
    parts = fit["pruner.prune_events"] + fit["pruner.judge_events"]
    least = max(parts, fit.get("pruner.lead_events", 0))
    fit["pruner.rebuild_events"] = max(fit["pruner.rebuild_events"], least)
    sizes = sorted({*(even(size) for size in settings.evaluator.windows), window})
    watched = settings.evaluator.alarms.window_events
    if watched is not None:
        fit["evaluator.alarms.window_events"] = even(watched)
    kept = settings.stream.retention.windows_events
    if kept is not None and kept < window:
        fit["stream.retention.windows_events"] = window
    changed: dict[str, Any] = {n: value for n, value in fit.items() if value != values[n]}
    if sizes != sorted(settings.evaluator.windows):
        changed["evaluator.windows"] = sizes
    return changed


def _uneven(settings: Settings) -> Iterator[str]:
    batch = settings.stream.batch_events
    counts = [
        (name, value)
        for name, value in flat(settings)
        if name.endswith("_events") and not name.startswith(_ANY_COUNT)
    ]
    for name, events in counts + [("evaluator.windows", one) for one in settings.evaluator.windows]:
        if events % batch:
            yield f"{name} = {events} is not a multiple of stream.batch_events = {batch}"


def _unknown_models(settings: Settings) -> Iterator[str]:
    models, comparisons = settings.evaluator.models, (NEVER_REBUILT, *settings.comparisons)
    if set(models) - {DENSE, SPARSE, *comparisons} or SPARSE not in models:
        yield (
            f"evaluator.models = {list(models)} must name {DENSE} and {SPARSE}, and may name "
            f"{', '.join(comparisons)}"
        )
    for name in settings.comparisons:
        if name in TAKEN or not _COMPARISON.fullmatch(name) or name.startswith("candidate"):
            yield (
                f"comparisons.{name} is no name for a comparison; use small letters, digits and _, "
                f"and none of {', '.join(TAKEN)}"
            )


def _misfits(settings: Settings) -> Iterator[str]:
    """Say which settings contradict each other."""
    pruner, trigger, learner = settings.pruner, settings.trigger, settings.learner
    yield from _unknown_models(settings)
    if trigger.window_events not in settings.evaluator.windows:
        yield (
            f"trigger.window_events = {trigger.window_events} is none of evaluator.windows = "
            f"{list(settings.evaluator.windows)}"
        )
    kept = settings.stream.retention.windows_events
    if kept is not None and kept < trigger.window_events:
        yield (
            f"stream.retention.windows_events = {kept} is less than trigger.window_events = "
            f"{trigger.window_events}: keep one window at least, or leave it out to keep all"
        )
    for name, step in {
        "trigger.window_events": trigger.window_events,
        "learner.snapshot_events": learner.snapshot_events,
    }.items():
        if pruner.first_mask_events % step:
            yield (
                f"pruner.first_mask_events = {pruner.first_mask_events} is not a multiple of "
                f"{name} = {step}"
            )
    for name, events in {
        "pruner.prune_events + pruner.judge_events": pruner.prune_events + pruner.judge_events,
        "pruner.lead_events": pruner.lead_events,
    }.items():
        if events > pruner.rebuild_events:
            yield (
                f"{name} = {events} is more than pruner.rebuild_events = {pruner.rebuild_events}"
            )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value came from."""

    settings: Settings
    origins: dict[str, str]
    """By name, such as ``pruner.sparsity``."""


def load(
    base: Layer | None = None,
    config: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    scale: Layer | None = None,
) -> Loaded:
    """Read the settings from everywhere they may stand.

    Parameters
    ----------
    base
        What goes above defaults and scale, such as what a schema file says suits its data.
    config
        A TOML file.
    arguments
        Values by dotted name.
    scale
        What goes right above the defaults: settings derived from the length of the input.

    Examples
    --------
    >>> loaded = load(arguments={"pruner.sparsity": 0.9})
    >>> loaded.settings.pruner.sparsity, loaded.origins["pruner.sparsity"]
    (0.9, 'argument')
    >>> loaded.origins["pruner.criterion"]
    'default'
    """
    layers: list[Layer] = [
        scale or ("default", {}),
        base or ("default", {}),
        (str(config), _toml(config) if config else {}),
        ("environment", Environment(Settings)()),
        ("argument", nested(arguments or {})),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        refuse_replaced(values, origin)
        merged = _merge(merged, values)
        origins |= {name: origin for name, _ in tree(values)}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ValueError("; ".join(_complaints(error, origins))) from error
    return Loaded(settings, {name: origins.get(name, "default") for name, _ in flat(settings)})


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into sections.

    >>> nested({"pruner.sparsity": 0.9, "pruner.criterion": "magnitude", "seed": 1})
    {'pruner': {'sparsity': 0.9, 'criterion': 'magnitude'}, 'seed': 1}
    """
    made: dict[str, Any] = {}
    for name, value in dotted.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        made = _merge(made, value)
    return made


def refuse_replaced(values: Mapping[str, Any], origin: str = "") -> None:
    """Raise ``ValueError`` for a setting of an earlier version, with what to write instead.

    >>> refuse_replaced({"pruner": {"selection": "top_k"}}, "run.toml")
    Traceback (most recent call last):
    ...
    ValueError: pruner.selection (run.toml) is no longer a setting; leave it out: ...
    """
    for name in replaced(values):
        place = f" ({origin})" if origin else ""
        raise ValueError(f"{name}{place} is no longer a setting; {REPLACED[name]}")


def replaced(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Name those of some settings that are of an earlier version.

    >>> replaced({"pruner": {"selection": "top_k", "sparsity": 0.9}})
    ('pruner.selection',)
    """
    return tuple(name for name, _ in tree(values) if name in REPLACED)


def with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in, as JSON knows them, settings that there were not yet when others were recorded.

    >>> with_defaults({"seed": 4})["stream"]["batch_events"]
    500
    """
    return _merge(Settings.model_construct().model_dump(mode="json"), recorded)


def tree(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield values by their dotted names, each section before what it holds.

    >>> dict(tree({"seed": 4, "pruner": {"sparsity": 0.9}}))
    {'seed': 4, 'pruner': {'sparsity': 0.9}, 'pruner.sparsity': 0.9}
    """
    for key, value in values.items():
        yield f"{at}{key}", value
        if isinstance(value, Mapping):
            yield from tree(value, f"{at}{key}.")


def flat(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its dotted name, sections in order.

    >>> dict(flat(Settings()))["pruner.criterion"]
    'fisher_ema'
    """
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from flat(value, f"{prefix}{name}.")
        elif _by_name(info.annotation) is not None:
            for key, one in value.items():
                yield from flat(one, f"{prefix}{name}.{key}.")
        else:
            yield prefix + name, value


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """What a setting is, as its class in the code says it."""

    name: str
    """Dotted; ``NAME`` where the user chooses a part of it."""
    section: str
    """What the section that it stands in is about."""
    kind: str
    """Its type, and the range of its values."""
    default: str
    """As JSON."""
    text: str
    """What it decides."""


def descriptions(model: type[BaseModel] = Settings, at: str = "") -> Iterator[SettingDescription]:
    """Yield what every setting is, section by section.

    >>> found = {one.name: one for one in descriptions()}
    >>> found["pruner.sparsity"].kind, found["pruner.sparsity"].default
    ('float, 0 or more, less than 1', '0.8')
    >>> found["comparisons.NAME.updater"].default
    '"fixed"'
    """
    texts, kinds = _attributes(model)
    section = (inspect.getdoc(model) or "").partition("\n\n")[0]
    inner: list[tuple[type[BaseModel], str]] = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            inner.append((info.annotation, f"{at}{name}."))
        elif (held := _by_name(info.annotation)) is not None:
            inner.append((held, f"{at}{name}.NAME."))
        else:
            bounds = [_bound(one) for one in info.metadata]
            kind = ", ".join([kinds.get(name, ""), *filter(None, bounds)])
            default = info.get_default(call_default_factory=True)
            shown = to_json(default).decode()
            yield SettingDescription(f"{at}{name}", section, kind, shown, texts.get(name, ""))
    for one, place in inner:
        yield from descriptions(one, place)


_BOUNDS = {"gt": "more than", "ge": "", "lt": "less than", "le": "at most"}


def _bound(limit: object) -> str:
    """Say a limit of a value in words."""
    for name, words in _BOUNDS.items():
        if (value := getattr(limit, name, None)) is not None:
            return f"{value} or more" if name == "ge" else f"{words} {value}"
    return ""


def _attributes(model: type[BaseModel]) -> tuple[dict[str, str], dict[str, str]]:
    """Read the docstrings and the types of a class's attributes from its source."""
    texts, kinds = {}, {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one.__module__.startswith("pydantic"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
        for field, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                kinds[field.target.id] = ast.unparse(field.annotation)
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = " ".join(str(after.value.value).split())
                    texts[field.target.id] = re.sub(r":\w+:(?=`)", "", text.replace("``", "`"))
    return texts, kinds


def explain(name: str, loaded: Loaded) -> str:
    """Say what a setting is, or all settings of a section: its value, and where that comes from.

    >>> print(explain("pruner.sparsity", load(arguments={"pruner.sparsity": 0.9})))
    pruner.sparsity = 0.9  # argument; the default is 0.8
        float, 0 or more, less than 1
        Share of the prunable weights to remove, over all layers together.
        RESPROUT_PRUNER__SPARSITY
    >>> explain("pruner.sparcity", load())
    Traceback (most recent call last):
    ...
    ValueError: unknown setting 'pruner.sparcity'; did you mean pruner.sparsity?
    """
    known = {one.name: one for one in descriptions()}
    parts, chosen = name.split("."), "NAME"
    if parts[0] == "comparisons" and len(parts) > 1:
        chosen, parts[1] = parts[1], "NAME"
    asked = ".".join(parts)
    found = [one for one in known.values() if f"{one.name}.".startswith(f"{asked}.")]
    if not found:
        near = difflib.get_close_matches(asked, [*known, *Settings.model_fields], 1)
        way_out = f"did you mean {near[0]}?" if near else "`resprout config` lists all"
        raise ValueError(f"unknown setting {name!r}; {way_out}")
    said, values = [], dict(flat(loaded.settings))
    for one in found:
        lines = [one.kind, *textwrap.wrap(one.text.replace("`", ""), 90)]
        if "NAME" not in one.name:
            lines.append(PREFIX + one.name.upper().replace(".", DELIMITER))
        own = one.name.replace("NAME", chosen)
        first = f"{one.name} = {one.default}"
        if own in values:
            is_secret = isinstance(values[own], SecretStr)
            value = "(not shown)" if is_secret else to_json(values[own]).decode()
            origin = loaded.origins[own]
            default = "" if origin == "default" else f"; the default is {one.default}"
            first = f"{own} = {value}  # {origin}{default}"
        said.append("\n".join([first, *(f"    {line}" for line in lines)]))
    return "\n\n".join(said)


def markdown() -> str:
    """Write the reference of all settings, ``docs/settings.md``, as Markdown."""
    lines: list[str] = []
    at = None
    for one in descriptions():
        section = one.name.rpartition(".")[0]
        if section != at:
            at = section
            lines += ["", f"## {section or 'Of the whole run'}", ""]
            lines += [one.section.replace("``", "`"), ""] if section else []
            lines += ["| setting | type | default | what it decides |", "|---|---|---|---|"]
        cells = (f"`{one.name}`", f"`{one.kind}`", f"`{one.default}`", one.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines).strip()


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}; `resprout config` writes one")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of values over another."""
    merged = dict(below)
    for key, value in above.items():
        under: Any = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _merge(under, value) if both else value
    return merged


def _complaints(error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    """Say of each bad value its name, the value, where it came from and the way out."""
    for item in error.errors(include_url=False):
        place, given = item["loc"], item["input"]
        message = item["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, place))
        origin = origins.get(name, "default")
        if not place:
            yield message
        elif item["type"] == "extra_forbidden":
            known = ", ".join(_annotation(place[:-1]).model_fields)
            yield f"unknown setting {name} ({origin}); known: {known}"
        elif name == "store.url" or isinstance(given, Mapping) or _is_secret(place):
            # It is a password, or an address or a whole section, which may hold one.
            yield f"{name} ({origin}): {message}"
        else:
            yield f"{name} = {given!r} ({origin}): {message}"


def _is_secret(place: tuple[int | str, ...]) -> bool:
    return "SecretStr" in str(_annotation(place))


def _annotation(section: tuple[int | str, ...]) -> Any:
    """Return the type of a setting, or of the one that it is a part of."""
    found: Any = Settings
    for part in section:
        if (one := _by_name(found)) is not None:
            found = one
        elif isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[str(part)].annotation
    return found


def _by_name(annotation: Any) -> type[BaseModel] | None:
    """Return what a section holds under names that the user chooses; None for any other type."""
    held = get_args(annotation)[-1] if get_origin(annotation) is dict else None
    return held if isinstance(held, type) and issubclass(held, BaseModel) else None
