from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pruner import criteria
from resprout.cli import main
from stream.state import lock_folder
from tests.resprout.small import SMALL, write_toml

SCHEMA = """
[[numeric]]
name = "price"
[[categorical]]
name = "site"
buckets = 50
[columns]
event_time = "when"
label = "clicked"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a configuration and clicks with their schema."""
    write_toml(tmp_path / "small.toml", SMALL)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    write_clicks(tmp_path / "clicks.csv")
    return tmp_path


def write_clicks(path: Path, cells: dict[str, str] | None = None) -> None:
    """Clicks that follow the site; ``cells`` replace those of the first line."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["when", "clicked", "price", "site"])
        writer.writeheader()
        for n in range(1_200):
            row = {
                "when": f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}",
                "clicked": str(int(n % 7 < 2)),
                "price": str(n % 3),
                "site": f"s{n % 7}",
            }
            writer.writerow(row | (cells or {} if n == 0 else {}))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(home: Path, *more: str | Path) -> Result:
    """Run the clicks of the folder."""
    clicks = () if "--input" in more else ("--input", home / "clicks.csv")
    given = ("--schema", home / "schema.toml", "--config", home / "small.toml")
    return call("run", *clicks, *given, "--state", home / "state", *more)


def summary(result: Result) -> dict[str, Any]:
    """Return what a run says of itself; one that ended without a sparse model has failed."""
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == (0 if found["sparse"] else 1), result.output
    return found


def came_to_its_end(result: Result) -> bool:
    """Whether nothing is amiss but that the clicks of the folder are few."""
    return result.stderr.splitlines()[-1].startswith("Error: no sparse model: begin anew with")


def test_a_run_ends_with_one_line_of_json(home: Path) -> None:
    result = call(
        "run", "--config", home / "small.toml", "--state", home / "state", "--json", "--seed", "4"
    )
    found = summary(result)
    assert list(found) == [
        "events",
        "call_events",
        "call_seconds",
        "events_per_second",
        "seed",
        "windows",
        "bayes_ce",
        "last_half",
        "rebuilds",
        "rollbacks",
        "dead_letters",
        "dense",
        "sparse",
        "never_rebuilt",
    ]
    assert (found["events"], found["call_events"], found["seed"]) == (16_000, 16_000, 4)
    assert found["never_rebuilt"]["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert found["dense"]["sparsity"] is None
    report = call("report", home / "state")
    assert report.exit_code == 0, report.output
    assert re.search(
        r"Sparsity at the end.*sparse (79|80)\.\d%, never rebuilt (79|80)\.\d%",
        (home / "state" / "report.html").read_text("utf-8"),
        re.DOTALL,
    )
    assert len(result.stdout.splitlines()) == 1


def test_the_demo_ends_with_a_plot_and_what_to_run_next(home: Path) -> None:
    state = home / "demo"
    result = call("demo", "--config", home / "small.toml", "--state", state, "--drift", "abrupt")
    assert result.exit_code == 0, result.output
    page, plot, following = result.stdout.splitlines()[-3:]
    assert page == f"page   resprout evaluate --replay {state}"
    assert plot == f"plot   {state / 'ne-light.svg'} (dark: ne-dark.svg)"
    assert (state / "ne-light.svg").read_bytes().startswith(b"<?xml")
    assert following.startswith("next   resprout run --input YOUR.csv")


def test_the_demo_starts_afresh_unless_it_is_to_go_on(home: Path) -> None:
    given = ("demo", "--config", home / "small.toml", "--state", home / "demo", "--json")
    first = summary(call(*given))
    assert summary(call(*given, "--resume"))["events_per_second"] == 0
    refused = call(*given)
    assert refused.exit_code == 2
    assert "holds a run; --resume continues with it, --fresh deletes it" in refused.stderr
    assert summary(call(*given, "--fresh", "--scale", "0.5"))["events"] == 10_000
    assert first["events"] == 16_000


def test_a_run_shows_a_table(home: Path) -> None:
    result = call("run", "--config", home / "small.toml", "--state", home / "state")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["dense", "sparse", "never", "truth"]
    assert any(line.startswith("first mask decided at 4,000") for line in lines)
    assert "\x1b" not in result.stdout


def test_a_file_is_replayed(home: Path) -> None:
    found = summary(run(home, "--json"))
    assert (found["events"], found["dead_letters"], found["bayes_ce"]) == (1_200, 0, None)


@pytest.mark.parametrize(
    "cells",
    [{"clicked": "2"}, {"price": "nan"}, {"price": "dear"}, {"when": "noon"}],
    ids=["label 2", "NaN", "no number", "no time"],
)
def test_a_line_that_is_no_event_is_a_dead_letter(home: Path, cells: dict[str, str]) -> None:
    write_clicks(home / "clicks.csv", cells)
    found = summary(run(home, "--json"))
    assert (found["events"], found["dead_letters"]) == (1_199, 1)


def test_a_broken_line_of_json_is_a_dead_letter(home: Path) -> None:
    line = '{"when": "2026-01-01", "clicked": 1, "price": 2.5, "site": "a"}\n'
    (home / "clicks.jsonl").write_text(line * 3 + '{"when": \n' + line * 2)
    found = summary(run(home, "--input", home / "clicks.jsonl", "--json"))
    assert (found["events"], found["dead_letters"]) == (5, 1)


def test_wrong_usage_ends_with_two_and_says_the_way_out(home: Path) -> None:
    (home / "cut.parquet").write_bytes(b"PAR1 and no more")
    (home / "odd.toml").write_text(SCHEMA + "\n[extra]\n")
    (home / "column.toml").write_text(SCHEMA.replace("clicked", "click"))
    wrong: list[tuple[tuple[str | Path, ...], str]] = [
        (("--input", home / "none.csv"), "no file"),
        (("--input", home / "cut.parquet"), "cut.parquet"),
        (("--schema", home / "none.toml"), "no schema file"),
        (("--schema", home / "odd.toml"), "unknown key extra"),
        (("--schema", home / "column.toml"), "no column 'click' (label); there: when, clicked"),
        (("--config", home / "none.toml"), "no configuration file"),
        (("--set", "pruner.sparsity"), "'pruner.sparsity' is not NAME=VALUE"),
        (("--set", "pruner.sparcity=1"), "unknown setting pruner.sparcity (argument)"),
        (("--sparsity", "1.2"), "pruner.sparsity = 1.2 (argument)"),
        (("--criterion", "fischer"), "unknown criterion 'fischer'; known: aux, fisher_ema, magn"),
        (("--init-from", home / "none.safetensors"), "none.safetensors"),
    ]
    for given, complaint in wrong:
        result = run(home, *given)
        assert (result.exit_code, complaint in result.stderr) == (2, True), result.output
        assert not (home / "state").exists()


def test_a_file_without_a_schema_is_wrong_usage(home: Path) -> None:
    result = call("run", "--input", home / "clicks.csv")
    assert result.exit_code == 2
    assert "--input and --schema go together" in result.stderr


def test_a_folder_in_use_is_named(home: Path) -> None:
    with closing(lock_folder(home / "state", name="resprout")):
        result = run(home)
    assert result.exit_code == 1
    assert f"state folder {home / 'state'} is in use by resprout" in result.stderr


def test_a_run_goes_on_unless_it_is_to_start_afresh(home: Path) -> None:
    assert came_to_its_end(run(home))
    other = run(home, "--seed", "1")
    assert other.exit_code == 2
    assert "begun otherwise: settings.seed was 0, is 1" in other.stderr
    assert came_to_its_end(run(home, "--seed", "1", "--fresh"))


def test_starting_afresh_deletes_nothing_but_a_run(home: Path) -> None:
    result = run(home, "--state", home, "--fresh")
    assert result.exit_code == 2
    assert "is no part of a run, and is not deleted" in result.stderr
    assert (home / "clicks.csv").exists()


def test_generated_clicks_are_learned_from_later(home: Path) -> None:
    given = ("--config", home / "small.toml", "--state", home / "state")
    written = call("generate", *given)
    assert written.exit_code == 0
    assert written.stdout.startswith("16,000 events written to ")
    assert summary(call("run", *given, "--json"))["events"] == 16_000


def test_replayed_clicks_are_learned_from_later(home: Path) -> None:
    given = ("--input", home / "clicks.csv", "--schema", home / "schema.toml")
    state = ("--state", home / "state")
    assert call("replay", *given, *state).stdout.startswith("1,200 events written to ")
    assert summary(run(home, "--json"))["events"] == 1_200


def test_replay_needs_a_file(home: Path) -> None:
    result = call("replay", "--state", home / "state")
    assert result.exit_code == 2
    assert "name the file to replay" in result.stderr


def test_a_model_is_exported_as_a_state_dict(home: Path) -> None:
    from safetensors.torch import load_file

    run(home)
    where = ("--state", home / "state", "--model", "dense", "--output", home / "out")
    result = call("export", *where, "--dense", "--onnx")
    assert result.exit_code == 0, result.output
    weights, score, onnx, *_ = result.stdout.splitlines()
    path = Path(weights.partition("  ")[0])
    assert weights == f"{path}  {path.stat().st_size:,} bytes"
    assert "top.0.weight" in load_file(path)
    assert score == f"{home / 'out' / 'score.py'}  chances within 0 of torch's"
    assert onnx.startswith(f"{home / 'out' / 'model.onnx'}  logits within ")


def test_a_sparse_export_is_smaller_and_says_where(home: Path) -> None:
    state = ("--state", home / "state")
    call("run", "--config", home / "small.toml", *state)
    sparse = call("export", *state, "--output", home / "sparse")
    dense = call("export", *state, "--output", home / "dense", "--dense", "--no-score")
    assert (sparse.exit_code, dense.exit_code) == (0, 0), sparse.output + dense.output
    sizes = [(home / name / "model.safetensors").stat().st_size for name in ("sparse", "dense")]
    said = re.search(r"^ *all +\S+ of \S+ \([\d.]+%\) +([\d,]+) of ([\d,]+) ", sparse.stdout, re.M)
    assert said is not None
    left, whole = (int(one.replace(",", "")) for one in said.groups())
    # Beside the tensors, a file has a header, which is longer for more of them.
    headers = [
        int.from_bytes((home / n / "model.safetensors").read_bytes()[:8], "little") + 8
        for n in ("sparse", "dense")
    ]
    assert [size - header for size, header in zip(sizes, headers, strict=True)] == [left, whole]
    layer = re.search(r"^top\.0\.weight +16 × \d+ +([\d,]+) of ([\d,]+)", sparse.stdout, re.M)
    assert layer is not None
    assert not (home / "dense" / "score.py").exists()


@pytest.mark.parametrize(
    ("given", "code", "complaint"),
    [
        ((), 2, "no run in runs; name the state folder of one"),
        (("--state", "none"), 2, "none holds no run"),
        (
            ("--state", "STATE"),
            2,
            "no snapshot of 'sparse' yet: the first mask is cut at 4,000 events "
            "(pruner.first_mask_events), and the model begins when it is in force, at 6,000",
        ),
    ],
)
def test_what_cannot_be_exported(
    home: Path,
    given: tuple[str, ...],
    code: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home)
    run(home)
    where = [str(home / "state") if word == "STATE" else word for word in given]
    result = call("export", *where, "--output", home / "out")
    assert (result.exit_code, complaint in result.stderr) == (code, True), result.output


def test_only_an_earlier_export_is_replaced(home: Path) -> None:
    """Nobody's files are lost: the folder is refused before anything is written."""
    run(home)
    where = ("export", "--state", home / "state", "--model", "dense", "--output")
    mine = home / "mine"
    mine.mkdir()
    for name in ("README.md", "encode.py", "notes.txt"):
        (mine / name).write_text(f"my {name}")
    refused = call(*where, mine)
    assert (
        refused.exit_code,
        f"{mine} holds 'README.md' and 2 more, and no" in refused.stderr,
    ) == (
        2,
        True,
    )
    assert "name another folder, or write into it with --force, which replaces READ" in (
        refused.stderr
    )
    assert {path.read_text() for path in mine.iterdir()} == {
        "my README.md",
        "my encode.py",
        "my notes.txt",
    }
    assert "is a file; name a folder" in call(*where, mine / "notes.txt").stderr
    forced = call(*where, mine, "--force")
    assert forced.exit_code == 0, forced.output
    assert (mine / "README.md").read_text().startswith("---")
    assert (mine / "encode.py").read_text() == "my encode.py"
    again = call(*where, mine, "--no-score")
    assert again.exit_code == 0, again.output
    assert again.stderr == f"replacing the export in {mine}\n"
    left = {path.name for path in mine.iterdir()}
    assert left == {"README.md", "config.json", "model.safetensors", "notes.txt"}


