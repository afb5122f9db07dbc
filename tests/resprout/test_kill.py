"""Killed with ``kill -9`` and resumed, a run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch

from learner.checkpoint import from_parts
from resprout.application import execute
from resprout.folder import RunFolder
from resprout.settings import MODELS
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.keyed import read_all
from stream.messages import Judgement, Window, parse
from tests.resprout.victim import LIVES, PLAN

INPUTS = (topics.CLICKS, topics.TRUTH)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """Two runs of the same clicks: one undisturbed, one killed twenty times."""
    whole, killed = (RunFolder(tmp_path_factory.mktemp(name)) for name in ("whole", "killed"))
    for log in INPUTS:
        identity = f"logs/{log}/identity"
        whole.home.reader(log).close()
        (killed.path / identity).parent.mkdir(parents=True)
        (killed.path / identity).write_bytes((whole.path / identity).read_bytes())
    execute(PLAN, whole.path)
    command = [sys.executable, "-m", "tests.resprout.victim", str(killed.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert Counter(end["kind"] for end in ends if end["killed"]) == Counter(LIVES[:-1])
    return whole, killed


def values(folder: RunFolder, log: str) -> list[bytes]:
    reader = folder.home.reader(log)
    found = [stored.record.value for stored in read_all(reader)]
    reader.close()
    return found


def first_of_each(keyed: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """What readers keep; whatever repeats it must have the same bytes."""
    kept: dict[str, bytes] = {}
    for key, value in keyed:
        assert kept.setdefault(key, value) == value, key
    return kept


def test_twenty_lives_are_as_many_as_were_asked_for() -> None:
    kinds = Counter(LIVES[:-1])
    assert (kinds.total(), kinds["rebuild"] >= 5, kinds["promotion"] >= 3) == (20, True, True)


@pytest.mark.parametrize("log", INPUTS)
def test_the_clicks_and_their_truth_are_the_same(
    folders: tuple[RunFolder, RunFolder], log: str
) -> None:
    whole, killed = folders
    assert values(whole, log) == values(killed, log)


@pytest.mark.parametrize("model", [*MODELS, "candidate-1"])
def test_the_predictions_are_the_same(folders: tuple[RunFolder, RunFolder], model: str) -> None:
    one, two = (
        first_of_each(
            [
                (f"{batch.model}/{batch.begin}", value)
                for value in values(folder, topics.predictions(model))
                if (batch := predictions_from_bytes(value))
            ]
        )
        for folder in folders
    )
    assert one == two
    assert one


def test_windows_and_judgements_are_the_same(folders: tuple[RunFolder, RunFolder]) -> None:
    one, two = (
        first_of_each(
            [
                (message.key, value)
                for value in values(folder, topics.WINDOWS)
                if isinstance(message := parse(value), Window | Judgement)
            ]
        )
        for folder in folders
    )
    assert one == two
    assert any(key.startswith("judgement") for key in one)


def test_the_ledgers_are_the_same(folders: tuple[RunFolder, RunFolder]) -> None:
    one, two = (
        list(first_of_each([(parse(v).key, v) for v in values(folder, topics.LEDGER)]).values())
        for folder in folders
    )
    assert one == two


@pytest.mark.parametrize("model", MODELS)
def test_the_last_states_of_the_models_are_the_same(
    folders: tuple[RunFolder, RunFolder], model: str
) -> None:
    kept = [folder.checkpoints(model).latest() for folder in folders]
    one, two = (from_parts(checkpoint.parts) for checkpoint in kept if checkpoint)
    assert (one.version, one.cursor, one.trained_through) == (
        two.version,
        two.cursor,
        two.trained_through,
    )
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


def test_the_snapshots_are_the_same(folders: tuple[RunFolder, RunFolder]) -> None:
    """Their names hold the hashes of their contents."""
    one, two = (
        {path.relative_to(f.snapshots.folder) for path in f.snapshots.folder.glob("*/[!.]*")}
        for f in folders
    )
    assert one == two


def test_the_masks_and_the_head_are_the_same(folders: tuple[RunFolder, RunFolder]) -> None:
    one, two = (folder.masks("disk") for folder in folders)
    assert one.names() == two.names()
    assert one.head() == two.head()
