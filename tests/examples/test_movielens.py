from __future__ import annotations

import zipfile
from pathlib import Path

from examples.movielens import COLUMNS, join, unpack, write
from stream import topics
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.schema import load_schema
from stream.sources.files import FileSource

RATINGS = [
    "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "1\t20\t4\t300",
    "2\t10\t3\t100",
    "1\t10\t5\t300",
    "2\t20\t1\t200",
]
USERS = [
    "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
    "1\t24\tM\ttechnician\t85711",
    "2\t53\tF\tother\t94043",
]
ITEMS = [
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "10\tToy Story\t1995\tAnimation Children's Comedy",
    "20\tunkonwn\tunkonwn\tunknown",
]
SCHEMA = Path(__file__).parents[2] / "examples" / "movielens.toml"


def test_ratings_are_joined_with_user_and_item_and_sorted_by_time() -> None:
    rows = join(RATINGS, USERS, ITEMS)
    assert [tuple(row[name] for name in COLUMNS) for row in rows] == [
        ("100", "0", "2", "10", "53", "F", "other", "1995", "Animation|Children's|Comedy"),
        ("200", "0", "2", "20", "53", "F", "other", "", "unknown"),
        ("300", "1", "1", "20", "24", "M", "technician", "", "unknown"),
        ("300", "1", "1", "10", "24", "M", "technician", "1995", "Animation|Children's|Comedy"),
    ]


def test_the_parts_are_found_in_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, lines in (("inter", RATINGS), ("user", USERS), ("item", ITEMS)):
            name = f"recbole/dataset_example/ml-100k/ml-100k.{part}"
            archive.writestr(name, "\n".join(lines) + "\n")
    assert unpack(wheel) == {"inter": RATINGS, "user": USERS, "item": ITEMS}


def test_the_file_replays_with_the_schema_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ml-100k.csv"
    write(join(RATINGS, USERS, ITEMS), path)
    schema, home = load_schema(SCHEMA), LocalLogStore(tmp_path / "logs")
    feed = FileSource(path, schema).attach(home)
    assert (feed.step(), feed.step()) == (4, None)
    feed.close()
    found = ClickReader(home.reader(topics.CLICKS), schema, 10).next()
    assert found is not None
    assert found.skipped == {}
    assert found.batch.label.tolist() == [0, 0, 1, 1]
    assert found.batch.time_ms.tolist() == [100_000, 200_000, 300_000, 300_000]
    genres = next(f for f in schema.categorical if f.name == "genres")
    names = ["Animation", "Children's", "Comedy"]
    assert found.batch.categorical[0, schema.columns_of("genres")].tolist() == [
        *(genres.bucket(name) for name in names),
        *[0] * (genres.max_values - 3),
    ]