def test_the_configuration_is_toml_with_origins(home: Path) -> None:
    result = call("config", "--config", home / "small.toml", "--sparsity", "0.9")
    assert result.exit_code == 0
    found = tomllib.loads(result.stdout)
    assert found["pruner"]["sparsity"] == 0.9
    assert "sparsity = 0.9  # argument" in result.stdout
    assert f"rebuild_events = 2000  # {home / 'small.toml'}" in result.stdout
    assert "# budget = null  # default" in result.stdout


def test_the_configuration_printed_is_the_configuration_read(home: Path) -> None:
    first = call("config", "--config", home / "small.toml")
    (home / "printed.toml").write_text(first.stdout)
    second = call("config", "--config", home / "printed.toml")
    assert tomllib.loads(second.stdout) == tomllib.loads(first.stdout)


def test_criteria_are_listed_and_checked() -> None:
    assert "aux             resprout" in call("criteria", "list").stdout
    checked = call("criteria", "check", "magnitude")
    assert checked.exit_code == 0
    assert all(line.startswith("ok  ") for line in checked.stdout.splitlines())
    assert call("criteria", "check", "fischer").exit_code == 2


def test_a_criterion_that_breaks_its_promises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(criteria.BUILT_IN, "broken", lambda layer: layer.weight * float("nan"))
    result = call("criteria", "check", "broken")
    assert result.exit_code == 1
    assert any(line.startswith("FAIL  finite: ") for line in result.stdout.splitlines())
    assert "broken failed" in result.stderr


