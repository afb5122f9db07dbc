from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from resprout.cli.options import parsed
from resprout.monitoring.console import settings_toml
from resprout.run import Summary
from resprout.settings import REPLACED, TAKEN, Loaded, Settings, flat, load

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

FITTING: dict[str, Any] = {
    "stream.batch_events": 500,
    "learner.checkpoint_events": 50_000,
    "learner.snapshot_events": 50_000,
    "pruner.first_mask_events": 1_000_000,
    "pruner.rebuild_events": 150_000,
    "pruner.prune_events": 100_000,
    "pruner.judge_events": 50_000,
    "pruner.lead_events": 50_000,
    "trigger.window_events": 50_000,
    "evaluator.windows": [10_000, 50_000],
}
"""Settings that fit together, whatever the defaults are."""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text("seed = 3\n[pruner]\nsparsity = 0.7\n[model.options]\nembedding_dim = 4\n")
    return path


def test_a_file_lies_over_the_schema_the_environment_over_it_and_arguments_on_top(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"seed": 2, "pruner": {"sparsity": 0.6, "criterion": "random"}}
    monkeypatch.setenv("RESPROUT_PRUNER__SPARSITY", "0.8")
    monkeypatch.setenv("RESPROUT_LEARNER__RATE", "0.5")
    loaded = load(("schema", schema), toml, {"pruner.sparsity": 0.9})
    settings, origins = loaded.settings, loaded.origins
    assert settings.pruner.sparsity == 0.9
    assert origins["pruner.sparsity"] == "argument"
    assert settings.learner.rate == 0.5
    assert origins["learner.rate"] == "environment"
    assert settings.seed == 3
    assert origins["seed"] == str(toml)
    assert settings.pruner.criterion == "random"
    assert origins["pruner.criterion"] == "schema"
    assert origins["pruner.allocation"] == "default"
    assert settings.model.options == {"embedding_dim": 4}


def test_every_setting_has_an_origin() -> None:
    assert {"seed", "stream.generator.fields", "store.kind"} <= set(load().origins)


def test_the_environment_reaches_settings_made_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPROUT_PRUNER__SPARSITY", "0.5")
    monkeypatch.setenv("RESPROUT_SEED", "7")
    settings = Settings(pruner={"criterion": "random"})
    assert (settings.pruner.sparsity, settings.seed) == (0.5, 7)
    assert Settings(seed=1).seed == 1


@pytest.mark.parametrize(
    ("toml", "variable", "expected"),
    [
        ("2026-05-01T14:00:00+02:00", "2026-05-01T12:00:00Z", NOON),
        ('"2026-05-01T12:00:00Z"', "2026-05-01T09:00:00-03:00", NOON),
        ('{ "0" = 18_250, 1 = 0 }', '{"0": 18250, "1": 0}', {0: 18_250, 1: 0}),
    ],
)
def test_where_a_run_begins_can_be_said_by_all_sources(
    toml: str, variable: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[stream]\nbegin = {toml}\n")
    loaded = load(config=path)
    assert loaded.settings.stream.begin == expected
    assert load(arguments={"stream.begin": parsed(variable)}).settings == loaded.settings
    path.write_text(settings_toml(loaded))
    assert load(config=path).settings == loaded.settings
    monkeypatch.setenv("RESPROUT_STREAM__BEGIN", variable)
    assert load().settings == loaded.settings
    monkeypatch.setenv("RESPROUT_STREAM__BEGIN", "null")
    assert load().settings.stream.begin is None


def test_null_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPROUT_STREAM__GENERATOR__EVENTS", "null")
    assert load().settings.stream.generator.events is None


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("RESPROUT_SED", "unknown environment variable RESPROUT_SED; known: RESPROUT_SEED, "),
        ("RESPROUT_PRUNERS__SPARSITY", "unknown environment variable RESPROUT_PRUNERS__SPARSITY"),
        ("RESPROUT_PRUNER__SPARCITY", r"unknown setting pruner.sparcity \(environment\); known: "),
    ],
)
def test_an_unknown_variable_is_refused(
    name: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "9")
    with pytest.raises(ValueError, match=complaint):
        load()


