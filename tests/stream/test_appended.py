"""Files that grow, and files that follow each other, in one log of clicks."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stream import topics
from stream.codec import CONTINUE, END, kind_of
from stream.follow import read_all
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.schema import Columns, FeatureSchema, NumericFeature
from stream.sources import files
from stream.sources.files import FileFeed, FileSource

SCHEMA = FeatureSchema(
    numeric=(NumericFeature(name="x"),),
    columns=Columns(event_time="at", time_format="seconds", label="clicked"),
)
CHUNK = 10


def write(path: Path, begin: int, end: int, *, cut: int | None = None) -> Path:
    """Append rows to a file; ``cut`` leaves off so many characters of the last one."""
    text = "" if path.exists() else "at,clicked,x\n"
    text += "".join(f"{n},{n % 2},{n}\n" for n in range(begin, end))
    with path.open("a") as file:
        file.write(text[: -cut if cut else None])
    return path


def source(path: Path, *, append: bool = False, follow: bool = False) -> FileSource:
    return FileSource(path, SCHEMA, CHUNK, append, follow)


@contextmanager
def feeding(home: LocalLogStore, one: FileSource) -> Iterator[FileFeed]:
    with closing(one.attach(home)) as feed:
        yield feed


def replay(home: LocalLogStore, one: FileSource) -> None:
    with feeding(home, one) as feed:
        while feed.step() is not None:
            """To its end."""


def kinds(home: LocalLogStore) -> list[bytes]:
    with closing(home.reader(topics.CLICKS)) as reader:
        return [kind_of(stored) for stored in read_all(reader)]


def events(home: LocalLogStore) -> list[int]:
    """Read all events, by what tells them apart."""
    with closing(home.reader(topics.CLICKS)) as log:
        reader = ClickReader(log, SCHEMA, 7)
        return [int(x) for batch in iter(reader.next, None) for x in batch.batch.numeric[:, 0]]


def test_a_file_that_has_grown_continues_with_what_is_new(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 23)
    replay(home, source(path))
    write(path, 23, 50)
    with pytest.raises(ValueError, match="it has grown, and --append continues with"):
        source(path).attach(home)
    replay(home, source(path, append=True))
    assert events(home) == list(range(50))
    assert kinds(home).count(END) == 2
    assert kinds(home).count(CONTINUE) == 1


def test_with_nothing_new_nothing_is_written(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 23)
    replay(home, source(path))
    before = kinds(home)
    replay(home, source(path, append=True))
    assert kinds(home) == before


def test_a_file_is_continued_by_another_one(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    replay(home, source(write(tmp_path / "day1.csv", 0, 23)))
    second = write(tmp_path / "day2.csv", 23, 60)
    with pytest.raises(ValueError, match="use another state folder, or --append"):
        source(second).attach(home)
    replay(home, source(second, append=True))
    replay(home, source(second))
    assert events(home) == list(range(60))


def test_from_the_first_moment_on_the_log_says_that_it_continues(tmp_path: Path) -> None:
    """And a feed that was killed right then goes on as if it had not been, whatever is asked."""
    home = LocalLogStore(tmp_path / "logs")
    replay(home, source(write(tmp_path / "day1.csv", 0, 23)))
    second = source(write(tmp_path / "day2.csv", 23, 60), append=True)
    with feeding(home, second):
        assert kinds(home)[-1] == CONTINUE
    with feeding(home, second) as feed:
        assert feed.step() == CHUNK
    replay(home, source(tmp_path / "day2.csv"))
    assert events(home) == list(range(60))
    assert kinds(home).count(CONTINUE) == 1


def test_a_file_that_was_changed_or_cut_short_is_refused(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 23)
    replay(home, source(path))
    text = path.read_text()
    for other in (text.replace("5,1,5", "5,0,5"), text[:-20], text.replace("5,1", "5,0") + "9,1,9"):
        path.write_text(other)
        with pytest.raises(ValueError, match="has changed since the clicks log was begun"):
            source(path, append=True).attach(home)


def test_a_last_row_that_was_half_written_and_read_is_refused_once_it_is_whole(
    tmp_path: Path,
) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 23, cut=2)
    replay(home, source(path))
    with path.open("a") as file:
        file.write("22\n")
    with pytest.raises(ValueError, match="has changed since the clicks log was begun"):
        source(path, append=True).attach(home)


def test_a_file_that_is_packed_grows_by_further_members(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), tmp_path / "c.csv.gz"
    plain = write(tmp_path / "c.csv", 0, 23).read_bytes()
    path.write_bytes(gzip.compress(plain))
    replay(home, source(path))
    with path.open("ab") as file:
        file.write(gzip.compress(b"23,1,23\n24,0,24\n"))
    replay(home, source(path, append=True))
    assert events(home) == list(range(25))


def test_a_file_that_did_not_come_to_its_end_is_not_continued_by_another(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path / "logs")
    with feeding(home, source(write(tmp_path / "day1.csv", 0, 23))) as feed:
        feed.step()
    second = source(write(tmp_path / "day2.csv", 23, 60), append=True)
    with pytest.raises(ValueError, match=r"has not come to the end of day1\.csv: let it end"):
        second.attach(home)


def test_a_file_is_followed_in_whole_records_and_leaves_those_of_a_whole_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was written, and whenever the feed was stopped."""
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SHARE", 0)
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 10)
    with feeding(home, source(path, follow=True)) as feed:
        assert feed.step() == 0
        write(path, 10, 12, cut=3)
        assert feed.step() == CHUNK
        assert feed.step() == 0
        with path.open("a") as file:
            file.write("11\n")
        write(path, 12, 21)
        assert feed.step() == CHUNK
        assert [feed.step() for _ in range(3)] == [0, 0, 0]
    write(path, 21, 47)
    with feeding(home, source(path, follow=True)) as feed:
        assert [feed.step() for _ in range(4)] == [CHUNK, CHUNK, 0, 0]
    replay(home, source(path, append=True))
    whole = LocalLogStore(tmp_path / "whole")
    replay(whole, source(path))
    assert events(home) == list(range(47))
    assert kinds(home) == kinds(whole)
    with closing(home.reader(topics.CLICKS)) as one, closing(whole.reader(topics.CLICKS)) as other:
        values = [[stored.record.value for stored in read_all(log)] for log in (one, other)]
    assert values[0] == values[1]


