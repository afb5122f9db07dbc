"""An export scores clicks as the learner does, in an interpreter that has nothing of Resprout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learner import LearnerConfig, LearnerState, OnlineModel
from learner.export import export, is_export
from learner.export.model import FIELDS, load
from learner.export.model import encode as encode_raw
from learner.models import build
from stream.batch import ClickBatch, ClickEvent, encode
from stream.reader import ClickCursor
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature
from tests.learner.worlds import PLAN, World, batches, dense_trainer, masks_for, model
from tests.learner.worlds import SCHEMA as WORLD_SCHEMA
from tests.structure import ROOMS, ROOT

SCHEMA = FeatureSchema(
    numeric=(
        NumericFeature(name="price", mean=2.5, scale=1.75, log1p=True),
        NumericFeature(name="age", mean=-1.0, scale=3.0),
        NumericFeature(name="balance", log1p="signed", limit=20.0),
    ),
    categorical=(
        CategoricalFeature(name="site", buckets=1_000),
        CategoricalFeature(name="tags", buckets=50, max_values=3),
        CategoricalFeature(name="ad", buckets=3),
    ),
)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"embedding_dim": 4, "bottom": [5], "top": [8, 6], "first_order": True},
]


def events(count: int) -> list[dict[str, Any]]:
    """Make events with missing values, several values and numbers for names."""
    rng = np.random.default_rng(5)
    words = ["a", "bö", "", "x=y", "long" * 80, 17, 2.5]
    found = []
    for n in range(count):
        tags = [words[i] for i in rng.integers(0, len(words), n % 4)]
        numeric = {"price": float(rng.exponential(20)), "age": None if n % 7 == 0 else n / 3}
        numeric["balance"] = None if n % 11 == 0 else float(rng.normal() * 10)
        categorical = {"site": words[n % len(words)], "tags": tags, "ad": f"ad{n % 9}"}
        if n % 5 == 0:
            del categorical["site"], numeric["price"]
        found.append({"numeric": numeric, "categorical": categorical})
    return found


def encoded(some: list[dict[str, Any]], schema: FeatureSchema = SCHEMA) -> ClickBatch:
    """Encode them as the learner does."""
    more = {"event_id": "1", "event_time": 0, "label": 0}
    return encode([ClickEvent.model_validate(one | more) for one in some], schema)


def learned(options: dict[str, Any], schema: FeatureSchema) -> OnlineModel:
    """Return a pruned model that has learned a little."""
    online = OnlineModel(build("dlrm", schema, options, seed=3), LearnerConfig())
    batch, rng = encoded(events(200), schema), np.random.default_rng(0)
    batch.label[:] = rng.integers(0, 2, len(batch))
    online.learn(batch)
    online.set_masks(masks_for(online, kept=0.2))
    for _ in range(3):
        online.learn(batch)
    return online


def alone(folder: Path, code: str, given: str = "") -> str:
    """Run code in a fresh interpreter, in the folder, which sees numpy, torch and xxhash only."""
    guard = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*ROOMS, "safetensors", "pydantic")!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Guard())
sys.path[:] = [one for one in sys.path if one != {str(ROOT)!r}]
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", guard + code],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=OPTIONS, ids=["default", "every part"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, OnlineModel]:
    online = learned(request.param, SCHEMA)
    cursor = ClickCursor(identity="7f", count=800)
    snapshot = LearnerState("sparse", 1, cursor, {}, online.state())
    written = export(snapshot, build("dlrm", SCHEMA, request.param, seed=0), SCHEMA, tmp_path)
    assert written.score_difference == 0.0
    return tmp_path, online


def test_the_guard_keeps_our_packages_out(tmp_path: Path) -> None:
    code = "import numpy\ntry:\n    import learner\nexcept ImportError as e:\n    print('none', e)"
    assert alone(tmp_path, code) == "none learner\n"


def test_events_have_the_learners_own_chances_to_the_bit(
    exported: tuple[Path, OnlineModel],
) -> None:
    folder, online = exported
    torch.set_num_threads(1)
    some = events(500)
    lines = "".join(json.dumps(one) + "\n" for one in some)
    code = """
import runpy, torch
torch.set_num_threads(1)
runpy.run_path("score.py", run_name="__main__")
"""
    found = [float(line) for line in alone(folder, code, lines).splitlines()]
    assert found == online.predict(encoded(some)).tolist()
    assert len(set(found)) > 100


@pytest.mark.parametrize("count", [1, 2, 33])
def test_batches_of_any_size_are_scored(exported: tuple[Path, OnlineModel], count: int) -> None:
    folder, online = exported
    torch.set_num_threads(1)
    batch = encoded(events(count))
    np.savez(folder / "given.npz", numeric=batch.numeric, categorical=batch.categorical)
    code = """
