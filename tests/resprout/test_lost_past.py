"""A run whose logs have lost what its workers had read or written is refused, and says which."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from learner.snapshots import from_parts
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import DENSE, EVALUATOR
from resprout.spec import RunDefinition
from stream.log import LogCorruptError, LogError, LogIdentityError, LogLostError
from tests.resprout.small import small
from tests.resprout.victim import Life, Scored, lived

PLAN = RunDefinition.generated(small())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its second rebuild began."""
    path = tmp_path_factory.mktemp("killed") / "run"
    assert lived(PLAN, path, Life(Scored(9_000, EVALUATOR), "threads"))
    return path


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(killed, tmp_path / "run")))


def without(run: RunFolder, log: str, where: str, *, flushed: bool = False) -> None:
    """Delete records of a log, and unless asked to keep it what tells how far it was flushed."""
    file = run.home.folder / log / "log.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"DELETE FROM records WHERE {where}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if not flushed:
        file.with_name("flushed").unlink()


def refused(run: RunFolder, error: type[LogError], said: str) -> None:
    """See that the run is refused, and nothing of its logs is changed by that."""
    for _ in range(2):
        with pytest.raises(error, match=said):
            execute(PLAN, run.path)


def test_untouched_it_goes_on(run: RunFolder) -> None:
    assert execute(PLAN, run.path).finished


@pytest.mark.parametrize(
    ("log", "keep", "said"),
    [
        ("windows", 3, r"the log windows ends at 3, before offset \d+, up to which it was written"),
        ("predictions.dense", 3, r"the log predictions\.dense ends at 3, before offset \d+"),
        ("clicks", 2, "the clicks log ends at offset 2 of partition 0, before offset"),
        ("ledger", 1, "the log ledger ends at 1, before offset"),
    ],
)
def test_a_log_that_is_shorter_than_a_checkpoint_is_refused(
    run: RunFolder, log: str, keep: int, said: str
) -> None:
    without(run, log, f"id >= {keep}")
    refused(run, LogLostError, said)


def test_a_log_that_is_shorter_than_it_was_flushed_is_refused(
    run: RunFolder,
) -> None:
    without(run, "windows", "id >= 3", flushed=True)
    refused(
        run, LogCorruptError, r"windows/log\.db: partition 0 ends at \d+, and was flushed up to"
    )


def head_lost(run: RunFolder) -> None:
    """As where somebody has trimmed it: it begins later, and is whole from there on."""
    run.home.trim("ledger", 0, 2)


def head_damaged(run: RunFolder) -> None:
    without(run, "ledger", "id < 2", flushed=True)


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (head_lost, LogLostError, "decision on the window ending at 6,000, that on the one ending"),
        (head_damaged, LogCorruptError, r"ledger/log\.db: a record after 0 is missing; restore"),
    ],
)
def test_a_ledger_without_its_head_is_refused(
    run: RunFolder, harm: Callable[[RunFolder], None], error: type[LogError], said: str
) -> None:
    harm(run)
    refused(run, error, said)


@pytest.mark.parametrize("log", ["ledger", "windows"])
def test_a_log_that_was_made_again_is_refused(run: RunFolder, log: str) -> None:
    shutil.rmtree(run.home.folder / log)
    refused(run, LogIdentityError, f"began with the log {log} .*: it was deleted and made again")


def test_the_predictions_of_a_model_that_was_further_are_asked_for(run: RunFolder) -> None:
    """The evaluator is behind: without this, it would wait for ever for what nobody publishes."""
    kept = run.checkpoints(DENSE).latest()
    assert kept is not None
    published = from_parts(kept.parts).published
    assert published is not None
    without(run, "predictions.dense", f"id >= {published.offset - 1}")
    shutil.rmtree(run.checkpoints(EVALUATOR).folder)
    refused(run, LogLostError, rf"ends at {published.offset - 1}, before offset {published.offset}")
