"""Records that are no events: one dead letter each, whatever they are and wherever they stand."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from stream.batch import ClickBatch, Reason
from stream.codec import columnar_record, end_record, raw_record
from stream.columnar import to_bytes
from stream.log import Record
from stream.messages import DeadLetter
from stream.schema import FeatureSchema, NumericFeature
from stream.topics import CLICKS, DEAD_LETTERS
from tests.evaluator.stage import SCHEMA, Stage, chance, click_batch, drawn, run, with_models

OTHER = FeatureSchema(numeric=(NumericFeature(name="y"),))
LABEL, WEIGHT = drawn(60)
KIND = (("kind", b"columnar"),)
FOREIGN: dict[str, Record] = {
    "unknown kind": Record(b"<click/>", (("kind", b"xml"), ("from", b"\xff"))),
    "garbage": Record(b"\x00\xff\x00"),
    "nothing": Record(b""),
    "half an event": Record(b'{"event_id": "a", '),
    "two events": Record(b'{"event_id": "a", "event_time": 0, "label": 1}' * 2),
    "an odd label": Record(b'{"event_id": "a", "event_time": 0, "label": 2}'),
    "an unknown feature": Record(
        b'{"event_id": "a", "event_time": 0, "label": 1, "numeric": {"z": 1}}'
    ),
    "no Arrow": Record(b"ARROW1", KIND),
    "half of Arrow": Record(to_bytes(click_batch(LABEL, WEIGHT), SCHEMA.digest)[:-40], KIND),
    "JSON called columnar": Record(b'{"event_id": "a", "event_time": 0, "label": 1}', KIND),
    "another schema": columnar_record(click_batch(LABEL, WEIGHT), OTHER),
    "a line of a file": raw_record(b"1,2", (Reason.LABEL, "label is 2"), (("line", b"7"),)),
}
REASONS = {
    "an odd label": "label",
    "an unknown feature": "unknown_feature",
    "another schema": "schema",
    "a line of a file": "label",
}


def events(begin: int, end: int) -> ClickBatch:
    return click_batch(LABEL[begin:end], WEIGHT[begin:end])


def event(number: int, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    """Make a record of an event as a stranger sends it, mostly without a header."""
    event = {
        "event_id": number,
        "event_time": number,
        "label": int(LABEL[number]),
        "weight": WEIGHT[number],
    }
    return Record(json.dumps(event).encode(), headers)


def with_bad_rows() -> Record:
    """Make a columnar record of the events 25 to 39, with a bad row before, between and behind."""
    batch = ClickBatch.concat([events(25, 26), events(25, 33), events(33, 34), events(33, 41)])
    batch.label[0], batch.label[9], batch.weight[17] = 2, -1, 0
    return columnar_record(batch, SCHEMA, (("from", b"site-7"),))


def laid_out(folder: Path, *foreign: Record) -> Stage:
    """Lay out 60 events in both codecs: between them, before and behind them foreign records."""
    stage = with_models(Stage(folder), ["dense"])
    stage.append(CLICKS, *foreign, *(event(n) for n in range(10)))
    stage.append(CLICKS, *foreign, *(event(n, (("kind", b"json"),)) for n in range(10, 15)))
    stage.append(CLICKS, *foreign, columnar_record(events(15, 25), SCHEMA), *foreign)
    stage.append(CLICKS, with_bad_rows(), *foreign, columnar_record(events(40, 50), SCHEMA))
    stage.append(CLICKS, *foreign, *(event(n) for n in range(50, 60)), *foreign, end_record())
    stage.predict("dense", chance("dense", 60))
    return stage


def letters(stage: Stage) -> list[DeadLetter]:
    return [one for one in stage.messages(DEAD_LETTERS) if isinstance(one, DeadLetter)]


def expected(stage: Stage) -> list[tuple[int, int, bytes | None]]:
    """Tell offset, row and bytes of all that is to become a letter; None for rows."""
    reader = stage.home.reader(CLICKS)
    stored = reader.read(0, 0, 1_000)[:-1]
    reader.close()
    foreign = [one.value for one in FOREIGN.values()]
    found: list[tuple[int, int, bytes | None]] = []
    for one in stored:
        if one.record.value in foreign:
            found.append((one.offset, 0, one.record.value))
        if one.record.value == with_bad_rows().value:
            found += [(one.offset, row, None) for row in (0, 9, 17)]
    return found


def check(stage: Stage) -> None:
    found = letters(stage)
    wanted = expected(stage)
    assert [(one.offset, one.row) for one in found] == [(offset, row) for offset, row, _ in wanted]
    for letter, (_, _, value) in zip(found, wanted, strict=True):
        raw = base64.b64decode(letter.raw)
        if value is None:
            assert json.loads(raw).keys() >= {"label", "weight", "time_ms"}
        else:
            assert raw == value


@pytest.mark.parametrize("name", FOREIGN)
def test_a_record_of_neither_kind_is_kept_with_reason_headers_and_bytes(
    tmp_path: Path, name: str
) -> None:
    record = FOREIGN[name]
    stage = laid_out(tmp_path, record)
    steps = run(stage.evaluator())
    assert (steps[-1].done, steps[-1].count) == (True, 60)
    found = [one for one in letters(stage) if ("from", "c2l0ZS03") not in one.headers]
    assert len(found) == 7
    for letter in found:
        assert letter.reason == REASONS.get(name, "unparsable")
        assert letter.detail
        assert base64.b64decode(letter.raw) == record.value
        headers = [(name, base64.b64decode(value)) for name, value in letter.headers]
        assert headers == list(record.headers)


def test_the_bad_rows_of_a_columnar_record_are_kept_alone(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    run(stage.evaluator())
    found = [(one.row, one.reason) for one in letters(stage)]
    assert found == [(0, "label"), (9, "label"), (17, "weight")]
    names = {name: base64.b64decode(value) for name, value in letters(stage)[0].headers}
    assert names == {"kind": b"columnar", "from": b"site-7"}


def test_in_a_log_of_both_codecs_every_foreign_record_becomes_one_letter(tmp_path: Path) -> None:
    stage = laid_out(tmp_path, *FOREIGN.values())
    assert run(stage.evaluator())[-1].count == 60
    assert len(letters(stage)) == 7 * len(FOREIGN) + 3
    check(stage)


def test_closed_after_every_step_the_evaluator_writes_each_letter_once(tmp_path: Path) -> None:
    stage = laid_out(tmp_path, *FOREIGN.values())
    done = False
    while not done:
        evaluator = stage.evaluator()
        done = evaluator.step().done
        evaluator.close()
    check(stage)


def test_killed_after_every_step_the_evaluator_writes_each_letter_once(tmp_path: Path) -> None:
    """It never checkpoints: each life begins anew, and gets one step further than the last."""
    stage = laid_out(tmp_path / "run", *FOREIGN.values())
    life, done = 0, False
    while not done:
        life += 1
        killed = stage.moved(tmp_path / f"life-{life}")
        shutil.copytree(stage.folder, killed.folder)
        evaluator = killed.evaluator()
        done = [evaluator.step() for _ in range(life)][-1].done
        shutil.copytree(
            killed.folder / "logs" / DEAD_LETTERS,
            stage.folder / "logs" / DEAD_LETTERS,
            dirs_exist_ok=True,
        )
    assert life > 6
    check(stage)