import numpy, torch, model
torch.set_num_threads(1)
given = numpy.load("given.npz")
found = model.load().predict_encoded(given["numeric"], given["categorical"])
print(*(one.hex() for one in found.tolist()))
"""
    found = [float.fromhex(one) for one in alone(folder, code).split()]
    assert found == online.predict(batch).tolist()


def test_the_card_says_what_is_pruned_and_how_to_use_it(
    exported: tuple[Path, OnlineModel],
) -> None:
    folder, online = exported
    card = (folder / "README.md").read_text()
    kept = sum(int(mask.sum()) for mask in online.masks.values())
    biases = sum(m.bias.numel() for m in online.module.modules() if isinstance(m, nn.Linear))
    assert f"| fully connected layers | {kept + biases:,} of " in card
    assert "python score.py < events.jsonl" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["schema"]["numeric"][0]["log1p"] is True
    assert config["model"]["name"] == "sparse"


def test_the_encoder_knows_all_that_a_feature_says() -> None:
    """A new field of the schema would be passed over in silence, and chances would be wrong."""
    assert set(NumericFeature.model_fields) == {"name", "mean", "scale", "log1p", "limit"}
    assert set(CategoricalFeature.model_fields) == {"name", "buckets", "max_values"}


TEXT = st.one_of(st.text(max_size=300), st.integers(), st.floats(allow_nan=False))
EVENT = st.fixed_dictionaries(
    {
        "numeric": st.dictionaries(
            st.sampled_from(["price", "age"]), st.none() | st.floats(-0.99, 1e6)
        ),
        "categorical": st.fixed_dictionaries(
            {},
            optional={
                "site": st.none() | TEXT,
                "tags": st.none() | TEXT | st.lists(TEXT, max_size=3),
                "ad": st.lists(TEXT, max_size=1),
            },
        ),
    }
)


@given(st.lists(EVENT, min_size=1, max_size=5))
def test_any_event_is_encoded_as_the_learner_encodes_it(some: list[dict[str, Any]]) -> None:
    expected = encoded(some)
    schema = SCHEMA.model_dump(mode="json")
    numeric, categorical, bad = encode_raw(some, schema)
    assert bad == {}
    np.testing.assert_array_equal(numeric, expected.numeric)
    np.testing.assert_array_equal(categorical, expected.categorical)


BAD: list[tuple[Any, str]] = [
    ({"numeric": {"prize": 1}}, "the model has no numeric feature 'prize', which is 1"),
    ({"categorical": {"sight": "a"}}, "the model has no categorical feature 'sight', which is 'a'"),
    ({"numeric": {"price": -2}}, "numeric feature 'price' is -2: not finite once standardised"),
    ({"numeric": {"age": float("inf")}}, "numeric feature 'age' is inf: not finite once"),
    ({"numeric": {"age": 10**400}}, "numeric feature 'age' is 1000000000"),
    ({"numeric": {"age": 1e9}}, "numeric feature 'age' is 1000000000.0: more than 1e+06 in size"),
    ({"numeric": {"balance": -1e12}}, "'balance' is -1000000000000.0: more than 20 in size once"),
    ({"numeric": {"price": "cheap"}}, "numeric feature 'price' is 'cheap': no number"),
    ({"numeric": {"price": [1]}}, "numeric feature 'price' is [1]: no number"),
    ({"numeric": [1]}, "'numeric' is [1]; it must be values by feature"),
    ({"categorical": {"tags": ["a"] * 4}}, "'tags' is ['a', 'a', 'a', 'a']: 4 values, the most is"),
    ({"categorical": {"site": {"a": 1}}}, "categorical feature 'site' is {'a': 1}: no text or num"),
    ({"categorical": {"tags": ["a", None]}}, "'tags' is ['a', None]: no text or number"),
    ({"categorical": {"site": True}}, "categorical feature 'site' is True: no text or number"),
    ({"categorical": {"site": "\ud800"}}, "categorical feature 'site' is '\\ud800': no UTF-8"),
    ({"price": 3.5}, "an event has no field 'price'; its features are in 'numeric' and"),
    ([1, 2], "[1, 2] is no event; it must have 'numeric' and 'categorical'"),
]


@pytest.mark.parametrize(("event", "complaint"), BAD)
def test_an_event_that_the_learner_would_not_take_is_refused(event: Any, complaint: str) -> None:
    """The message names the event, the feature and the value; the learner refuses it as well."""
    schema = SCHEMA.model_dump(mode="json")
    fine = events(3)
    *_, bad = encode_raw([*fine, event, *fine], schema)
    assert list(bad) == [3]
    assert complaint in bad[3]
    with pytest.raises((ValueError, TypeError)):  # a list has no ids
        encoded([event])


def test_an_event_has_the_fields_that_the_learner_knows() -> None:
    assert set(ClickEvent.model_fields) == FIELDS


def test_a_service_loads_the_folder_from_elsewhere(
    exported: tuple[Path, OnlineModel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``model.py`` may be copied; ``predict`` takes the whole event that a producer sends."""
    folder, online = exported
    torch.set_num_threads(1)
    service = tmp_path_factory.mktemp("service")
    (service / "model.py").write_bytes((folder / "model.py").read_bytes())
    some = [one | {"event_id": "a", "label": 0, "event_time": 3} for one in events(40)]
    code = f"""
import json, sys, torch
from model import load
torch.set_num_threads(1)
model = load({str(folder)!r})
events = json.load(sys.stdin)
print(*(one.hex() for one in model.predict(events).tolist()))
try:
    model.predict([*events, {{"numeric": {{"price": "cheap"}}}}])
except ValueError as error:
    print(error)
"""
    found, said = alone(service, code, json.dumps(some)).splitlines()
    expected = online.predict(encoded(events(40))).tolist()
    assert [float.fromhex(one) for one in found.split()] == expected
    assert said == "event 40: numeric feature 'price' is 'cheap': no number"


