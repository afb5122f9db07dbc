"""Golden hashes: what small runs give, bit for bit, and the command that takes them anew.

``python -m tests.golden.make`` runs every scenario that needs no server and prints a SHA-256 for
each part of what it left: weights, optimiser sums, masks, predictions, windows, ledger, dead
letters. With ``--write`` they replace those in ``hashes.json``, which the tests compare with. A
change that moves numbers says so by doing that; any other change leaves them as they are.

Texts that only people read (causes, reasons) are no part of a hash, nor are the names under which
values are stored: the figures are.

Floating point differs in its last bits from one processor to the next, so a scenario runs in a
process that is held to the instructions that every x86-64 processor has (:data:`BASELINE`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HASHES = Path(__file__).with_name("hashes.json")
ROOT = Path(__file__).parents[2]
BASELINE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Environment of the process of a scenario: the same bits on every x86-64 processor."""
SERVERLESS = ("demo", "resumed", "partitions", "file")


def taken(scenario: str, kafka: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Run a scenario in a process of its own, and return its hashes by part.

    Parameters
    ----------
    scenario
        Its name.
    kafka
        Settings of the broker, for the scenario ``kafka``.
    """
    command = [sys.executable, "-m", "tests.golden.scenarios", scenario, json.dumps(kafka or {})]
    environment = {**os.environ, **BASELINE, "NPY_DISABLE_CPU_FEATURES": _dispatched()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def known() -> dict[str, dict[str, str]]:
    """Return the hashes that are committed, by scenario and part."""
    found: dict[str, dict[str, str]] = json.loads(HASHES.read_text("utf-8"))
    return found


def digest(parts: Iterable[bytes | str | int | float | tuple[Any, ...] | None]) -> str:
    """Return the SHA-256 of values; floats by every bit.

    >>> digest([1, 0.5, "a", None]) == digest([1, 0.5, "a", None])
    True
    """
    found = hashlib.sha256()
    for part in parts:
        value = part if isinstance(part, bytes) else _text(part).encode()
        found.update(len(value).to_bytes(8, "little") + value)
    return found.hexdigest()


def _text(value: object) -> str:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple | list):
        return f"({','.join(map(_text, value))})"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_text(one)}' for key, one in sorted(value.items()))}}}"
    return repr(value)


def _dispatched() -> str:
    """Name the features beyond its baseline that numpy would use here."""
    code = (
        "from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__;"
        "print(*(one for one in __cpu_dispatch__ if __cpu_features__.get(one)))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()


def main() -> None:
    """Take the hashes, and compare or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace those that are committed")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="run the scenario on a broker too")
    asked = parser.parse_args()
    found = {name: taken(name) for name in SERVERLESS}
    if asked.kafka:
        prefix = f"golden-{Path(tempfile.mkdtemp()).name}."
        found["kafka"] = taken("kafka", {"bootstrap": asked.kafka, "prefix": prefix})
    if asked.write:
        before = known() if HASHES.exists() else {}
        HASHES.write_text(json.dumps(before | found, indent=1) + "\n", "utf-8")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
