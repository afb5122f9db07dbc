from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stream.schema import (
    RESERVED,
    CategoricalFeature,
    Columns,
    FeatureSchema,
    NumericFeature,
    hash_value,
    load_schema,
)

SITE = CategoricalFeature(name="site", buckets=100)
TAGS = CategoricalFeature(name="tags", buckets=50, max_values=3)
PRICE = NumericFeature(name="price")


def written(folder: Path, text: str) -> Path:
    path = folder / "schema.toml"
    path.write_text(text)
    return path


def xxh3_of_4_to_8_bytes(text: bytes) -> int:
    """XXH3-64 of a short text with seed 0, after the algorithm's published description."""
    mask, prime = 2**64 - 1, 0x9FB21C651E98DF25
    secret = bytes.fromhex("7c01812cf721ad1c ded46de9839097db")
    flip = int.from_bytes(secret[:8], "little") ^ int.from_bytes(secret[8:], "little")
    first, last = int.from_bytes(text[:4], "little"), int.from_bytes(text[-4:], "little")
    h = (last + (first << 32)) ^ flip
    h ^= (h << 49 | h >> 15) & mask ^ (h << 24 | h >> 40) & mask
    h = h * prime & mask
    h ^= (h >> 35) + len(text)
    h = h * prime & mask
    return h ^ h >> 28


@pytest.mark.parametrize(("feature", "value"), [("site", "17"), ("u", "1234"), ("ab", "ü")])
def test_the_hash_is_the_published_xxh3_64(feature: str, value: str) -> None:
    assert hash_value(feature, value) == xxh3_of_4_to_8_bytes(f"{feature}={value}".encode())


def test_values_stay_out_of_the_reserved_buckets_and_fill_the_others() -> None:
    small = CategoricalFeature(name="site", buckets=5)
    assert {small.bucket(str(value)) for value in range(200)} == {RESERVED, 3, 4}


def test_the_same_value_of_two_features_hashes_apart() -> None:
    assert hash_value("site", "1") != hash_value("page", "1")


def test_columns_lie_side_by_side() -> None:
    schema = FeatureSchema(numeric=(PRICE,), categorical=(TAGS, SITE))
    assert (schema.columns_of("tags"), schema.columns_of("site")) == (slice(0, 3), slice(3, 4))
    assert schema.column_count == 4
    assert schema.column_buckets.tolist() == [50, 50, 50, 100]
    assert schema.names == ("price", "tags", "site")


def test_columns_of_an_unknown_feature_names_the_known() -> None:
    with pytest.raises(ValueError, match="unknown categorical feature 'price'; known: site, tags"):
        FeatureSchema(numeric=(PRICE,), categorical=(SITE, TAGS)).columns_of("price")


def test_the_digest_sees_what_decides_the_encoding_and_nothing_else() -> None:
    schema = FeatureSchema(numeric=(PRICE,), categorical=(SITE, TAGS))
    moved = FeatureSchema(numeric=(PRICE,), categorical=(TAGS, SITE))
    scaled = FeatureSchema(
        numeric=(NumericFeature(name="price", scale=2.0),), categorical=(SITE, TAGS)
    )
    dressed = schema.model_copy(update={"columns": Columns(), "settings": {"seed": 1}})
    same = FeatureSchema.model_validate(dressed.model_dump())
    assert len({schema.digest, moved.digest, scaled.digest}) == 3
    assert same.digest == schema.digest
    assert len(schema.digest) == 16


def test_a_name_stands_once() -> None:
    with pytest.raises(ValidationError, match="feature 'site' is named twice"):
        FeatureSchema(numeric=(NumericFeature(name="site"),), categorical=(SITE,))


def test_no_features_are_too_few() -> None:
    with pytest.raises(ValidationError, match="needs at least one feature"):
        FeatureSchema()


def test_a_column_for_a_feature_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="no feature with 'pirce'; known: price"):
        FeatureSchema(numeric=(PRICE,), columns=Columns(features={"pirce": "p"}))


