from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.models import BUILT_IN, Candidate, build, check
from tests.learner.worlds import SCHEMA, batches


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_model_turns_a_batch_into_finite_logits(name: str) -> None:
    clicks = batches(1)[0]
    model = build(name, SCHEMA, {}, seed=0)
    logits = model(torch.tensor(clicks.numeric), torch.tensor(clicks.categorical))
    assert logits.shape == (len(clicks),)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_seed_alone_decides_the_weights_at_the_start(name: str) -> None:
    torch.manual_seed(1)
    first = build(name, SCHEMA, {}, seed=5).state_dict()
    torch.manual_seed(2)
    again = build(name, SCHEMA, {}, seed=5).state_dict()
    other = build(name, SCHEMA, {}, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_model_keeps_the_promises_of_the_contract(name: str) -> None:
    assert [one for one in check(Candidate(name, {})) if not one.passed] == []


def test_building_leaves_the_shared_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build("dlrm", SCHEMA, {}, seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_an_unknown_model_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match="unknown model 'dlmr'; known: dlrm"):
        build("dlmr", SCHEMA, {}, seed=0)


def test_another_package_offers_a_model_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_models.py").write_text(
        "from torch import nn\n"
        "def flat(schema, options):\n"
        "    return nn.Linear(schema.numeric_count, options['width'])\n"
    )
    about = tmp_path / "their_models-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[resprout.models]\nflat = their_models:flat\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(build("flat", SCHEMA, {"width": 3}, seed=0)).startswith("Linear(in_features=2, out")
    with pytest.raises(ValueError, match="unknown model 'flatt'; known: dlrm, flat"):
        build("flatt", SCHEMA, {}, seed=0)
