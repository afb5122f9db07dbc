"""Whose end records end a run, and a run whose clicks hold strays and duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from resprout.folder import RunFolder
from resprout.run import execute
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.codec import end_record
from stream.columnar import predictions_from_bytes
from stream.log import Record, StoredRecord
from stream.messages import DeadLetter, parse
from stream.sources.files import FileSource
from stream.sources.generator import GeneratorSource
from tests.resprout.left import records
from tests.resprout.small import small

SETTINGS = small(stream__generator__events=9_000, stream__generator__codec="json")
GENERATED = RunDefinition.generated(SETTINGS)
SCHEMA = GENERATED.source.schema
DIGEST = SCHEMA.digest
assert isinstance(GENERATED.source, GeneratorSource)
IDENTITY = GENERATED.source.identity.decode()
STRAY = end_record(headers=(("source", b"stranger"),))


def outside(**more: Any) -> RunDefinition:
    return RunDefinition(small(**more), ExternalSource(SCHEMA))


def replayed(folder: Path) -> RunDefinition:
    path = folder / "clicks.jsonl"
    path.write_text("")
    return RunDefinition(small(), FileSource(path, SCHEMA))


@pytest.mark.parametrize(
    ("kind", "ends", "headers", "expected"),
    [
        ("generated", None, {"source": IDENTITY}, True),
        ("generated", None, {"source": "stranger"}, False),
        ("generated", None, {}, False),
        ("generated", None, {"schema": DIGEST, "file": "a.csv"}, False),
        ("replayed", None, {"schema": DIGEST, "file": "a.csv"}, True),
        ("replayed", None, {"schema": "another", "file": "a.csv"}, False),
        ("replayed", None, {}, False),
        ("replayed", None, {"source": IDENTITY}, False),
        ("outside", None, {}, True),
        ("outside", None, {"schema": DIGEST, "file": "a.csv"}, True),
        ("outside", None, {"schema": "another"}, False),
        ("outside", None, {"source": "stranger"}, False),
        ("outside", ["shop"], {"source": "shop"}, True),
        ("outside", ["shop"], {"source": "stranger"}, False),
        ("outside", ["shop"], {}, False),
        ("outside", [], {}, False),
        ("outside", [], {"schema": DIGEST}, False),
    ],
)
def test_an_end_counts_only_from_a_producer_that_the_run_knows(
    kind: str, ends: Sequence[str] | None, headers: dict[str, str], expected: bool, tmp_path: Path
) -> None:
    plan = {
        "generated": lambda: GENERATED,
        "replayed": lambda: replayed(tmp_path),
        "outside": lambda: outside(stream__ends=ends),
    }[kind]()
    plan.check()
    end = end_record(headers=tuple((name, value.encode()) for name, value in headers.items()))
    assert plan.ends_with(StoredRecord(0, 7, 8, end)) is expected


def test_settings_that_are_for_others_clicks_stop_a_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stream.ends is set, and this run knows who writes"):
        RunDefinition.generated(small(stream__ends=["shop"])).check()
    with pytest.raises(ValueError, match=r"stream.deduplicate_events is set, and rows of files"):
        RunDefinition(small(stream__deduplicate_events=9), replayed(tmp_path).source).check()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("generated"))
    assert execute(GENERATED, folder.path).finished
    return folder


def predicted(folder: RunFolder) -> dict[str, list[Any]]:
    """Return what each model predicted, wherever the events stand."""
    found = {}
    for model in SETTINGS.models:
        log = records(folder, topics.predictions(model.name))
        batches = [predictions_from_bytes(one.record.value) for one in log]
        found[model.name] = [(one.begin, one.probability.tobytes()) for one in batches]
    return found


def write(folder: RunFolder, clicks: Iterator[Record]) -> None:
    with closing(folder.home.writer(topics.CLICKS)) as writer:
        writer.append(list(clicks))


def test_a_run_passes_over_strays(
    generated: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They stand first, between two events, last, and after the end."""
    clicks = [one.record for one in records(generated, topics.CLICKS)]
    folder = RunFolder(tmp_path)
    write(
        folder, iter([STRAY, *clicks[:5_000], STRAY, *clicks[5_000:-1], STRAY, clicks[-1], STRAY])
    )
    result = execute(RunDefinition(SETTINGS, ExternalSource(SCHEMA)), folder.path)
    assert (result.finished, result.summary.events) == (True, 9_000)
    assert predicted(folder) == predicted(generated)
    assert sum("is passed over" in message for message in caplog.messages) == 1


def test_the_generator_continues_after_a_stray(generated: RunFolder, tmp_path: Path) -> None:
    clicks = [one.record for one in records(generated, topics.CLICKS)]
    folder = RunFolder(tmp_path)
    write(folder, iter([*clicks[:4_000], STRAY]))
    with closing(folder.home.writer(topics.TRUTH)) as writer:
        writer.append([one.record for one in records(generated, topics.TRUTH)][:4])
    result = execute(GENERATED, folder.path)
    assert (result.finished, result.summary.events) == (True, 9_000)
    assert predicted(folder) == predicted(generated)


def test_a_run_sets_duplicates_aside_and_is_that_without_them(
    generated: RunFolder, tmp_path: Path
) -> None:
    """One in five is sent twice, which does not stop the run: they were asked for."""
    clicks = [one.record for one in records(generated, topics.CLICKS)]
    twice = (clicks[max(0, at - 3)] for at in range(len(clicks)))
    pairs = (
        [one, again] if at % 5 == 3 else [one]
        for at, (one, again) in enumerate(zip(clicks, twice, strict=True))
    )
    folder = RunFolder(tmp_path)
    write(folder, chain.from_iterable(pairs))
    settings = SETTINGS.model_copy(
        update={"stream": SETTINGS.stream.model_copy(update={"deduplicate_events": 100})}
    )
    result = execute(RunDefinition(settings, ExternalSource(SCHEMA)), folder.path)
    assert (result.finished, result.summary.events) == (True, 9_000)
    assert predicted(folder) == predicted(generated)
    letters = [parse(one.record.value) for one in records(folder, topics.DEAD_LETTERS)]
    found = [one for one in letters if isinstance(one, DeadLetter)]
    assert {one.reason for one in found} == {"duplicate"}
    # Of those whose copy stands before the end record.
    assert len(found) == len([at for at in range(len(clicks)) if at % 5 == 3])
