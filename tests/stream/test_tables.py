from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.sources.files import open_table

ROWS = [{"a": "1", "b": "x, y"}, {"a": "", "b": 'say "hi"'}, {"a": "3", "b": "two\nlines"}]


def write_delimited(path: Path, delimiter: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["a", "b"], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)
    return path


def cells(path: Path) -> list[object]:
    return [row.cells for row in open_table(path).rows()]


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_delimited_rows_come_back_as_python_wrote_them(
    tmp_path: Path, suffix: str, delimiter: str
) -> None:
    path = write_delimited(tmp_path / f"clicks{suffix}", delimiter)
    assert open_table(path).columns() == ("a", "b")
    assert cells(path) == ROWS


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": ["x", "y"]}, {"a": None, "b": []}]
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert open_table(path).columns() == ("a", "b")
    assert cells(path) == rows
    assert [(row.line, row.raw) for row in open_table(path).rows()] == [(1, None), (2, None)]


def test_columns_of_json_lines_are_the_keys_of_all(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_text('{"a": 1}\n\nnope\n{"b": [2]}\n')
    assert open_table(path).columns() == ("a", "b")


def test_a_gzipped_file_reads_as_the_plain_one(tmp_path: Path) -> None:
    plain = write_delimited(tmp_path / "clicks.csv", ",")
    packed = tmp_path / "clicks.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(open_table(packed).rows()) == list(open_table(plain).rows())


def test_a_row_knows_its_line_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n\r\n2\r\n3,\xff\r\n')
    found = list(open_table(path).rows())
    assert [(row.line, row.raw) for row in found] == [
        (2, b'1,"x\r\ny"'),
        (5, b"2"),
        (6, b"3,\xff"),
    ]
    assert found[0].cells == {"a": "1", "b": "x\r\ny"}
    assert found[1].cells == "1 cells under 2 columns"


def test_a_cell_beyond_all_measure_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(f"a,b\n1,{'x' * 200_000}\n3,4\n")
    first, second = cells(path)
    assert str(first).startswith("no row: field larger than field limit")
    assert second == {"a": "3", "b": "4"}


def test_a_broken_json_line_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "clicks.ndjson"
    path.write_text(json.dumps({"a": 1}) + '\n{"a": \n[1]\n{"a": 2}')
    rows = list(open_table(path).rows())
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert str(rows[1].cells).startswith("no JSON: ")
    assert rows[1].raw == b'{"a": '
    assert rows[2].cells == "no JSON object"
    assert rows[3].cells == {"a": 2}


def test_a_line_of_json_keeps_its_bytes_and_an_empty_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "clicks.ndjson"
    path.write_bytes(b' {"a": 1}\t \r\n \n\n[\xff ')
    rows = list(open_table(path).rows())
    assert [(row.line, row.raw) for row in rows] == [(1, b' {"a": 1}\t '), (4, b"[\xff ")]
    assert rows[0].cells == {"a": 1}


def test_json_nested_beyond_all_measure_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_text("[" * 100_000)
    assert str(cells(path)[0]).startswith("no JSON: ")


def test_an_empty_csv_names_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.touch()
    with pytest.raises(ValueError, match=r"clicks\.csv is empty; its first line must name"):
        open_table(path).columns()


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"clicks\.parquet is not a whole Parquet file"):
        open_table(path).columns()


@pytest.mark.parametrize("name", ["clicks.xlsx", "clicks", "clicks.parquet.gz", "clicks.gz"])
def test_an_unknown_suffix_names_the_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read clicks.*known: \.csv, \.csv\.gz"):
        open_table(Path(name))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("age,label,age\n1,0,2\n")
    with pytest.raises(ValueError, match=r"clicks\.csv has two columns 'age'; rename one of them"):
        open_table(path).columns()
