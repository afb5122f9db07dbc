"""How good is the dense model on real clicks? MovieLens-100k, beside River's logistic regression.

``python -m bench.movielens`` needs ``data/ml-100k.csv``, which ``make movielens`` writes. Both
predict every event before they learn from it, on the same features in the same order; what counts
is NE over the second half. The logistic regression is there at several rates, and the best of them
on that half is the one to beat; ours were chosen by the first half and other seeds. It writes
``bench/results/movielens.json``; ``--json`` prints the result as the last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim

from bench.demo import RESULTS, machine
from evaluator.metrics import cross_entropy, normalized_entropy
from resprout.runner import one_thread_each
from resprout.settings import load
from resprout.spec import RunDefinition
from stream import topics
from stream.log.local import LocalLogStore
from stream.reader import ClickReader
from stream.schema import FeatureSchema, load_schema
from stream.sources.files import FileSource

DATA = Path("data/ml-100k.csv")
SCHEMA = Path("examples/movielens.toml")
RATES = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
"""AdaGrad's learning rates of the logistic regression."""

Floats = NDArray[np.float64]


def rows() -> Iterator[dict[str, str]]:
    """Read the clicks as they stand in the file."""
    with DATA.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def features(row: dict[str, str], schema: FeatureSchema) -> dict[str, float]:
    """Turn a row into what a linear model takes: numbers standardised, a 1 for each value."""
    found = {
        one.name: (float(row[one.name]) - one.mean) / one.scale
        for one in schema.numeric
        if row[one.name]
    }
    for one in schema.categorical:
        values = row[one.name].split("|") if one.max_values > 1 else [row[one.name]]
        found |= {f"{one.name}={value}": 1.0 for value in values if value}
    return found


def river(schema: FeatureSchema, rate: float) -> Floats:
    """Predict, then learn, event by event; the chance of a click of each."""
    model: Any = linear_model.LogisticRegression(optim.AdaGrad(rate))
    predicted = []
    for row in rows():
        x = features(row, schema)
        predicted.append(model.predict_proba_one(x)[True])
        model.learn_one(x, row["label"] == "1")
    return np.array(predicted)


def dense(schema: FeatureSchema, seed: int) -> Floats:
    """Predict, then learn, batch by batch, as the dense learner of ``resprout run`` does."""
    settings = load((str(SCHEMA), schema.settings), arguments={"seed": seed}).settings
    source, predicted = FileSource(DATA, schema), []
    model = RunDefinition(settings, source).model()
    with tempfile.TemporaryDirectory() as folder, one_thread_each():
        logs = LocalLogStore(Path(folder))
        with closing(source.attach(logs)) as feed:
            while feed.step() is not None:
                pass
        with closing(logs.reader(topics.CLICKS)) as log:
            reader = ClickReader(log, schema, settings.stream.batch_events)
            while (found := reader.next()) is not None:
                forward = model.forward(found.batch)
                predicted.append(forward.probability)
                model.learn_from(forward)
    return np.concatenate(predicted)


def second_half_ne(label: Floats, probability: Floats) -> float:
    """NE over the second half of the events."""
    half = len(label) // 2
    ce = cross_entropy(label[half:], probability[half:])
    ne = normalized_entropy(ce, float(label[half:].mean()))
    if ne is None:
        raise ValueError("the second half holds one kind of click only; use the whole file")
    return ne


def main() -> None:
    """Run both and set them side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the result as the last line")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not DATA.exists():
        raise SystemExit(f"no {DATA}; `make movielens` writes it")
    schema = load_schema(SCHEMA)
    label = np.array([float(row["label"]) for row in rows()])
    ours = second_half_ne(label, dense(schema, asked.seed))
    theirs = {rate: second_half_ne(label, river(schema, rate)) for rate in RATES}
    best = min(theirs.values())
    print(f"NE over the second half of {len(label)} events\ndense DLRM           {ours:.4f}")
    for rate, ne in theirs.items():
        print(f"logistic regression  {ne:.4f}   River, AdaGrad {rate}")
    found = {
        "bench": "movielens",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": asked.seed,
        "rows": [
            {"model": "dense", "ne": ours},
            *({"model": "river", "rate": rate, "ne": ne} for rate, ne in theirs.items()),
        ],
        "goals": [{"name": "dense NE", "value": ours, "goal": f"< {best}", "met": ours < best}],
    }
    (RESULTS / "movielens.json").write_text(json.dumps(found, indent=1) + "\n")
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
