"""After a loss of power a run goes on as if nothing had happened: nothing rests on what is lost.

Each log loses what was not made safe, from a random record on; files that a worker wrote are there,
since they are written safely. So a checkpoint or a decision that rests on a record which was not
safe before it would be found: its log would end before it, or what follows would be otherwise.
"""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from resprout.folder import RunFolder
from resprout.wiring import Wiring
from stream.log import LocalLogStore, LogReader, LogWriter, Record
from tests.resprout.eventful import PLAN
from tests.resprout.left import PARTS, Left


@dataclass
class SafeEnds:
    """A store that notes how far each log was made safe.

    Everything but that it leaves to the store that it stands before.
    """

    store: LocalLogStore
    ends: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    is_on: bool = True
    """Whether there is power: afterwards nothing becomes safe any more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def reader(self, name: str) -> LogReader:
        return _Reader(self, name, self.store.reader(name))

    def writer(self, name: str) -> LogWriter:
        return _Writer(self, name, self.store.writer(name))

    def note(self, name: str) -> None:
        """Note that all that a log holds now is safe."""
        if self.is_on:
            with closing(self.store.reader(name)) as log:
                for partition in log.partitions:
                    self.ends[name, partition] = log.end(partition)

    def lose_power(self, rng: random.Random) -> int:
        """Cut each log somewhere after what was made safe; return how many records that took."""
        lost = 0
        for file in sorted(self.store.folder.glob("*/log.db")):
            name = file.parent.name
            with closing(self.store.reader(name)) as log:
                end = log.end(0)
            kept = rng.randint(self.ends[name, 0], end)
            with closing(sqlite3.connect(file, isolation_level=None)) as connection:
                connection.execute("DELETE FROM records WHERE id >= ?", (kept,))
            file.with_name("flushed").unlink(missing_ok=True)
            lost += end - kept
        return lost


@dataclass
class _Reader:
    safe: SafeEnds
    name: str
    log: LogReader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def sync(self) -> None:
        self.log.sync()
        self.safe.note(self.name)


@dataclass
class _Writer:
    safe: SafeEnds
    name: str
    log: LogWriter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        self.log.append(records, partition)

    def flush(self) -> None:
        self.log.flush()
        self.safe.note(self.name)


def lived(folder: RunFolder, rng: random.Random, steps: int) -> bool:
    """Step the workers in turns until the power is lost; return whether the run was over before."""
    safe = SafeEnds(folder.home)
    for file in safe.store.folder.glob("*/log.db"):
        # What was there when the machine started has been read from its disk.
        safe.note(file.parent.name)
    with closing(Wiring(PLAN, folder, safe, PLAN.workers)) as wiring:
        working = {worker: 0 for worker in wiring.workers()}
        for _ in range(steps):
            drawn = rng.sample(list(working), k=min(2, len(working)))
            worker = min(drawn, key=lambda one: working[one])
            for _ in range(rng.randrange(1, 20)):
                step = worker.step()
                working[worker] = step.count
                if step.done:
                    worker.close()
                    del working[worker]
                    break
            if not working:
                return True
        safe.is_on = False
    safe.lose_power(rng)
    return False


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_lost_power_again_and_again_leaves_what_an_undisturbed_one_leaves(
    tmp_path: Path, whole: RunFolder, seed: int
) -> None:
    folder, rng = RunFolder(tmp_path), random.Random(seed)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with folder.lock():
            folder.begin(PLAN)
            losses = 0
            while not lived(folder, rng, rng.randrange(5, 50)):
                losses += 1
    finally:
        torch.set_num_threads(before)
    assert losses >= 8
    left, undisturbed = Left.by(folder), Left.by(whole)
    for part in PARTS:
        assert getattr(left, part) == getattr(undisturbed, part), part
