"""MovieLens-100k as a click stream: ``python -m examples.movielens`` writes ``data/ml-100k.csv``.

The ratings come from the PyPI wheel ``recbole``, which carries the data set of GroupLens (Harper
and Konstan, The MovieLens Datasets, ACM TiiS 2015). A rating of 4 or 5 counts as a click.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

WHEEL: Final = "recbole==1.2.1"
TARGET: Final = Path("data/ml-100k.csv")
COLUMNS: Final = (
    "timestamp",
    "label",
    "user_id",
    "item_id",
    "age",
    "gender",
    "occupation",
    "year",
    "genres",
)
_INSIDE = "recbole/dataset_example/ml-100k/ml-100k"
_CLICK_FROM: Final = 4.0
"""The lowest rating that counts as a click."""


def fetch(folder: Path) -> Path:
    """Download the wheel into a folder with pip, and return its path."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True)  # noqa: S603 (fixed words)
    return next(folder.glob("recbole-*.whl"))


def unpack(wheel: Path) -> dict[str, list[str]]:
    """Read the lines of the ``inter``, ``user`` and ``item`` files out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            part: archive.read(f"{_INSIDE}.{part}").decode().splitlines()
            for part in ("inter", "user", "item")
        }


def join(
    ratings: Iterable[str], users: Iterable[str], items: Iterable[str]
) -> list[dict[str, str]]:
    r"""Join ratings with their users and items, sorted by time; ratings of one second keep order.

    Parameters
    ----------
    ratings, users, items
        Lines of RecBole's atomic files: tab-separated, below a header of ``name:type``.

    Returns
    -------
    A row for each rating, with the keys :data:`COLUMNS`; several genres are parted by ``|``.

    Examples
    --------
    >>> rows = join(
    ...     ["user_id:token\titem_id:token\trating:float\ttimestamp:float", "7\t3\t5\t881250949"],
    ...     ["user_id:token\tage:token\tgender:token\toccupation:token", "7\t57\tM\tadministrator"],
    ...     ["item_id:token\trelease_year:token\tclass:token_seq", "3\t1995\tAnimation Comedy"],
    ... )
    >>> [rows[0][name] for name in ("label", "age", "year", "genres")]
    ['1', '57', '1995', 'Animation|Comedy']
    """
    by_user = {row["user_id"]: row for row in _atomic(users)}
    by_item = {row["item_id"]: row for row in _atomic(items)}
    rows = [
        _row(rating, by_user[rating["user_id"]], by_item[rating["item_id"]])
        for rating in _atomic(ratings)
    ]
    return sorted(rows, key=lambda row: int(row["timestamp"]))


def write(rows: Sequence[Mapping[str, str]], target: Path) -> None:
    """Write rows as CSV, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    with draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    draft.replace(target)


def _atomic(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Read an atomic file, without the types in its header."""
    header, *rest = (line.split("\t") for line in lines)
    names = [cell.partition(":")[0] for cell in header]
    return (dict(zip(names, cells, strict=True)) for cells in rest)


def _row(
    rating: Mapping[str, str], user: Mapping[str, str], item: Mapping[str, str]
) -> dict[str, str]:
    year = item["release_year"]
    return {
        "timestamp": rating["timestamp"],
        "label": str(int(float(rating["rating"]) >= _CLICK_FROM)),
        "user_id": rating["user_id"],
        "item_id": rating["item_id"],
        "age": user["age"],
        "gender": user["gender"],
        "occupation": user["occupation"],
        "year": year if year.isdecimal() else "",
        "genres": "|".join(item["class"].split()),
    }


def main() -> None:
    """Fetch, join and write."""
    with tempfile.TemporaryDirectory() as folder:
        parts = unpack(fetch(Path(folder)))
    rows = join(parts["inter"], parts["user"], parts["item"])
    write(rows, TARGET)
    sys.stdout.write(f"{len(rows)} events in {TARGET}\n")


if __name__ == "__main__":
    main()
