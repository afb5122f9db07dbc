from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream import topics
from stream.config import StreamConfig, make_source, open_logs
from stream.log import LogError
from stream.log.local import LocalLogStore
from stream.sources.generator import GeneratorSource
from tests.stream.log_contract import CHECKS, Check, everything, numbered, records

PACKAGE = """
from dataclasses import dataclass, field
from stream.codec import columnar_record, end_record
from stream.log.local import LocalLogStore
from stream.topics import CLICKS
from tests.stream.clicklog import SCHEMA, batch

def elsewhere(config, folder, worker, writable):
    return LocalLogStore(folder / config.home_options["room"], writable)

@dataclass
class Sevens:
    events: int
    seed: int
    schema = SCHEMA

    def attach(self, home):
        return Feed(home.writer(CLICKS), self.events, self.seed)

@dataclass
class Feed:
    clicks: object
    events: int
    seed: int

    def step(self):
        if not self.events:
            return None
        events, self.events = self.events, 0
        self.clicks.append([columnar_record(batch(self.seed, events), SCHEMA), end_record()])
        return events

    def flush(self):
        self.clicks.flush()

    def close(self):
        self.clicks.close()

def sevens(options, seed):
    return Sevens(options["events"], seed)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that offers a home of logs and a source of clicks."""
    folder = tmp_path / "installed"
    about = folder / "their_stream-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "their_stream.py").write_text(PACKAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-stream\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[resprout.logs]\nelsewhere = their_stream:elsewhere\n"
        "[resprout.sources]\nsevens = their_stream:sevens\n"
    )
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_home_of_another_package_is_opened_by_name(check: Check, tmp_path: Path) -> None:
    config = StreamConfig(home="elsewhere", home_options={"room": "attic"})
    with open_logs(config, tmp_path / "logs") as logs:
        assert logs.describe() == str(tmp_path / "logs" / "attic")
        check(logs)


@pytest.mark.usefixtures("installed")
def test_a_source_of_another_package_is_made_by_name(tmp_path: Path) -> None:
    source = make_source(StreamConfig(source="sevens", source_options={"events": 7}), seed=3)
    store = LocalLogStore(tmp_path)
    with closing(source.attach(store)) as feed:
        assert [feed.step(), feed.step()] == [7, None]
    assert len(everything(store.reader(topics.CLICKS))) == 2


def test_the_generator_is_made_of_its_settings_and_the_seed() -> None:
    config = StreamConfig.model_validate({"generator": {"events": 1_000}})
    assert make_source(config, seed=4) == GeneratorSource(config.generator, 4)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"home": "kafak"}, "unknown home of logs 'kafak'; known: embedded, kafka"),
        ({"source": "genrator"}, "unknown source 'genrator'; known: generator"),
        ({"home_options": {"x": 1}}, "home_options are not for 'embedded'; remove them"),
        ({"source_options": {"x": 1}}, "source_options are not for 'generator'; remove them"),
        ({"begin": "yesterday"}, "it is neither a time, such as"),
        ({"retention": {"clicks": "some"}}, "Input should be 'needed' or 'all'"),
        ({"retention": {"progress_records": 0}}, "Input should be greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        StreamConfig.model_validate(given)


def test_logs_that_are_only_looked_at_are_not_made(tmp_path: Path) -> None:
    with open_logs(StreamConfig(), tmp_path, writable=False) as logs:
        assert not logs.writable
        with pytest.raises(LogError, match="holds no log 'clicks'"):
            logs.reader("clicks")
    with open_logs(StreamConfig(), tmp_path) as logs, closing(logs.writer("clicks")) as writer:
        writer.append(numbered(1))
    with open_logs(StreamConfig(), tmp_path, writable=False) as logs:
        assert records(everything(logs.reader("clicks"))) == numbered(1)
