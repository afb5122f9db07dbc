"""A further model beside those of a run, as its wiring makes it."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner import masks_of
from pruner.masks import sparsity
from resprout.folder import RunFolder
from resprout.settings import NEVER_REBUILT
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import Wiring
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.follow import read_all
from tests.resprout.eventful import TOTAL, eventful

FIRST_END = 7_000


def with_comparison(**config: object) -> RunDefinition:
    """Return the eventful run with one more model."""
    changed = {f"comparisons__adapting__{name}": value for name, value in config.items()}
    plan = RunDefinition.generated(eventful(**changed))
    return replace(plan, source=ExternalSource(plan.source.schema))


@pytest.mark.parametrize(
    "config",
    [{"updater": "adaptation"}, {"updater": "adaptation", "criterion": "mop"}, {}],
    ids=["aux", "mop", "fixed"],
)
def test_it_learns_from_the_first_mask_to_the_end(
    whole: RunFolder, tmp_path: Path, config: dict[str, object]
) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    plan = with_comparison(**config or {"updater": "fixed"})
    with closing(Wiring(plan, folder, folder.home, ["adapting"])) as wiring:
        (worker,) = wiring.workers()
        while not (step := worker.step()).done:
            assert step.waiting_for is None
        worker.close()
        assert "adapting" in wiring.models
    assert step.count == TOTAL
    with closing(folder.home.reader(topics.predictions("adapting"))) as reader:
        batches = [predictions_from_bytes(stored.record.value) for stored in read_all(reader)]
    assert (batches[0].begin, batches[-1].end) == (FIRST_END, TOTAL)
    ours, never = (
        folder.snapshots.read(folder.snapshots.names(name)[-1])
        for name in ("adapting", NEVER_REBUILT)
    )
    now, first = masks_of(ours), masks_of(never)
    assert sparsity(now) == sparsity(first)
    moved = any(not torch.equal(first[name], mask) for name, mask in now.items())
    assert moved == (config != {})
    if not moved:
        assert all(torch.equal(t, ours.tensors[name]) for name, t in never.tensors.items())


def test_what_a_comparison_names_is_checked_before_a_run_begins() -> None:
    for config, complaint in (
        ({"updater": "grafting"}, "comparisons.adapting: unknown updater 'grafting'; known: ada"),
        ({"updater": "adaptation", "criterion": "fisher"}, "unknown criterion 'fisher'"),
        ({"updater": "adaptation", "options": {"every": 3}}, "every"),
    ):
        with pytest.raises(ValueError, match=complaint):
            with_comparison(**config).check()


@pytest.mark.parametrize("setting", ["returning_weights", "returning_sums"])
def test_values_that_no_updater_gives_cannot_be_asked_for(setting: str) -> None:
    plan = RunDefinition.generated(eventful(**{f"learner__masking__{setting}": "given"}))
    with pytest.raises(ValueError, match=f"learner.masking.{setting} = 'given' is for models in"):
        plan.check()


@pytest.mark.parametrize(
    ("criterion", "named"),
    [({"pruner__criterion": "wanda"}, "criterion"), ({}, "comparisons.adapting: criterion")],
    ids=["pruner", "comparison"],
)
def test_a_criterion_of_inputs_cannot_be_asked_to_prune_embeddings(
    criterion: dict[str, object], named: str
) -> None:
    asked = {"learner__masking__embeddings": True, **criterion}
    if not criterion:
        asked |= {"comparisons__adapting__criterion": "wanda"}
    plan = RunDefinition.generated(eventful(**asked))
    with pytest.raises(ValueError, match=f"^{named} 'wanda' needs the inputs of a layer, and the "):
        plan.check()
    RunDefinition.generated(eventful(**criterion)).check()
