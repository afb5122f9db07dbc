"""Logs in a home that another package brings: the application asks the home, and knows no names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.settings import load
from resprout.spec import RunDefinition
from stream import topics
from stream.log import LocalLogStore
from tests import plugin
from tests.resprout.small import SMALL, write_toml
from tests.resprout.test_cli import SCHEMA, write_clicks

CODE = """
from pathlib import Path
from stream.log import LocalLogStore

def attic(config, folder, worker, writable):
    return LocalLogStore(Path(config.home_options["at"]), writable)

def drawer(config, folder, worker, writable):
    return LocalLogStore(folder / "drawer", writable)

drawer.in_folder = True
drawer.describe = lambda config: f"in a drawer, {config.batch_events} events a batch"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with clicks, one of which is invalid; a package that brings two homes of logs."""
    packages = tmp_path / "packages"
    packages.mkdir()
    plugin.install(packages, CODE, {"resprout.logs": ("attic = attic", "drawer = drawer")})
    monkeypatch.syspath_prepend(packages)
    write_toml(tmp_path / "small.toml", SMALL)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    write_clicks(tmp_path / "clicks.csv", {"clicked": "7"})
    return tmp_path


def call(home: Path, *words: str | Path) -> Result:
    options = json.dumps({"at": str(home / "attic")})
    there = ("--set", "stream.home=attic", "--set", f"stream.home_options={options}")
    return CliRunner().invoke(main, [*map(str, words), *there])


def test_a_run_its_report_and_its_dead_letters(home: Path) -> None:
    state = ("--state", home / "state")
    clicks = ("--config", home / "small.toml", "--input", home / "clicks.csv")
    ran = call(home, "run", *clicks, "--schema", home / "schema.toml", "--json", *state)
    assert ran.stderr.splitlines()[-1].startswith("Error: no sparse model: "), ran.output
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert (summary["events"], summary["dead_letters"]) == (1_199, 1)
    assert LocalLogStore(home / "attic").exists(topics.WINDOWS)
    assert not (home / "state" / "logs").exists()
    letters = call(home, "deadletters", *state)
    assert letters.exit_code == 0, letters.output
    assert letters.stdout.splitlines()[-1] == "1 dead letter: 1 label"
    reported = call(home, "report", home / "state")
    assert reported.exit_code == 0, reported.output
    assert "1 label" in (home / "state" / "report.html").read_text()


def test_its_logs_can_be_made_before_a_run_and_looking_makes_none(home: Path) -> None:
    state = home / "state"
    made = call(home, "topics")
    assert made.exit_code == 0, made.output
    assert str(home / "attic" / "predictions.dense") in made.stdout
    assert str(home / "attic" / "progress.never_rebuilt") in made.stdout
    (home / "attic" / topics.DEAD_LETTERS).rename(home / "gone")
    state.mkdir()
    RunFolder(state).begin(RunDefinition.generated(load(None, home / "small.toml").settings))
    looked = call(home, "deadletters", "--state", state)
    assert looked.exit_code == 1
    assert "deadletters" in looked.stderr
    assert not (home / "attic" / topics.DEAD_LETTERS).exists()


def test_what_is_outside_the_state_folder_is_not_deleted_with_it(home: Path) -> None:
    refused = call(home, "run", "--fresh", "--state", home / "state")
    assert refused.exit_code == 2
    assert "--fresh deletes the state folder, and would leave" in refused.stderr
    assert "(of another home, its home_options)" in refused.stderr


def test_a_home_inside_the_state_folder_says_so(home: Path) -> None:
    given = ("--set", "stream.home=drawer", "--state", str(home / "state"))
    refused = CliRunner().invoke(main, ["topics", *given[:2]])
    assert "stream.home is drawer: its logs need no topics; set it to kafka" in refused.stderr
    config = ("--config", str(home / "small.toml"), "--set", "stream.generator.events=2000")
    source = CliRunner().invoke(main, ["generate", *config, *given])
    assert source.stderr.splitlines()[0].endswith(
        "; logs in a drawer, 500 events a batch, masks on disk"
    )
    for _ in "12":
        ran = CliRunner().invoke(main, ["run", "--fresh", *config, *given])
        assert ran.stderr.splitlines()[-1].startswith("Error: no sparse model: "), ran.output
    assert LocalLogStore(RunFolder(home / "state").home.folder / "drawer").exists(topics.CLICKS)
