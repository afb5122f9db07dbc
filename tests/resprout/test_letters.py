"""``resprout deadletters``: looking at what did not validate."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.batch import ClickEvent, Reason, encode
from stream.codec import Invalid, columnar_record, dead_letter, end_record, raw_record
from stream.log import Headers, Record
from stream.messages import dump
from stream.schema import FeatureSchema, NumericFeature
from tests.resprout.small import small

SCHEMA = FeatureSchema(numeric=(NumericFeature(name="price"),))
PLAN = RunDefinition(small(), ExternalSource(SCHEMA))
BAD = b'{"event_id": "7", "event_time": 0, "label": 2}'


def call(folder: RunFolder, *more: str) -> Result:
    return CliRunner().invoke(main, ["deadletters", "--state", str(folder.path), *more])


def told(folder: RunFolder) -> dict[str, Any]:
    result = call(folder, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def event(n: int) -> Record:
    return Record(b'{"event_id": %d, "event_time": %d, "label": %d}' % (n, n, n % 3 == 0))


def columnar(n: int) -> Record:
    """Make a record of ten events, of which the fourth is bad."""
    given = [ClickEvent.model_validate_json(event(n + row).value) for row in range(10)]
    batch = encode(given, SCHEMA)
    batch.label[3] = 2
    return columnar_record(batch, SCHEMA)


@pytest.fixture
def written(tmp_path: Path) -> RunFolder:
    """A run whose letters are laid out by hand."""
    folder = RunFolder(tmp_path)
    folder.begin(PLAN)
    return folder


def write(folder: RunFolder, *invalid: Invalid) -> None:
    writer = folder.home.writer(topics.DEAD_LETTERS)
    writer.append([Record(dump(dead_letter(one))) for one in invalid])
    writer.close()


def invalid(raw: bytes, headers: Headers = (), offset: int = 12) -> Invalid:
    return Invalid(0, offset, 3, Reason.LABEL, "label is 2", raw, headers=headers)


def test_what_all_workers_of_a_run_left_out_is_listed_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    line = raw_record(b"1,2", (Reason.NUMERIC, "price is x"), (("file", b"a.csv"), ("line", b"9")))
    odd = Record(b"<click/>", (("kind", b"xml"),))
    mixed = [odd, *map(event, range(480)), columnar(480), line, *map(event, range(9)), Record(BAD)]
    folder.begin(PLAN)
    writer = folder.home.writer(topics.CLICKS)
    writer.append([*mixed, end_record()])
    writer.close()
    assert execute(PLAN, folder.path).finished
    found = told(folder)
    assert found["reasons"] == {"label": 2, "unparsable": 1, "numeric": 1}
    rows = [(one["offset"], one["row"], one["reason"], one["file"]) for one in found["letters"]]
    assert rows == [
        (0, 0, "unparsable", None),
        (481, 3, "label", None),
        (482, 0, "numeric", "a.csv"),
        (492, 0, "label", None),
    ]
    assert found["letters"][3]["text"] == BAD.decode()
    text = call(folder).stdout
    assert "partition 0, offset 0, row 0: unparsable: unknown kind 'xml'; known: json" in text
    assert "a.csv:9 (partition 0, offset 482, row 0): numeric: price is x" in text
    assert text.endswith("4 dead letters: 2 label, 1 unparsable, 1 numeric\n")


def test_a_letter_is_shown_with_its_headers_and_its_bytes_as_text(written: RunFolder) -> None:
    write(written, invalid(b'{\n"label": 2}', (("from", b"site-7"), ("key", b"\xff\tcaf\xc3\xa9"))))
    assert call(written).stdout.splitlines() == [
        "partition 0, offset 12, row 3: label: label is 2",
        "  header  from: site-7",
        "  header  key: \\xff\tcafé",
        "  bytes   {",
        '          "label": 2}',
        "1 dead letter: 1 label",
    ]


def test_as_json_bytes_are_there_as_base64_and_as_text_where_they_are_text(
    written: RunFolder,
) -> None:
    write(written, invalid(BAD, (("from", b"site-7"),)), invalid(b"\xff\x00", offset=13))
    text, binary = told(written)["letters"]
    assert base64.b64decode(text["raw"]) == BAD
    assert text["text"] == BAD.decode()
    assert text["headers"] == [{"name": "from", "value": "c2l0ZS03", "text": "site-7"}]
    assert (binary["raw"], binary["text"], binary["headers"]) == ("/wA=", None, [])


def test_what_somebody_else_sent_cannot_steer_the_terminal(written: RunFolder) -> None:
    odd = "\x1b[2J"
    sent = Invalid(0, 1, 0, Reason.LABEL, odd, b"\x1b[2J", odd, 1, ((odd, b"\x1b[2J\r"),))
    write(written, sent)
    output = call(written).stdout
    assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert r"\x1b[2J:1 (partition 0" in output


def test_a_letter_that_stands_twice_is_shown_once(written: RunFolder) -> None:
    write(written, invalid(BAD), invalid(BAD), invalid(BAD, offset=13))
    assert [one["offset"] for one in told(written)["letters"]] == [12, 13]


def test_no_letter_is_said_too(written: RunFolder) -> None:
    assert call(written).stdout == "no dead letters\n"
    assert told(written) == {"reasons": {}, "letters": []}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    result = call(RunFolder(tmp_path))
    assert result.exit_code == 2
    assert "holds no run; name the state folder of one" in result.stderr
