from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.schema import Columns
from stream.sources.tables import FileRow, StandardInput, find_files, open_table

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


def write_zst(path: Path, content: bytes) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(content)
    return path


def test_a_zst_file_reads_as_the_plain_one_frame_after_frame(tmp_path: Path) -> None:
    plain = write_delimited(tmp_path / "clicks.csv", ",")
    whole = plain.read_bytes()
    packed = b"".join(
        write_zst(tmp_path / "frame.zst", part).read_bytes() for part in (whole[:9], whole[9:])
    )
    (tmp_path / "clicks.csv.zst").write_bytes(packed)
    assert list(open_table(tmp_path / "clicks.csv.zst").rows()) == list(open_table(plain).rows())
    lines = write_zst(tmp_path / "clicks.jsonl.zst", b'{"a": 1}\n{"a": 2}\n')
    assert cells(lines) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_is_named_after_its_whole_rows(
    tmp_path: Path, suffix: str
) -> None:
    text = "a,b\n" + "".join(f"{n},{n * n % 7919}\n" for n in range(50_000))
    path = tmp_path / f"clicks.csv{suffix}"
    if suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        write_zst(path, text.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    rows: list[FileRow] = []
    with pytest.raises(OSError, match=rf"csv\{suffix} cannot be read to its end \(.*; check it"):
        rows.extend(open_table(path).rows())
    assert len(rows) > 1_000


OPEN = "no row: a quote is opened here and not closed as it must be (looked for through line "


def test_an_unclosed_quote_costs_its_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text('a,b\n1,x\n2,"y\n3,z\n4,"two\nlines"\n5,"say ""hi"""\n6,"end')
    rows = list(open_table(path).rows())
    assert [(row.line, row.cells) for row in rows if isinstance(row.cells, dict)] == [
        (2, {"a": "1", "b": "x"}),
        (4, {"a": "3", "b": "z"}),
        (5, {"a": "4", "b": "two\nlines"}),
        (7, {"a": "5", "b": 'say "hi"'}),
    ]
    bad = [row for row in rows if isinstance(row.cells, str)]
    assert [(row.line, row.raw) for row in bad] == [(3, b'2,"y'), (8, b'6,"end')]
    assert all(str(row.cells).startswith(OPEN) for row in bad)


def test_no_row_is_lost_after_an_unclosed_quote_far_from_the_next(tmp_path: Path) -> None:
    """The CSV reader would swallow 131 072 characters, or the rest of the file."""
    path = tmp_path / "clicks.csv"
    lines = [f"{n},{'x' * 40}" for n in range(20_000)]
    lines[10] = lines[10].replace("x", '"', 1)
    lines[19_990] = lines[19_990].replace("x", '"', 1)
    path.write_text("\n".join(["a,b", *lines]))
    rows = list(open_table(path).rows())
    assert [row.line for row in rows] == [*range(2, 20_002)]
    assert [row.line for row in rows if isinstance(row.cells, str)] == [12, 19_992]


def test_two_unclosed_quotes_do_not_make_a_row_together(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text('a,b\n1,"x\n2,"y\n3,z\n')
    assert [isinstance(row, dict) for row in cells(path)] == [False, False, True]


def test_without_quotes_a_quote_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "clicks.tsv"
    path.write_text('a\tb\n1\t5" nails\n2\t"\n')
    table = open_table(path, Columns(quote=""))
    assert [row.cells for row in table.rows()] == [
        {"a": "1", "b": '5" nails'},
        {"a": "2", "b": '"'},
    ]


def test_columns_may_be_named_by_position(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("1\t2\t3\tx\n0\t\t4\ty\n")
    table = open_table(path, Columns(names=("label", "I1..I2", "")))
    assert table.columns() == ("label", "I1", "I2")
    assert [(row.line, row.cells) for row in table.rows()] == [
        (1, {"label": "1", "I1": "2", "I2": "3"}),
        (2, {"label": "0", "I1": "", "I2": "4"}),
    ]


def test_too_few_names_are_told_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("1\t2\t3\n")
    with pytest.raises(
        ValueError, match=r"train\.txt has 3 cells in its first line, `names` .* has 2"
    ):
        open_table(path, Columns(names=("a", "b"))).columns()


@pytest.mark.parametrize("name", ["clicks.log", "clicks", "day_0.gz", "clicks.csv"])
def test_a_delimiter_lets_text_have_any_suffix(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / name, b"a;b\n1;x, y\n"
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert [row.cells for row in open_table(path, Columns(delimiter=";")).rows()] == [
        {"a": "1", "b": "x, y"}
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"a,b\n1,x\n", [{"a": "1", "b": "x"}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    ],
)
def test_standard_input_is_read_once(text: bytes, found: list[object]) -> None:
    table = open_table(StandardInput(io.BytesIO(text)))
    assert table.columns()[0] == "a"
    assert [row.cells for row in table.rows()] == found
    with pytest.raises(ValueError, match="standard input has been read; it cannot be read twice"):
        next(table.rows())


def test_files_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["day_10.csv", "day_9.csv", "day_9a.csv", "_SUCCESS", ".part.crc", "_tmp/day_1.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("day_9.csv", "day_9a.csv", "day_10.csv")]
    assert list(find_files(tmp_path)) == expected
    assert list(find_files(tmp_path / "day_*.csv")) == expected
    assert list(find_files([expected[2], expected[0]])) == [expected[2], expected[0]]


def test_what_names_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.csv; check the pattern"):
        find_files(tmp_path / "*.csv")
    with pytest.raises(FileNotFoundError, match=r"the folder .* holds no file to replay"):
        find_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file to replay is named"):
        find_files([])
    path = tmp_path / "a.csv"
    path.touch()
    with pytest.raises(ValueError, match=r"a\.csv is named twice; an input holds each file once"):
        find_files([path, tmp_path])
    with pytest.raises(ValueError, match=r"standard input \(-\) and files cannot be one input"):
        find_files([path, Path("-")])


def test_what_is_there_and_is_no_file_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="/dev/null is no regular file and is empty; name a file"):
        find_files(Path("/dev/null"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is no regular file; name a file, or send .* is -"):
        find_files(tmp_path / "pipe")
