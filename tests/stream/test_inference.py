"""A schema proposed from a sample, for files shaped like those that are out there."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.schema import CategoricalFeature, Columns, FeatureSchema, NumericFeature
from stream.sources.files import FileSource
from stream.sources.inference import check_fit, propose_schema, take_sample


def write(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))
    return path


def proposed(path: Path, *, rows: int = 10_000, **more: str) -> tuple[FeatureSchema, str]:
    """Return the schema that is proposed, and how it is written."""
    names = more.pop("names", "")
    text = propose_schema(take_sample([path], rows, names.split(",") if names else ()), **more)
    return FeatureSchema.model_validate(tomllib.loads(text)), text


def fits(path: Path, schema: FeatureSchema) -> bool:
    fit = check_fit(FileSource(path, schema), 10_000)
    return fit.rows > 0 and fit.valid == fit.rows


def columns(schema: FeatureSchema) -> Columns:
    assert schema.columns is not None
    return schema.columns


def test_a_file_like_criteos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        numbers = ["" if rng.random() < 0.2 else int(rng.lognormal(1, 2)) - 2 for _ in range(13)]
        words = ["" if rng.random() < 0.1 else f"{rng.integers(90):08x}" for _ in range(26)]
        rows.append([int(rng.random() < 0.3), *numbers, *words])
    path = write(tmp_path / "train.txt", rows, "\t")
    schema, text = proposed(path, names="label,I1..I13,C1..C26")
    assert [one.name for one in schema.numeric] == [f"I{n}" for n in range(1, 14)]
    assert [one.name for one in schema.categorical] == [f"C{n}" for n in range(1, 27)]
    assert {one.log1p for one in schema.numeric} == {"signed"}
    assert (columns(schema).label, columns(schema).time_format) == ("label", "none")
    assert "missing" in text
    assert fits(path, schema)
    first = np.array([float(row[1]) for row in rows if row[1] != ""])
    values = np.copysign(np.log1p(np.abs(first)), first)
    assert schema.numeric[0].mean == pytest.approx(values.mean(), rel=1e-3)
    assert schema.numeric[0].scale == pytest.approx(values.std(), rel=1e-3)


def test_a_file_without_header_and_names_gets_some(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", [[n % 2, n / 7, f"s{n % 9}"] for n in range(50)], "\t")
    schema, text = proposed(path)
    assert columns(schema).names == ("column_1", "column_2", "column_3")
    assert columns(schema).label == "column_1"
    assert "there is no header" in text
    assert fits(path, schema)


def test_a_file_like_avazus(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "click", "hour", "C1", "banner_pos", "site_id", "C20"]]
    for n in range(300):
        hour = f"1410{21 + n // 150}{n % 150 // 7:02d}"
        rows.append([10**18 + n * 7919, n % 6 // 5, hour, 1005, n % 2, f"{n % 40:08x}", n % 30 - 1])
    path = write(tmp_path / "train.csv", rows)
    schema, text = proposed(path)
    assert schema.numeric == ()
    assert [one.name for one in schema.categorical] == ["banner_pos", "site_id", "C20"]
    said = columns(schema)
    assert (said.label, said.event_time, said.event_id) == ("click", "hour", "id")
    assert said.time_format == "%y%m%d%H"
    assert 'C1: always "1005"' in text
    fit = check_fit(FileSource(path, schema), 1_000)
    assert (fit.valid, fit.clicks) == (300, 50)
    assert fit.first_ms == 1_413_849_600_000  # 2014-10-21, midnight UTC
    assert fit.backwards == 0


def test_a_file_like_those_of_open_bandit(tmp_path: Path) -> None:
    head = ["", "timestamp", "item_id", "position", "click", "propensity_score", "user_feature_0"]
    rows: list[list[object]] = [[*head]]
    for n in range(200):
        when = f"2019-11-24 00:{n // 60:02d}:{n % 60:02d}.5+00:00"
        rows.append(
            [n, when, n * 7 % 31, n % 3 + 1, int(n % 50 == 0), n % 97 / 97, f"{n % 4:032x}"]
        )
    path = write(tmp_path / "all.csv", rows)
    schema, _ = proposed(path)
    assert [one.name for one in schema.numeric] == ["propensity_score"]
    assert [one.name for one in schema.categorical] == ["item_id", "position", "user_feature_0"]
    said = columns(schema)
    assert (said.label, said.event_time, said.time_format) == ("click", "timestamp", "iso")
    assert fits(path, schema)


def test_ratings_are_clicks_in_their_upper_half(tmp_path: Path) -> None:
    rows = [[n * 7 % 90 + 1, n % 40, n % 5 + 1, 874_724_710 + n * 61] for n in range(300)]
    path = write(tmp_path / "u.data", rows, "\t")
    schema, _ = proposed(path, names="user,item,rating,timestamp", label="rating")
    assert columns(schema).labels == {"1": 0, "2": 0, "3": 0, "4": 1, "5": 1}
    assert (columns(schema).delimiter, columns(schema).time_format) == ("\t", "seconds")
    assert [one.name for one in schema.categorical] == ["user", "item"]
    assert fits(path, schema)


@pytest.mark.parametrize(
    ("usual", "odd", "labels", "named"),
    [
        (("0", "1"), ["2"], {}, True),
        (("0", "1"), ["x", "2"], {}, True),
        (("-1", "1"), ["0.5"], {"-1": 0, "1": 1}, True),
        (("false", "true"), ["maybe"], {"false": 0, "true": 1}, True),
        (("No", "Yes"), ["?"], {"No": 0, "Yes": 1}, True),
        (("0", "1"), ["x", ""], {}, True),
        (("view", "click"), ["hover"], {"view": 0, "click": 1, "hover": 0}, False),
    ],
)
def test_a_rare_third_label_changes_none_of_the_others(
    tmp_path: Path, usual: tuple[str, str], odd: list[str], labels: dict[str, int], named: bool
) -> None:
    """Its rows are no events, and the proposal says how many there are."""
    words = [usual[n % 5 // 4] for n in range(1_000)] + odd
    rows: list[list[object]] = [["clicked", "x", "when"]]
    rows += [[word, str(n % 7), str(1.7e9 + n)] for n, word in enumerate(words)]
    path = write(tmp_path / "clicks.csv", rows)
    for label in (None, "clicked") if named else ("clicked",):
        text = propose_schema(take_sample([path], 10_000), label)
        schema = FeatureSchema.model_validate(tomllib.loads(text))
        assert columns(schema).labels == labels
        assert columns(schema).label == "clicked"
        fit = check_fit(FileSource(path, schema), 10_000)
        assert (fit.valid, fit.clicks) == (1_000 + (not named), 200)
        if named:
            assert {one.reason for one in fit.misfits.values()} == {"label"}
            for word in odd:
                assert f"1 x {word or 'missing'}" in text


def test_a_third_label_that_is_not_rare_is_one_of_three(tmp_path: Path) -> None:
    rows: list[list[object]] = [["rating", "x"]]
    rows += [[n % 3, n % 7] for n in range(600)]
    schema, text = proposed(write(tmp_path / "clicks.csv", rows), label="rating")
    assert columns(schema).labels == {"0": 0, "1": 0, "2": 1}
    assert "no label" not in text


def test_labels_that_are_numbers_with_a_fraction_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    rows = [{"clicked": 2.0 * (n % 4 == 0) - 1.0, "x": n / 7} for n in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    schema, _ = proposed(path)
    fit = check_fit(FileSource(path, schema), 1_000)
    assert (fit.valid, fit.clicks) == (100, 25)


AMOUNTS = np.random.default_rng(0).normal(10, 4, 2_000).round(2)
BEGIN = np.datetime64("2026-05-01T00:00:00")


def as_seconds(moment: np.datetime64) -> object:
    return moment.astype("int64")


def by_slashes(moment: np.datetime64) -> str:
    return str(moment).replace("-", "/").replace("T", " ")


@pytest.mark.parametrize(
    ("name", "write_time", "known"),
    [
        ("when", str, "iso"),
        ("when", as_seconds, "seconds"),
        ("when", by_slashes, "%Y/%m/%d %H:%M:%S"),
        ("first", str, "iso"),
        ("first", as_seconds, "seconds"),
    ],
)
def test_a_few_bad_times_do_not_hide_the_others(
    tmp_path: Path, name: str, write_time: Callable[[np.datetime64], object], known: str
) -> None:
    rows: list[list[object]] = [["label", name, "x"]]
    rows += [[n % 2, write_time(BEGIN + n), AMOUNTS[n]] for n in range(2_000)]
    for at, bad in ((9, "soon"), (50, "0"), (1_800, "NEVER"), (1_900, "")):
        rows[at][1] = bad
    path = write(tmp_path / "clicks.csv", rows)
    schema, text = proposed(path)
    assert (columns(schema).event_time, columns(schema).time_format) == (name, known)
    assert "no times of this age: 3, such as soon, 0, NEVER" in text
    fit = check_fit(FileSource(path, schema), 10_000)
    # A number is no time by a format, and the beginning of 1970 by a count.
    assert fit.rows - fit.valid in (3, 4)


@pytest.mark.parametrize("odd", [3.4e38, -3.4e38, 1e9])
def test_one_number_far_beyond_the_others_decides_nothing(tmp_path: Path, odd: float) -> None:
    rows: list[list[object]] = [["label", "price"]]
    rows += [[n % 2, amount] for n, amount in enumerate(AMOUNTS)]
    usual, _ = proposed(write(tmp_path / "usual.csv", rows))
    rows[77][1] = odd
    path = write(tmp_path / "clicks.csv", rows)
    schema, text = proposed(path)
    assert schema.numeric[0].log1p is False
    others = np.delete(AMOUNTS, 76)
    assert schema.numeric[0].mean == pytest.approx(others.mean(), rel=1e-3)
    assert schema.numeric[0].scale == pytest.approx(others.std(), rel=1e-3)
    assert usual.numeric[0].scale == pytest.approx(AMOUNTS.std(), rel=1e-3)
    said = f"{others.min():g} to {others.max():g}; far beyond: 1, such as {odd:g}"
    assert said in text
    assert check_fit(FileSource(path, schema), 10_000).valid == 1_999


def test_numbers_that_differ_much_are_all_of_them_numbers(tmp_path: Path) -> None:
    """A long tail is none of typing errors, and neither is a value that is seldom there."""
    tail = np.random.default_rng(1).lognormal(0, 3, 2_000).round(3)
    rows: list[list[object]] = [["label", "tail", "seldom"]]
    rows += [[n % 2, one, n % 500 // 498 * n / 7] for n, one in enumerate(tail)]
    schema, text = proposed(write(tmp_path / "clicks.csv", rows))
    assert "far beyond" not in text
    assert [one.log1p for one in schema.numeric] == [True, True]


def test_a_few_bad_cells_do_not_decide_what_a_column_is(tmp_path: Path) -> None:
    head = ["label", "price", "item_id", "key"]
    rows: list[list[object]] = [[*head]]
    rows += [[n % 2, AMOUNTS[n], n % 50, f"k{n:x}"] for n in range(2_000)]
    rows[5][1:] = ["abc", "4.5", "k7"]
    rows[9][1] = "abc"
    schema, text = proposed(write(tmp_path / "clicks.csv", rows))
    assert [one.name for one in schema.numeric] == ["price"]
    assert [one.name for one in schema.categorical] == ["item_id"]
    assert "no numbers: 2, such as abc" in text
    assert "key: nearly every value differs" in text


def test_a_file_without_clicks_is_said_to_have_none(tmp_path: Path) -> None:
    rows: list[list[object]] = [["clicked", "x"]]
    rows += [[0, n % 7] for n in range(60)]
    assert "there are no clicks" in proposed(write(tmp_path / "clicks.csv", rows))[1]


def test_json_lines_and_parquet_are_sampled_too(tmp_path: Path) -> None:
    rows = [
        {
            "ts": 1_714_521_600_123 + n * 1_000,
            "clicked": n % 9 == 0,
            "price": None if n % 7 == 0 else n * 1.5,
            "tags": [f"t{k}" for k in range(n % 4)],
        }
        for n in range(100)
    ]
    lines, parquet = tmp_path / "clicks.jsonl", tmp_path / "clicks.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    for path in (lines, parquet):
        schema, _ = proposed(path)
        assert [one.name for one in schema.numeric] == ["price"]
        assert schema.categorical == (CategoricalFeature(name="tags", buckets=64, max_values=3),)
        assert columns(schema).time_format == "milliseconds"
        assert fits(path, schema)


def test_words_separators_and_delimiters_are_found(tmp_path: Path) -> None:
    rows: list[list[object]] = [["when", "clicked", "price", "genres"]]
    for n in range(60):
        genres = "|".join(f"g{k}" for k in range(n % 3 + 1))
        rows.append(
            [f"2026-01-{n // 2 + 1:02d}", "ny"[n % 2], "NA" if n % 5 == 0 else n / 4, genres]
        )
    path = write(tmp_path / "clicks.csv", rows, ";")
    schema, text = proposed(path)
    said = columns(schema)
    assert (said.delimiter, said.missing, said.labels) == (";", ("NA",), {"n": 0, "y": 1})
    assert schema.categorical == (CategoricalFeature(name="genres", buckets=64, max_values=3),)
    assert "20.0% missing" in text
    assert fits(path, schema)


def test_what_goes_on_rising_after_the_sample_is_said(tmp_path: Path) -> None:
    rows: list[list[object]] = [["label", "site", "id"]]
    rows += [[n % 2, f"s{n // 2}", f"u{n}"] for n in range(400)]
    path = write(tmp_path / "clicks.csv", rows)
    _, sampled = proposed(path, rows=200)
    _, whole = proposed(path)
    assert "50 of them came first in the second half: expect more" in sampled
    assert "expect more" not in whole
    assert "the first 200 rows" in sampled
    assert "all 400 rows" in whole


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (
            [["a", "b"], [1, 2], [3, 4], [5, 6]],
            {},
            "no column of .* looks like the label, with two",
        ),
        ([["a", "b"], [0, 2]], {"label": "c"}, "has no column 'c'; there: a, b"),
        (
            [["label", "b"], [0, "soon"]],
            {"time": "b"},
            "times of 'b', such as soon, are of no known",
        ),
        ([["label", "b"]], {}, "holds no rows; a schema is proposed from some"),
    ],
)
def test_what_cannot_be_seen_is_asked_for(
    tmp_path: Path, rows: list[list[object]], more: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        propose_schema(take_sample([write(tmp_path / "clicks.csv", rows)], 10), **more)


def test_text_of_the_file_ends_no_comment(tmp_path: Path) -> None:
    """Whatever stands in a file, what is proposed is TOML."""
    path = tmp_path / "clicks.csv"
    rows = "".join(f'{n % 2},"a\n[settings]\n\x07{n % 3}",{n}\n' for n in range(60))
    path.write_text(f'label,"wo""rd\n",x\n{rows}')
    schema, text = proposed(path)
    assert [one.name for one in schema.categorical] == ['wo"rd\n']
    assert schema.settings == {}
    assert "\x07" not in text
    assert fits(path, schema)


def test_a_name_that_is_not_utf8_is_refused_since_no_schema_can_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(b"label,prix_\xe9\n" + b"".join(b"%d,%d\n" % (n % 2, n) for n in range(60)))
    with pytest.raises(
        ValueError, match=r"'prix_\\xe9' in .* is no text in UTF-8: write the input"
    ):
        proposed(path)


def test_each_misfit_is_counted_with_the_first_of_its_kind(tmp_path: Path) -> None:
    schema = FeatureSchema(numeric=(NumericFeature(name="x"),), columns=Columns(time_format="none"))
    bad = {3: "maybe,1", 5: "1,much", 8: "perhaps,1", 9: "1,1,1"}
    rows = [bad.get(n, f"{n % 2},{n}") for n in range(2, 12)]
    path = tmp_path / "clicks.csv"
    path.write_text("\n".join(["label,x", *rows]))
    fit = check_fit(FileSource(path, schema), 1_000)
    assert (fit.rows, fit.valid) == (10, 6)
    assert fit.invalid_ratio == pytest.approx(0.4)
    found = [(one.reason, one.count, one.line, one.raw.decode()) for one in fit.misfits.values()]
    assert found == [
        ("label", 2, 3, "maybe,1"),
        ("numeric", 1, 5, "1,much"),
        ("unparsable", 1, 9, "1,1,1"),
    ]