def test_an_unknown_variable_is_wrong_usage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPROUT_SED", "9")
    result = run(home)
    assert result.exit_code == 2
    assert "unknown environment variable RESPROUT_SED" in result.stderr


def test_ctrl_c_finishes_the_batch_and_the_same_command_goes_on(home: Path) -> None:
    """A run of a million events, interrupted once its first progress is in the log."""
    given = ("run", "--config", f"{home / 'small.toml'}", "--state", f"{home / 'state'}")
    endless = ("--set", "stream.generator.events=1000000")
    command = [sys.executable, "-m", "resprout", *given, *endless]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = home / "state" / "checkpoints" / "dense"
    while not log.exists():
        assert process.poll() is None
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "finishing the batch; once more leaves now" in errors
    assert "continues from there" in errors
    assert "Error" not in errors


def test_a_file_is_followed_until_ctrl_c_which_is_the_normal_end(home: Path) -> None:
    """Exit code 0, the closing table, and how to continue."""
    windows = ["--set", "evaluator.checkpoint_events=500", "--set", "evaluator.windows=[500,50000]"]
    given = ["--input", f"{home / 'clicks.csv'}", "--schema", f"{home / 'schema.toml'}"]
    command = [sys.executable, "-m", "resprout", "run", *given, "--state", f"{home / 'state'}"]
    process = subprocess.Popen(
        [*command, "--follow", *windows],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RESPROUT_SERVE__PORT": "0"},
    )
    checkpoint = home / "state" / "checkpoints" / "evaluator"
    while not (checkpoint.exists() and any(checkpoint.iterdir())):
        assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert re.search(r"^dense +\d\.\d{4}", said, re.MULTILINE)
    last = errors.splitlines()[-1]
    assert last.startswith("stopped after ")
    assert last.endswith(f"the same command continues from there ({home / 'state'})")


