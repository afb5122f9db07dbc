"""Commands that look take the last run, and say which; a demo deletes no run in silence."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from resprout.cli import main
from resprout.folder import RunFolder, last_run
from tests.resprout.eventful import CHANGED
from tests.resprout.small import SMALL, write_toml
from tests.structure import ROOT


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one small demo was run, with nothing named; only to be read."""
    home, before = tmp_path_factory.mktemp("home"), Path.cwd()
    write_toml(home / "small.toml", SMALL)
    changed = {name.replace("__", "."): json.dumps(value) for name, value in CHANGED.items()}
    more = [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]
    os.chdir(home)
    try:
        result = call("demo", "--config", "small.toml", *more)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    (home / "clicks.toml").write_text(
        (ROOT / "examples" / "clicks.toml").read_text("utf-8") + '[columns]\nseparator = "|"\n'
    )
    rows = [f"{n},{n % 3 // 2},{n % 7}.5,news,new|sale" for n in range(300)]
    (home / "clicks.csv").write_text("\n".join(["event_time,label,price,site,tags", *rows]))
    criteo = ["\t".join(map(str, [n % 2, *range(n, n + 39)])) for n in range(300)]
    (home / "train.txt").write_text("\n".join(criteo))
    return home


@pytest.fixture
def home(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


LOOKING = [
    ("masks", "list"),
    ("masks", "show", "1"),
    ("masks", "diff", "1", "2"),
    ("deadletters",),
    ("export", "--output", "served"),
]


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_a_command_that_looks_takes_the_last_run_and_says_which(
    command: tuple[str, ...], home: Path
) -> None:
    found = call(*command)
    shutil.rmtree("served", ignore_errors=True)
    named = call(*command, "--state", "runs/demo")
    assert (found.exit_code, named.exit_code) == (0, 0), found.output
    assert found.stdout == named.stdout
    assert found.stderr == f"the last run, {Path('runs/demo')}:\n"
    assert named.stderr == ""


def test_a_report_is_of_the_last_run(home: Path) -> None:
    found = call("report")
    assert (found.exit_code, found.stdout) == (0, f"{Path('runs/demo/report.html')}\n")
    assert "the last run, runs/demo" in found.stderr


@pytest.mark.parametrize("more", [(), ("--state", "runs/demo"), ("runs/demo",)])
def test_a_replay_is_of_the_last_run(home: Path, more: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "resprout", "evaluate", "--replay", *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=home)
    assert process.stderr is not None
    said = ""
    while "Ctrl+C ends it" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("the last run, runs/demo:" in said) == (more == ())
    assert "http://127.0.0.1:" in said


def test_without_any_run_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (*LOOKING, ("report",)):
        result = call(*command)
        assert result.exit_code == 2
        assert "no run in runs; name the state folder of one" in result.stderr


def test_the_last_run_is_the_one_in_which_a_worker_was_started_last(tmp_path: Path) -> None:
    assert last_run(tmp_path) is None
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        os.utime(tmp_path / name / "run.json", (100, 100))
    (tmp_path / "no run").mkdir()

    def start(name: str, worker: str | None, seconds: int) -> None:
        folder = RunFolder(tmp_path / name)
        (folder.lock_worker(worker) if worker else folder._take(folder.path, "resprout")).close()
        lock = folder.path / ("lock" if worker is None else f"workers/{worker}/lock")
        os.utime(lock, (seconds, seconds))

    start("a", None, 200)
    assert last_run(tmp_path) == tmp_path / "a"
    start("b", "dense", 300)
    assert last_run(tmp_path) == tmp_path / "b"
    start("a", "evaluator", 400)
    assert last_run(tmp_path) == tmp_path / "a"


def helps(command: click.Command, name: str = "resprout") -> Iterator[tuple[str, str]]:
    """Yield the help of a command, and of all that are in it."""
    yield name, command.help or ""
    if isinstance(command, click.Group):
        for one, inner in command.commands.items():
            yield from helps(inner, f"{name} {one}")


EXAMPLES = [
    line
    for _, text in helps(main)
    for block in re.split(r"\n\s*\n", text)
    if re.search(r"^Examples.*:$", block, re.MULTILINE)
    for line in re.findall(r"^ +(resprout .*?)(?: {3,}.*)?$", block, re.MULTILINE)
]


def test_there_are_examples() -> None:
    assert {"resprout report", "resprout masks diff 1 2"} <= set(EXAMPLES)


@pytest.mark.parametrize("line", sorted(set(EXAMPLES)))
def test_an_example_of_the_help_works_on_a_finished_demo(line: str, home: Path) -> None:
    """Those that begin a run are not repeated at their full size: their options are looked at."""
    _, *words = shlex.split(line.partition(" > ")[0])
    begins = words[0] in ("demo", "run")
    result = call(*words, *(["--help"] if begins else []))
    assert result.exit_code == 0, result.output


def test_a_second_demo_keeps_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toml(tmp_path / "small.toml", SMALL | {"stream.generator.events": 2_000})
    given = ("demo", "--config", "small.toml", "--json")
    assert call(*given).exit_code == 0
    record = Path("runs/demo/run.json").read_bytes()
    second = call(*given, "--seed", "1")
    assert second.exit_code == 0, second.output
    assert "runs/demo holds a demo, which stays; this one is kept in runs/demo-2" in second.stderr
    assert Path("runs/demo/run.json").read_bytes() == record
    assert json.loads(Path("runs/demo-2/run.json").read_bytes())["settings"]["seed"] == 1
    again = call(*given, "--seed", "1", "--resume")
    assert json.loads(again.stdout.splitlines()[-1])["events_per_second"] == 0
    assert not Path("runs/demo-3").exists()
    fresh = call(*given, "--seed", "3", "--fresh")
    assert "deleting the run in runs/demo" in fresh.stderr
    assert json.loads(Path("runs/demo/run.json").read_bytes())["settings"]["seed"] == 3
    assert Path("runs/demo-2").exists()
