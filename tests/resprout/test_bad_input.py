"""What is wrong with an input, as a person at the command line meets it."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.settings import load
from resprout.spec import RunDefinition
from stream import topics
from stream.messages import DeadLetter, parse
from stream.schema import load_schema
from stream.sources.files import FileSource
from stream.state import lock_folder
from tests.resprout.left import records
from tests.resprout.small import SMALL, write_toml
from tests.resprout.victim import Buried, How, Life, lived

FEATURES = """
[[numeric]]
name = "price"
[[categorical]]
name = "site"
buckets = 50
"""
SCHEMA = f"""{FEATURES}
[columns]
event_time = "when"
label = "clicked"
"""
GOOD = "2026-01-01T00:00:00,1,2.5,a"
EVENT = (
    '{"event_id": "7", "event_time": "2026-01-01T00:00:00Z", "label": 1, "numeric": {"price": 2.5}}'
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_toml(tmp_path / "small.toml", SMALL)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "events.toml").write_text(FEATURES)
    write(tmp_path / "clicks.csv", [GOOD] * 10)
    return tmp_path


def write(path: Path, lines: list[str]) -> Path:
    head = ["when,clicked,price,site"] if path.suffix == ".csv" else []
    path.write_text("\n".join([*head, *lines, ""]))
    return path


def run(home: Path, *more: str | Path, schema: str = "schema.toml") -> Result:
    """Run the clicks of the folder; what comes later on a command line takes precedence."""
    given = ["run", *(() if "--input" in more else ("--input", home / "clicks.csv"))]
    given += ["--schema", home / schema]
    given += ["--config", home / "small.toml", "--state", home / "state", *more]
    return CliRunner().invoke(main, [str(word) for word in given])


def came_to_its_end(result: Result) -> bool:
    """Whether nothing is amiss but that the clicks of the folder are few."""
    return result.stderr.splitlines()[-1].startswith("Error: no sparse model: ")


def letters(home: Path) -> list[DeadLetter]:
    """Return whatever stands in the log of dead letters, repeats too."""
    stored = records(RunFolder(home / "state"), topics.DEAD_LETTERS)
    return [m for one in stored if isinstance(m := parse(one.record.value), DeadLetter)]


def raw(letter: DeadLetter) -> str:
    return base64.b64decode(letter.raw).decode()


BAD_ROWS = {
    "label": "2026-01-01T00:00:00,2,2.5,a",
    "numeric": "2026-01-01T00:00:00,1,nan,a",
    "time": "noon,1,2.5,a",
    "unparsable": "2026-01-01T00:00:00,1,2.5,a,and more",
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_row_that_is_no_event_is_kept_with_its_reason_its_line_and_its_bytes(
    home: Path, reason: str
) -> None:
    write(home / "clicks.csv", [GOOD, GOOD, BAD_ROWS[reason], GOOD])
    result = run(home)
    assert came_to_its_end(result), result.output
    (letter,) = letters(home)
    assert (letter.reason, letter.file, letter.line) == (reason, "clicks.csv", 4)
    assert raw(letter) == BAD_ROWS[reason]
    assert letter.detail


BAD_EVENTS = {
    "unparsable": '{"event_id": "7", "event_time": ',
    "label": EVENT.replace('"label": 1', '"label": 2'),
    "numeric": EVENT.replace("2.5", "NaN"),
    "unknown_feature": EVENT.replace("price", "prize"),
}


@pytest.mark.parametrize("reason", BAD_EVENTS)
def test_a_line_of_json_that_is_no_event_is_kept_in_the_same_way(home: Path, reason: str) -> None:
    events = write(home / "clicks.jsonl", [EVENT, BAD_EVENTS[reason], EVENT])
    result = run(home, "--input", events, schema="events.toml")
    assert came_to_its_end(result), result.output
    (letter,) = letters(home)
    assert (letter.reason, letter.file, letter.line) == (reason, "clicks.jsonl", 2)
    assert raw(letter) == BAD_EVENTS[reason]


def test_a_dead_letter_is_written_once_however_often_the_run_is_killed(home: Path) -> None:
    """Killed right after it was written, at the next writing to disk, and among threads."""
    bad = [5, 400, 1_100, 1_101, 1_700, 2_300, 2_499]
    lines = [f"{row},2,2.5,a" if row in bad else GOOD for row in range(2_500)]
    path = write(home / "clicks.csv", lines)
    schema = load_schema(home / "schema.toml")
    settings = load(("schema", schema.settings), home / "small.toml").settings
    plan = RunDefinition(settings, FileSource(path, schema))
    hows: tuple[How, ...] = ("turns", "disk", "threads")
    for how in hows:
        assert lived(plan, home / "state", Life(Buried(), how))
        assert letters(home)
    result = run(home)
    assert came_to_its_end(result), result.output
    assert [letter.line for letter in letters(home)] == [row + 2 for row in bad]
    assert [raw(letter) for letter in letters(home)] == [lines[row] for row in bad]


def cut_parquet(home: Path) -> Path:
    """Half of a file."""
    path = home / "cut.parquet"
    table = pa.table({name: ["1"] * 1_000 for name in ("when", "clicked", "price", "site")})
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_a_truncated_parquet_file_is_refused_before_anything_starts(home: Path) -> None:
    result = run(home, "--input", cut_parquet(home))
    assert result.exit_code == 2
    assert f"{home / 'cut.parquet'} is not a whole Parquet file: " in result.stderr
    assert "write it anew" in result.stderr
    assert not (home / "state").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--input", "none.csv"), "no file HOME/none.csv to replay; check its name"),
        (
            ("--schema", "column.toml"),
            "HOME/clicks.csv has no column 'click' (label); there: when, clicked, price, site; "
            "the schema's [columns] table can name another",
        ),
        (("--schema", "key.toml"), "HOME/key.toml: unknown key numeric.0.mena"),
        (("--sparsity", "1.2"), "pruner.sparsity = 1.2 (argument): Input should be less than 1"),
        (
            ("--criterion", "fischer"),
            "unknown criterion 'fischer'; known: aux, fisher_ema, magnitude",
        ),
    ],
    ids=["missing file", "wrong column", "unknown key", "sparsity", "criterion"],
)
def test_wrong_usage_is_told_with_the_thing_its_value_and_the_way_out(
    home: Path, more: tuple[str, str], complaint: str
) -> None:
    (home / "column.toml").write_text(SCHEMA.replace("clicked", "click"))
    (home / "key.toml").write_text(SCHEMA.replace('"price"', '"price"\nmena = 1', 1))
    name, value = more
    result = run(home, name, home / value if "." in value and name != "--sparsity" else value)
    assert result.exit_code == 2
    assert complaint.replace("HOME", str(home)) in result.stderr
    assert not (home / "state").exists()


def hold(state: Path, end: Connection) -> None:
    """Use a state folder until told to stop."""
    with closing(lock_folder(state, name="resprout")):
        end.send("held")
        end.recv()


def test_a_second_learner_on_the_same_state_folder_is_told_who_has_it(home: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(home / "state", theirs))
    process.start()
    assert ours.recv() == "held"
    result = run(home)
    ours.send("stop")
    process.join()
    assert result.exit_code == 1
    assert (
        f"state folder {home / 'state'} is in use by resprout (process {process.pid}); stop it, or "
        "choose another folder"
    ) in result.stderr
    process.close()
    assert came_to_its_end(run(home))


def test_a_run_of_too_many_invalid_events_stops_with_the_commonest_reasons(home: Path) -> None:
    lines = [GOOD] * 3_000
    for row in range(100, 3_000, 60):
        lines[row] = BAD_ROWS["label"]
    lines[200], lines[201] = BAD_ROWS["time"], BAD_ROWS["unparsable"]
    write(home / "clicks.csv", lines)
    stopped = run(home)
    assert stopped.exit_code == 1, stopped.output
    assert "more than stream.max_invalid_ratio = 0.01 lets pass: " in stopped.stderr
    assert " label (clicks.csv:102: clicked = '2': Input should be 0 or 1" in stopped.stderr
    assert "1 time (clicks.csv:202: when = 'noon'" in stopped.stderr
    assert "1 unparsable (clicks.csv:203: 5 cells under 4 columns)" in stopped.stderr
    again = run(home)
    assert again.exit_code == 1, again.output
    more = ("--set", "stream.max_invalid_ratio=0.05", "--json")
    result = run(home, *more)
    assert came_to_its_end(result), result.output
    continued = json.loads(result.stdout.splitlines()[-1])
    assert len(letters(home)) == continued["dead_letters"] == 51
    (home / "state").rename(home / "stopped")
    afresh = json.loads(run(home, *more).stdout.splitlines()[-1])
    for timed in ("call_events", "call_seconds", "events_per_second"):
        del continued[timed], afresh[timed]
    assert continued == afresh


@pytest.mark.parametrize(
    ("rows", "bad", "stops"), [(900, 90, False), (1_990, 19, False), (3_000, 3_000, True)]
)
def test_a_run_of_few_events_or_few_that_are_invalid_goes_on(
    home: Path, rows: int, bad: int, stops: bool
) -> None:
    write(home / "clicks.csv", [GOOD] * (rows - bad) + [BAD_ROWS["label"]] * bad)
    result = run(home)
    assert ("max_invalid_ratio" in result.stderr) == stops
    assert stops or came_to_its_end(result), result.output


def test_a_schema_is_proposed_checked_and_run(home: Path) -> None:
    """The first afternoon: a file that nobody has seen before."""
    lines = [
        f"{n % 3 // 2};{n * 37 % 101 / 4};{'NA' if n % 9 == 0 else n % 7}" for n in range(2_000)
    ]
    (home / "day_2.txt").write_text("\n".join(lines))
    (home / "day_10.txt").write_text("\n".join([*lines[:990], "1;x;2", "0;1"]))
    both = str(home / "day_*.txt")
    runner = CliRunner()
    names = ("--names", "click,price,kind")
    found = runner.invoke(main, ["schema", "infer", both, *names])
    assert found.exit_code == 0, found.output
    (home / "own.toml").write_text(found.stdout)
    for read, code in (("2990", 0), ("100000", 0)):
        checked = runner.invoke(
            main, ["schema", "check", both, "--schema", str(home / "own.toml"), "--rows", read]
        )
        assert checked.exit_code == code, checked.output
    assert "99.93% of 2,992 rows fit: 2,990 events" in checked.stdout
    assert "1 row: unparsable: 2 cells under 3 columns" in checked.stdout
    assert "first at day_10.txt:991: 1;x;2" in checked.stdout
    small = [str(home / "small.toml"), "--state", str(home / "own")]
    ran = runner.invoke(
        main,
        ["run", "--input", both, "--schema", str(home / "own.toml"), "--config", *small, "--json"],
    )
    assert came_to_its_end(ran), ran.output
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert (summary["events"], summary["dead_letters"]) == (2_990, 2)


def test_a_schema_that_few_rows_fit_is_told_with_exit_code_1(home: Path) -> None:
    write(home / "clicks.csv", [GOOD, BAD_ROWS["label"], BAD_ROWS["time"]])
    words = ["schema", "check", str(home / "clicks.csv"), "--schema", str(home / "schema.toml")]
    checked = CliRunner().invoke(main, words)
    assert checked.exit_code == 1
    assert "33.33% of 3 rows fit: 1 event\n" in checked.stdout
    assert (
        "66.67% of the rows do not fit, more than stream.max_invalid_ratio = 0.01" in checked.stderr
    )
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout.splitlines()[0])
    assert [one["line"] for one in found["misfits"]] == [3, 4]
    assert CliRunner().invoke(main, words[:3]).exit_code == 2


def test_what_does_not_fit_is_counted_value_by_value(home: Path) -> None:
    rows = [GOOD] * 20_000
    for at, price in ((7, "NA"), (9, "abc"), (12, "NA"), (30, "1e30"), (31, "2e30")):
        rows[at] = GOOD.replace("2.5", price)
    write(home / "clicks.csv", rows)
    words = ["schema", "check", str(home / "clicks.csv"), "--schema", str(home / "schema.toml")]
    checked = CliRunner().invoke(main, words)
    assert checked.exit_code == 0, checked.output
    lines = checked.stdout.splitlines()
    assert lines[0] == "99.98% of 20,000 rows fit: 19,995 events"
    assert [line for line in lines if " rows: " in line] == [
        "3 rows: numeric: price = 'NA': Input should be a valid number, unable to parse string as "
        "a number (`missing` under [columns] names the words for a missing value)",
        "2 rows: numeric: price is 1e+30, 1e+30 once standardised; the largest size that the "
        "schema takes is 1e+06",
    ]
    assert "  'NA' in 2 rows, 'abc' in 1 row" in lines
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout.splitlines()[0])
    assert [one["values"] for one in found["misfits"]] == [{"'NA'": 2, "'abc'": 1}, {}]


def test_bytes_that_are_not_utf8_are_shown_in_one_way(home: Path) -> None:
    """In the proposed schema, in what does not fit, in dead letters and in errors."""
    row = b"2026-01-01T00:00:00,1,2.5,caf\xe9"
    number = row.replace(b"2.5", b"\xff5").replace(b"caf\xe9", "né\u202e".encode())
    path = home / os.fsdecode(b"clicks-\xfe.csv")
    write(path, [GOOD] * 400)
    path.write_bytes(path.read_bytes() + row + b"\n" + number + b"\n")
    given = [str(path), "--schema", str(home / "schema.toml")]
    call = CliRunner().invoke
    checked = call(main, ["schema", "check", *given]).stdout
    proposed = call(main, ["schema", "infer", str(path)]).stdout
    state = ("--config", str(home / "small.toml"), "--state", str(home / "state"))
    ran = call(main, ["run", "--input", *given, *state]).output
    listed = call(main, ["deadletters", *state[2:]]).stdout
    path.unlink()
    gone = call(main, ["run", "--input", *given]).stderr
    wrong = "site is no text in UTF-8: it has \\xe9 at character 4"
    for said, expected in (
        (checked, (wrong, "clicks-\\xfe.csv:402: 2026-01-01T00:00:00,1,2.5,caf\\xe9\n")),
        (checked, ("price = '\\xff5': ", ",\\xff5,né\\u202e\n")),
        (proposed, ("clicks-\\xfe.csv", "no numbers: 1, such as \\xff5", "caf\\xe9")),
        (ran, ("the first at clicks-\\xfe.csv:402",)),
        (listed, (wrong, "clicks-\\xfe.csv:402 (partition 0, ")),
        (listed, ("  bytes   2026-01-01T00:00:00,1,2.5,caf\\xe9\n", ",\\xff5,né\\u202e\n")),
        (gone, ("clicks-\\xfe.csv to replay",)),
    ):
        for one in expected:
            assert one in said
        assert "udc" not in said


def test_a_share_of_nearly_all_rows_is_not_all(home: Path) -> None:
    write(home / "clicks.csv", [*[GOOD] * 19_999, BAD_ROWS["label"]])
    words = ["schema", "check", str(home / "clicks.csv"), "--schema", str(home / "schema.toml")]
    first = CliRunner().invoke(main, words).stdout.splitlines()[0]
    assert first == "more than 99.99% of 20,000 rows fit: 19,999 events"


def test_standard_input_is_an_input(home: Path) -> None:
    text = "when,clicked,price,site\n" + f"{GOOD}\n" * 30
    given = ["run", "--input", "-", "--schema", str(home / "schema.toml"), "--json"]
    given += ["--config", str(home / "small.toml"), "--state", str(home / "state")]
    result = CliRunner().invoke(main, given, input=text)
    assert came_to_its_end(result), result.output
    assert json.loads(result.stdout.splitlines()[-1])["events"] == 30