def test_appending_nothing_is_said_and_nothing_is_said_twice(home: Path) -> None:
    end = ("--json", "--append")
    first = summary(run(home, "--json"))
    nothing = run(home, *end)
    assert "nothing new: the clicks end where they had ended already" in nothing.stderr
    found = summary(nothing)
    assert (found["events"], found["call_events"]) == (first["events"], 0) == (1_200, 0)
    rows = (home / "clicks.csv").read_text().splitlines(keepends=True)
    with (home / "clicks.csv").open("a") as file:
        file.writelines(rows[1:601])
    more = run(home, *end)
    said = more.stderr.splitlines()
    assert [line for line in said if said.count(line) > 1] == []
    assert "dense continues after 1,200 events" in said
    assert sum(line.startswith("the page is at") for line in said) == 1
    assert "nothing new" not in more.stderr
    found = summary(more)
    assert (found["events"], found["call_events"]) == (1_800, 600)
    assert found["events_per_second"] == pytest.approx(600 / found["call_seconds"])


def test_a_run_of_generated_clicks_says_so_first(home: Path) -> None:
    given = ("run", "--config", home / "small.toml", "--state", home / "state")
    first = call(*given).stderr.splitlines()[0]
    assert first == (
        "generated clicks, 16,000 events (stream.generator.events), drift: none; the first mask is "
        "cut at 4,000 and in force from 6,000 on. Clicks of your own: --input FILE --schema TOML; "
        "`resprout schema infer FILE` proposes a schema"
    )
    assert "generated clicks" not in call(*given).stderr
    assert "generated clicks" not in run(home, "--state", home / "other").stderr