def test_an_unknown_variable_is_refused_in_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPROUT_SED", "9")
    with pytest.raises(ValueError, match="unknown environment variable RESPROUT_SED"):
        Settings()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"pruner.sparsity": 1.2}, r"pruner.sparsity = 1.2 \(argument\): .* less than 1"),
        (
            {"stream.begin": "yesterday"},
            r"stream.begin = 'yesterday' \(argument\): it is neither a time, .*, nor an offset",
        ),
        ({"stream.begin": "2026-05-01"}, r"begin = '2026-05-01' \(argument\): a time needs its z"),
        ({"stream.begin": {"0": -4}}, r"stream.begin \(argument\): -4 is no whole number from 0"),
        ({"sed": 1}, r"unknown setting sed \(argument\); known: seed, stream, "),
        ({"stream.generator.x": 1}, r"unknown setting stream.generator.x \(argument\); .*drifts"),
        (
            {"learner.checkpoint_events": 777},
            "learner.checkpoint_events = 777 is not a multiple of stream.batch_events = 500",
        ),
        ({"evaluator.windows": [50_000, 1_234]}, "evaluator.windows = 1234 is not a multiple"),
        ({"trigger.window_events": 20_000}, "window_events = 20000 is none of evaluator.windows"),
        (
            {"pruner.first_mask_events": 60_000},
            "first_mask_events = 60000 is not a multiple of trigger.window_events = 50000",
        ),
        (
            {"learner.snapshot_events": 300_000},
            "first_mask_events = 1000000 is not a multiple of learner.snapshot_events = 300000",
        ),
        ({"pruner.prune_events": 120_000}, "= 170000 is more than pruner.rebuild_events = 150000"),
        ({"pruner.lead_events": 200_000}, "lead_events = 200000 is more than pruner.rebuild_ev"),
        ({"evaluator.models": ["dense"]}, r"models = \['dense'\] must name dense and sparse"),
        ({"evaluator.models": ["dense", "sparse", "x"]}, "and may name never_rebuilt"),
        (
            {
                "comparisons.slow.updater": "adaptation",
                "evaluator.models": ["dense", "sparse", "fast"],
            },
            "and may name never_rebuilt, slow",
        ),
        ({"comparisons.sparse.updater": "fixed"}, "comparisons.sparse is no name for a comparison"),
        ({"comparisons.events.updater": "fixed"}, "comparisons.events is no name for a comparison"),
        (
            {"stream.retention.windows_events": 1_000},
            "retention.windows_events = 1000 is less than trigger.window_events = 50000: keep one",
        ),
        ({"comparisons.A-1.updater": "fixed"}, "A-1 is no name .*; use small letters, digits and"),
        (
            {"comparisons.slow.updator": "fixed"},
            r"unknown setting comparisons.slow.updator \(argument\); known: updater, options, crit",
        ),
        ({"learner.publish_events": 777}, "learner.publish_events = 777 is not a multiple"),
        ({"learner.masking.learning": "some"}, r"learner.masking.learning = 'some' \(argument\): "),
        ({"pruner.selection": "top_k"}, r"selection \(argument\) is no longer a setting; leave it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(arguments=FITTING | arguments)


def test_a_setting_of_an_earlier_version_is_refused_by_what_to_write_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[pruner]\nselection = "top_k"\n')
    instead = "is no longer a setting; leave it out: the weights with the highest scores"
    with pytest.raises(ValueError, match=rf"pruner\.selection \(.*run\.toml\) {instead}"):
        load(config=path)
    with pytest.raises(ValueError, match=rf"pruner\.selection \(schema\) {instead}"):
        load(("schema", {"pruner": {"selection": "top_k"}}))
    with pytest.raises(ValueError, match=rf"pruner\.selection {instead}"):
        Settings(pruner={"selection": "top_k"})
    monkeypatch.setenv("RESPROUT_PRUNER__SELECTION", "top_k")
    for read in (load, Settings):
        with pytest.raises(ValueError, match=rf"RESPROUT_PRUNER__SELECTION {instead}"):
            read()
    monkeypatch.delenv("RESPROUT_PRUNER__SELECTION")
    monkeypatch.setenv("RESPROUT_PRUNER", '{"selection": "top_k"}')
    with pytest.raises(ValueError, match=rf"pruner\.selection \(environment\) {instead}"):
        load()


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_no_longer_a_setting_is_none(name: str) -> None:
    assert name not in load().origins


def test_no_comparison_is_called_what_stands_beside_the_models() -> None:
    assert set(Summary.model_fields) <= set(TAKEN)


def test_what_fits_together_is_taken() -> None:
    assert load(arguments=FITTING).settings.pruner.rebuild_events == 150_000


def test_comparisons_are_settings_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        '[comparisons.adapting]\nupdater = "adaptation"\noptions = { every_events = 5000 }\n'
        '[evaluator]\nmodels = ["dense", "sparse", "adapting"]\n'
    )
    arguments = FITTING | {"comparisons.slow.criterion": "mop"}
    loaded = load(config=path, arguments=arguments)
    adapting = loaded.settings.comparisons["adapting"]
    assert (adapting.updater, adapting.options) == ("adaptation", {"every_events": 5000})
    assert loaded.settings.comparisons["slow"].updater == "fixed"
    assert loaded.origins["comparisons.adapting.updater"] == str(path)
    assert loaded.origins["comparisons.slow.criterion"] == "argument"
    assert loaded.origins["comparisons.slow.updater"] == "default"
    again = tmp_path / "again.toml"
    again.write_text(settings_toml(loaded))
    assert load(config=again).settings == loaded.settings


class Inner(BaseModel):
    deepest: str = "a"
    deeper: dict[str, Any] = {}


class Middle(BaseModel):
    inner: Inner = Inner()
    after: int = 2


class Outer(BaseModel):
    middle: Middle = Middle()
    last: str = "z"
    gaps: list[int | None] = [1, None]


@given(st.text(), st.dictionaries(st.text(), st.none() | st.text() | st.integers(-9, 9)))
def test_settings_are_valid_toml_however_they_are_nested(
    text: str, options: dict[str, Any]
) -> None:
    """A scalar after a nested section opens no section twice, and is read back where it stood."""
    inner = Inner(deepest=text, deeper=options)
    made = Outer(middle=Middle(inner=inner, after=5), last=text)
    origins = {name: "default" for name, _ in flat(made)}
    written = settings_toml(Loaded(cast(Settings, made), origins))
    found = tomllib.loads(written)
    given = {name: value for name, value in options.items() if value is not None}
    assert found == {
        "last": text,
        "middle": {"after": 5, "inner": {"deepest": text, "deeper": given}},
    }
    assert "# gaps = [1, null]  # default" in written.splitlines()


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*none\.toml"):
        load(config=tmp_path / "none.toml")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("seed = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml is no TOML: "):
        load(config=path)
