"""Settings counted in events: derived from the length of the input, and fitted to each other."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.settings import Settings, fitting, load, nested, scaled, tree

SCHEMA = """
[[numeric]]
name = "price"
[[categorical]]
name = "site"
buckets = 50
[columns]
event_time = "when"
time_format = "seconds"
label = "clicked"
"""
OWN = """
[settings.model.options]
embedding_dim = 4
bottom = [8]
top = [16]
"""


@given(events=st.integers(1, 3_000_000))
def test_whatever_the_length_the_derived_settings_fit_and_leave_time_for_a_sparse_model(
    events: int,
) -> None:
    settings = load(scale=("scale", nested(scaled(events)))).settings
    if events >= 2_400:
        end = settings.pruner.first_mask_events + settings.pruner.rebuild_events
        assert end <= 0.47 * events
        assert settings.stream.batch_events <= settings.trigger.window_events / 5


@pytest.mark.parametrize("events", [2_400, 10_000, 100_000, 500_000, 1_000_000])
def test_they_keep_the_proportions_of_the_defaults(events: int) -> None:
    derived, defaults = scaled(events), dict(tree(Settings().model_dump()))
    window = derived["trigger.window_events"]
    batch = derived["stream.batch_events"]
    # Half a window, in whole batches.
    assert derived["pruner.graft_events"] in (window / 2, window / 2 - batch / 2)
    others = {"stream.batch_events", "pruner.graft_events", "evaluator.windows"}
    for name in derived.keys() - others:
        assert derived[name] / window == defaults[name] / defaults["trigger.window_events"], name
    assert derived["evaluator.windows"] == [window // 5, window, 2 * window, 20 * window]


def fits(asked: dict[str, Any]) -> bool:
    with suppress(ValueError):
        load(arguments=asked)
        return True
    return False


COUNTS = st.integers(1, 40).map(lambda n: n * 250)


@given(
    batch=st.sampled_from([50, 100, 500, 300]),
    values=st.fixed_dictionaries(
        {
            name: COUNTS
            for name in (
                "trigger.window_events",
                "learner.snapshot_events",
                "learner.publish_events",
                "pruner.first_mask_events",
                "pruner.rebuild_events",
                "pruner.prune_events",
                "pruner.judge_events",
                "pruner.lead_events",
            )
        }
    ),
    windows=st.lists(COUNTS, min_size=1, max_size=3, unique=True),
)
def test_what_is_proposed_fits_whatever_was_asked_for(
    batch: int, values: dict[str, int], windows: list[int]
) -> None:
    asked: dict[str, Any] = {**values, "stream.batch_events": batch, "evaluator.windows": windows}
    assume(not fits(asked))
    with pytest.raises(ValueError, match="and these fit: "):
        load(arguments=asked)
    # As it stands there, without the checks that refuse it.
    tree_of = {name: Settings.model_fields[name].annotation for name in nested(asked)}
    parts = {
        name: kind.model_construct(**{**dict(kind()), **nested(asked)[name]})
        for name, kind in tree_of.items()
        if isinstance(kind, type)
    }
    proposed = fitting(Settings.model_construct(**parts))
    assert proposed
    load(arguments=asked | proposed)


def test_linked_settings_are_explained_together_with_numbers_that_fit() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(trigger={"window_events": 20_000}, pruner={"first_mask_events": 70_000})
    said = str(caught.value)
    assert "trigger.window_events = 20000 is none of evaluator.windows" in said
    assert "pruner.first_mask_events = 70000 is not a multiple of learner.snapshot_events" in said
    assert (
        "settings counted in events are linked, and these fit: learner.snapshot_events = 20000, "
        "pruner.first_mask_events = 80000, evaluator.windows = [10000, 20000, 50000, 100000, "
        "1000000]"
    ) in said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "schema.toml").write_text(SCHEMA + OWN)
    return tmp_path


def write(path: Path, rows: int) -> Path:
    """Clicks that follow the site."""
    lines = ["when,clicked,price,site"]
    lines += [f"{n},{int(n % 7 < 2 and n % 3 > 0)},{n % 3},s{n % 7}" for n in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(home: Path, *more: str | Path) -> Result:
    clicks, schema = home / "clicks.csv", home / "schema.toml"
    given = ("run", "--input", clicks, "--schema", schema, "--state", home / "state", "--json")
    return CliRunner().invoke(main, [str(one) for one in (*given, *more)])


def test_ten_thousand_rows_have_a_sparse_model_without_a_setting(home: Path) -> None:
    write(home / "clicks.csv", 10_000)
    result = run(home)
    assert result.exit_code == 0, result.output
    assert (
        "scaled to 10,000 events: batches of 10, windows of 200, the first mask is cut at 4,000 "
        "and in force from 4,400 on; `resprout config --scale 10000` prints all"
    ) in result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["sparse"]["sparsity"] == pytest.approx(0.8, abs=0.01)
    again = run(home)
    assert again.exit_code == 0, again.output
    assert "scaled" not in again.stderr
    recorded = RunFolder(home / "state").record()["settings"]
    assert recorded["trigger"]["window_events"] == 200


@pytest.mark.parametrize("names", [True, False], ids=["header", "names"])
def test_standard_input_loses_no_line(home: Path, names: bool) -> None:
    """The look at its length, which is not known, and the run read one and the same input."""
    text = write(home / "clicks.csv", 500).read_text()
    schema = home / "schema.toml"
    if names:
        text = text.partition("\n")[2]
        schema.write_text(
            SCHEMA + 'names = ["when", "clicked", "price", "site"]\ndelimiter = ","' + OWN
        )
    given = ("run", "--input", "-", "--schema", schema, "--state", home / "state", "--json")
    result = CliRunner().invoke(main, [str(one) for one in given], input=text)
    assert "no sparse model: an input needs more than" in result.stderr.splitlines()[-1]
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["events"], told["dead_letters"]) == (500, 0), result.stderr
    again = CliRunner().invoke(main, [str(one) for one in given], input=text)
    assert json.loads(again.stdout.splitlines()[-1])["events"] == 500, again.stderr


def test_standard_input_is_called_so(home: Path) -> None:
    schema = str(home / "schema.toml")
    for words in (("run", "--input", "-"), ("schema", "check", "-")):
        result = CliRunner().invoke(main, [*words, "--schema", schema], input="when,price,site\n")
        assert result.exit_code == 2
        assert "Error: standard input has no column 'clicked' (label)" in result.stderr
    twice = ("run", "--input", "-", "--input", "-", "--schema", schema)
    assert "standard input is named twice" in CliRunner().invoke(main, twice).stderr


def test_who_sets_one_of_them_has_the_others_as_they_are_and_is_told_what_is_missing(
    home: Path,
) -> None:
    write(home / "clicks.csv", 3_000)
    result = run(home, "--set", "trigger.cooldown_events=100000")
    assert result.exit_code == 1
    assert "scaled" not in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["sparse"] is None
    assert result.stderr.splitlines()[-1] == (
        "Error: no sparse model: begin anew with --scale 3000, which derives all that is counted "
        "in events (a first mask in force from 1,100 on); or with pruner.first_mask_events and "
        "pruner.rebuild_events that come to less than 3,000 together"
    )
    scaled = run(home, "--fresh", "--set", "trigger.cooldown_events=100000", "--scale", "3000")
    assert scaled.exit_code == 0, scaled.output


def test_too_few_rows_for_a_sparse_model_are_said_to_be_too_few(home: Path) -> None:
    write(home / "clicks.csv", 900)
    result = run(home)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: no sparse model: an input needs more than 1,100 events for one"
    )


def test_config_prints_what_a_scale_derives() -> None:
    result = CliRunner().invoke(main, ["config", "--scale", "100000"])
    assert result.exit_code == 0, result.output
    assert "window_events = 2050  # scale" in result.stdout
    assert 'criterion = "fisher_ema"  # default' in result.stdout