def test_a_file_is_read_with_its_columns_and_settings(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[numeric]]
        name = "price"
        log1p = true
        [[categorical]]
        name = "tags"
        buckets = 50
        max_values = 3
        [columns]
        time_format = "milliseconds"
        features = { price = "usd" }
        [settings.learner]
        rate = 0.1
        """,
    )
    schema = load_schema(path)
    assert schema.numeric == (NumericFeature(name="price", log1p=True),)
    assert schema.categorical == (TAGS,)
    assert schema.columns is not None
    assert (schema.columns.of("price"), schema.columns.of("tags")) == ("usd", "tags")
    assert schema.settings == {"learner": {"rate": 0.1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[nummeric]]\nname = 'x'", r"unknown key nummeric; known: numeric, categorical, columns"),
        ("[[numeric]]\nname = 'x'\nmeen = 1", r"unknown key numeric\.0\.meen; known: name, mean"),
        (
            "[[numeric]]\nname = 'x'\n[columns]\nlable = 'y'",
            r"unknown key columns\.lable; known: event_time, time_format, label",
        ),
        ("[[categorical]]\nname = 'x'", r"categorical\.0\.buckets: Field required"),
        ("[[categorical]]\nname = 'x'\nbuckets = 2", r"categorical\.0\.buckets: .* greater than 2"),
        ("[[numeric]]\nname = 'x'\nscale = 0", r"numeric\.0\.scale: .* greater than 0"),
        ("[[numeric]]\nname = 'x'\nmean = nan", r"numeric\.0\.mean: .* finite"),
        ("", r"needs at least one feature"),
        (
            "[[numeric]]\nname = 'I3..I1'",
            r"the range 'I3\.\.I1' ends before it begins; write the small",
        ),
        ("[[numeric]]\nname = 'a1..a2'\n[[numeric]]\nname = 'a2'", r"feature 'a2' is named twice"),
        (
            "[[numeric]]\nname = 'x'\nlog1p = 'sign'",
            r"numeric\.0\.log1p.* should be 'signed'",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\nnames = ['x', 'x']",
            r"columns\.names: .*'x' is named twice; every column has a name of its own",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\ndelimiter = '::'",
            r"columns\.delimiter: .*'::' must be one character",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\ndelimiter = '\"'",
            r"columns: .*must be one character, and not that of quote",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\ntime_format = 'sceonds'",
            r"unknown time format 'sceonds'; known: iso, seconds, milliseconds, microseconds, none",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\ntime_format = '%Y-%Q'",
            r"time format '%Y-%Q': 'Q' is a bad directive",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\ntime_format = '%H:%M'",
            r"time format '%H:%M' does not name year, month and day",
        ),
        (
            "[[numeric]]\nname = 'x'\n[columns]\nlabels = { yes = 2 }",
            r"columns\.labels\.yes: Input should be 0 or 1",
        ),
        ("numeric = [", r"is no TOML"),
    ],
)
def test_a_file_that_says_no_schema_names_the_file_and_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"schema\.toml.*" + message):
        load_schema(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no schema file .*absent\.toml"):
        load_schema(tmp_path / "absent.toml")


def test_a_range_stands_for_a_feature_each_and_alters_no_encoding(tmp_path: Path) -> None:
    written_short = written(
        tmp_path,
        """
        [[numeric]]
        name = "I09..I11"
        log1p = true
        [[categorical]]
        name = "C1..C2"
        buckets = 50
        """,
    )
    schema = load_schema(written_short)
    assert schema.names == ("I09", "I10", "I11", "C1", "C2")
    long = FeatureSchema(
        numeric=tuple(NumericFeature(name=name, log1p=True) for name in ("I09", "I10", "I11")),
        categorical=tuple(CategoricalFeature(name=name, buckets=50) for name in ("C1", "C2")),
    )
    assert schema.digest == long.digest
    again = FeatureSchema(numeric=(NumericFeature(name="I09..I11", log1p=True),))
    assert again.numeric == long.numeric