def test_a_file_that_becomes_shorter_while_it_is_followed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SHARE", 0)
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 15)
    with feeding(home, source(path, follow=True)) as feed:
        assert [feed.step(), feed.step()] == [CHUNK, 0]
        path.write_text("at,clicked,x\n")
        with pytest.raises(ValueError, match="has become shorter while it is followed"):
            feed.step()


def test_an_input_that_has_ended_can_be_followed(tmp_path: Path) -> None:
    home, path = LocalLogStore(tmp_path / "logs"), write(tmp_path / "c.csv", 0, 23)
    replay(home, source(path))
    write(path, 23, 31)
    with feeding(home, source(path, follow=True)) as feed:
        assert kinds(home)[-1] == CONTINUE
        assert feed.step() == 7
    assert events(home)[:30] == list(range(len(events(home))))


def test_a_folder_that_fills_is_followed_and_leaves_what_a_replay_of_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SHARE", 0)
    home, folder = LocalLogStore(tmp_path / "logs"), tmp_path / "days"
    folder.mkdir()
    write(folder / "day_9.csv", 0, 23)
    with feeding(home, source(folder, follow=True)) as feed:
        assert [feed.step() for _ in range(4)] == [CHUNK, CHUNK, 0, 0]
        write(folder / "day_10.csv", 23, 60)
        assert [feed.step() for _ in range(6)] == [3, CHUNK, CHUNK, CHUNK, 0, 0]
        write(folder / "day_1.csv", 900, 905)
        assert [feed.step() for _ in range(2)] == [0, 0]
    (folder / "day_1.csv").unlink()
    write(folder / "day_11.csv", 60, 71)
    with feeding(home, source(folder, follow=True)) as feed:
        assert [feed.step() for _ in range(4)] == [7, CHUNK, 0, 0]
    replay(home, source(folder, append=True))
    assert events(home) == list(range(71))
    whole = LocalLogStore(tmp_path / "whole")
    replay(whole, source(folder))
    assert kinds(home) == kinds(whole)


def test_a_folder_with_further_files_continues_a_run_that_has_ended(tmp_path: Path) -> None:
    home, folder = LocalLogStore(tmp_path / "logs"), tmp_path / "days"
    folder.mkdir()
    write(folder / "a.csv", 0, 23)
    replay(home, source(folder))
    write(folder / "b.csv", 23, 40)
    with pytest.raises(ValueError, match=r"ended with a\.csv, and b\.csv would follow; --append"):
        source(folder).attach(home)
    replay(home, source(folder, append=True))
    replay(home, source(folder, append=True))
    assert events(home) == list(range(40))
    assert kinds(home).count(END) == 2
