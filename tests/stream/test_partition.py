from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream.log.local import LocalLogStore
from tests.stream.log_contract import numbered, records
from tests.stream.partition_contract import partition

TWO = {"clicks": 2}


def test_the_number_of_partitions_is_kept_with_the_log(tmp_path: Path) -> None:
    writer = LocalLogStore(tmp_path, partitions=TWO).writer("clicks")
    writer.append(numbered(1), partition=1)
    writer.close()
    again = LocalLogStore(tmp_path)
    assert again.reader("clicks").partitions == (0, 1)
    assert records(partition(again.reader("clicks"), 1)) == numbered(1)


def test_a_log_is_not_given_more_partitions_later(tmp_path: Path) -> None:
    LocalLogStore(tmp_path).writer("clicks").close()
    with pytest.raises(ValueError, match=r"log 'clicks' in .* was made with 1 partitions, not 2"):
        LocalLogStore(tmp_path, partitions=TWO).reader("clicks")


def test_ten_partitions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path, partitions={"clicks": 11})
    writer = home.writer("clicks")
    for number in range(11):
        writer.append(numbered(1, start=number), partition=number)
    writer.close()
    reader = home.reader("clicks")
    assert reader.partitions == tuple(range(11))
    assert [records(partition(reader, n)) for n in range(11)] == [numbered(1, n) for n in range(11)]


def test_the_next_writer_cuts_the_torn_tail_of_every_partition(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path, partitions=TWO)
    writer = home.writer("clicks")
    for number in (0, 1):
        writer.append(numbered(2), partition=number)
        writer.append(numbered(1, start=2), partition=number)
    writer.close()
    for number, lost in ((0, 1), (1, 5)):
        [segment] = (tmp_path / "clicks" / str(number)).glob("*.log")
        os.truncate(segment, segment.stat().st_size - lost)
    frame = segment.stat().st_size // 3 + 2
    writer = home.writer("clicks")
    assert abs(writer.cut_bytes - (2 * frame - 6)) <= 2
    for number in (0, 1):
        writer.append(numbered(1, start=2), partition=number)
        assert records(partition(home.reader("clicks"), number)) == numbered(3)
    writer.close()