def test_a_demo_that_is_too_short_for_a_rebuild_says_so_and_which_scale_is_not(home: Path) -> None:
    """Cut at 4,000, in force at 6,000; decided at 8,000 and in force at 10,000, of 16,000."""
    given = ("demo", "--config", home / "small.toml", "--json", "--fresh", "--state", home / "demo")
    short = call(*given, "--scale", "0.3")
    assert (
        "7,500 events are too few for a rebuild, and show the first mask at most: none can take "
        "over before 10,000; --scale 0.5 or more has room for one"
    ) in short.stderr
    remark = "no rebuild: the input ended at 7,500 events, and none can take over before 10,000"
    assert remark in short.stderr
    assert [one["reason"] for one in summary(short)["rebuilds"]] == ["first"]
    longer = call(*given, "--scale", "0.6")
    assert "too few for a rebuild" not in longer.stderr
    assert len(summary(longer)["rebuilds"]) > 1


def test_a_file_that_has_changed_is_not_read_on(home: Path) -> None:
    assert came_to_its_end(run(home))
    clicks = home / "clicks.csv"
    clicks.write_text(clicks.read_text() + clicks.read_text().splitlines()[-1] + "\n")
    result = run(home)
    assert result.exit_code == 1
    assert "clicks.csv has changed since the clicks log was begun with it" in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--set", "learner.device=abacus"), "learner.device 'abacus' cannot be used here"),
        (("--set", "learner.rate=1e30"), "not finite"),
    ],
)
def test_what_torch_cannot_do_is_told_in_a_line(
    home: Path, words: tuple[str, ...], complaint: str
) -> None:
    result = run(home, *words, "--set", "learner.checkpoint_events=500")
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert complaint in result.stderr


def test_options_of_a_criterion_are_an_object_of_known_names() -> None:
    assert "it must be a JSON object" in call("criteria", "check", "aux", "--options", "[1]").stderr
    wrong = call("criteria", "check", "aux", "--options", '{"q": 1}')
    assert wrong.exit_code == 2
    assert wrong.stderr.splitlines()[-1] == "Error: q: Extra inputs are not permitted"