def test_a_bad_line_is_named_and_the_others_are_scored(exported: tuple[Path, OnlineModel]) -> None:
    folder, online = exported
    torch.set_num_threads(1)
    some = events(30)
    lines = [json.dumps(one).encode() for one in some]
    broken = [b'{"numeric": ', b"\xff{}", json.dumps(BAD[7][0]).encode(), b"[" * 100_000]
    given = [lines[0], broken[0], *lines[1:20], b"", broken[1], broken[2], *lines[20:], broken[3]]
    (folder / "events.jsonl").write_bytes(b"\n".join(given) + b"\n")
    done = subprocess.run(
        [sys.executable, "score.py", "events.jsonl"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [n for n, one in enumerate(printed) if one is None] == [1, 21, 22, 33]
    expected = online.predict(encoded(some)).tolist()
    assert [one for one in printed if one is not None] == expected
    first, second, third, fourth, last = done.stderr.splitlines()
    assert first.startswith("line 2: '{\"numeric\":' is no JSON: Expecting value")
    assert second.startswith("line 23: '\\xff{}' is no JSON")
    assert third == "line 24: numeric feature 'price' is 'cheap': no number"
    assert fourth.startswith("line 35: '[[[[")
    assert last == "4 of the events could not be scored; each is null"


def test_a_file_that_is_not_there_is_wrong_usage(exported: tuple[Path, OnlineModel]) -> None:
    folder, _ = exported
    command = [sys.executable, str(folder / "score.py"), str(folder / "none.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_export_is_not_loaded(exported: tuple[Path, OnlineModel]) -> None:
    folder, _ = exported
    assert is_export(folder)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"format": "resprout-export-9"}))
    assert not is_export(folder)
    with pytest.raises(ValueError, match="holds no model that this file can load; export it again"):
        load(folder)


def test_the_command_that_is_exported_is_short() -> None:
    assert len((ROOT / "learner" / "export" / "score.py").read_text().splitlines()) <= 15


def test_what_the_learner_published_next_is_what_the_exported_snapshot_predicts(
    tmp_path: Path,
) -> None:
    """The log has the predictions that the model made right after the snapshot."""
    torch.set_num_threads(1)
    config = LearnerConfig(snapshot_events=64)
    stream, world = batches(8), World(tmp_path / "world")
    world.write(stream)
    with world.ports("dense") as ports:
        trainer = dense_trainer(model(config=config), ports, PLAN)
        while not trainer.step().done:
            pass
    name = world.snapshots.find("dense", 64)
    assert name is not None
    export(world.snapshots.read(name), model().module, WORLD_SCHEMA, tmp_path / "served")
    (published,) = (one for one in world.predicted("dense") if one.begin == 64)
    clicks = stream[4]
    np.savez(tmp_path / "served" / "given.npz", n=clicks.numeric, c=clicks.categorical)
    code = """
import numpy, torch, model
torch.set_num_threads(1)
given = numpy.load("given.npz")
found = model.load().predict_encoded(given["n"], given["c"])
print(*(one.hex() for one in found.tolist()))
"""
    found = [float.fromhex(one) for one in alone(tmp_path / "served", code).split()]
    assert found == published.probability.tolist()
