from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from learner import (
    Continue,
    ModelVersion,
    NoModel,
    Ports,
    Publication,
    RollBackTo,
    StreamTrainer,
    SwitchTo,
)
from pruner import FirstMaskSource, InputEnd, LedgerMaskSource, requests, version_of
from pruner.decisions import ended_early
from pruner.masks import ReconcilingRegistry
from pruner.updaters import FixedMask
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.spec import RunSpec, Waiting
from stream.state import Checkpoints
from stream.topics import LEDGER
from tests.pruner.test_decisions import FIRST_PLAN
from tests.pruner.test_requests import back_to, opened, two_versions
from tests.pruner.worlds import (
    RUN,
    SCHEMA,
    WINDOW,
    World,
    build,
    first_mask,
    judgement,
    rules_with,
    stream,
    window,
)


@contextmanager
def source_of(world: World, spec: RunSpec = RUN) -> Iterator[LedgerMaskSource]:
    with (
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.reader(topics.LEDGER)) as ledger,
    ):
        end = InputEnd(reader, world.snapshots, SCHEMA)
        yield LedgerMaskSource(ledger, spec, end.total)


@contextmanager
def served(world: World) -> Iterator[tuple[StreamTrainer, LedgerMaskSource]]:
    """Open the trainer of the served model, with its source."""
    with (
        source_of(world) as source,
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.writer(topics.predictions("sparse"))) as writer,
    ):
        state = Checkpoints(world.folder / "state" / "sparse")
        ports = Ports("sparse", reader, writer, state, world.snapshots)
        registry = ReconcilingRegistry(world.masks, world.snapshots, source.versions)
        yield StreamTrainer(build(), ports, RUN, FixedMask(), source, registry), source


def test_before_the_first_mask_it_waits_and_then_it_swaps(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(1000))
    world.dense(1000)
    with source_of(world) as source:
        assert source.at(None) == Waiting(LEDGER, "the first mask")
        world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
        world.work()
        (verdict,) = world.verdicts()
        assert source.at(None) == SwitchTo(
            ModelVersion(1, str(verdict.snapshot), 600, verdict.mask)
        )
        assert source.at(600) == source.at(None)


def test_it_lets_the_model_go_as_far_as_the_leash(tmp_path: Path) -> None:
    """Decided through 600: the model may come to 800, one lead beyond the window of 700."""
    world = first_mask(tmp_path)
    with source_of(world) as source:
        assert [source.at(count) for count in (620, 700, 780)] == [Continue()] * 3
        assert source.at(800) == Waiting(LEDGER, "the decision on the window ending at 700")
        world.find(window(700, 0.1))
        world.work()
        assert source.at(800) == Continue()
        assert source.at(900) == Waiting(LEDGER, "the decision on the window ending at 800")


@pytest.mark.parametrize("percent", [-0.1, 0.1])
def test_at_e_it_waits_for_the_verdict(tmp_path: Path, percent: float) -> None:
    world = first_mask(tmp_path)
    world.find(window(700, 0.1), window(800, 0.5))
    world.work()
    with source_of(world) as source:
        assert source.at(880) == Continue()
        assert source.at(1000) == Waiting(LEDGER, "the decision on the window ending at 900")
        world.find(window(900, 0.5), window(1000, 0.5))
        world.work()
        assert source.at(1000) == Waiting(LEDGER, "the verdict on rebuild 2")
        world.find(judgement(2, 1000, percent))
        world.work()
        answer = source.at(1000)
        verdict = world.verdicts()[-1]
        assert answer == (SwitchTo(version_of(verdict)) if percent < 0 else Continue())
        assert source.at(1020) == Continue()


def test_the_twin_swaps_once(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    with source_of(world) as source:
        twin = FirstMaskSource(source)
        assert twin.at(None) == source.at(None)
        assert twin.at(600) == Continue()
        assert twin.at(100_000) == Continue()


@pytest.mark.parametrize("events", [260, 500])
def test_it_is_over_when_the_input_ended_before_a_first_mask(tmp_path: Path, events: int) -> None:
    world = World(tmp_path)
    world.click(stream(events), end=True)
    with source_of(world) as source:
        assert source.at(None) == Waiting(LEDGER, "the first mask")
        world.dense(1000)
        assert source.at(None) == Waiting(LEDGER, "the first mask")
        world.find(*(window(count) for count in range(WINDOW, events + 1, WINDOW)))
        world.work()
        assert source.at(None) == NoModel()


def test_a_rebuild_that_was_not_promoted_is_no_swap() -> None:
    with pytest.raises(ValueError, match="rebuild 1 was unfinished: no swap"):
        version_of(ended_early(FIRST_PLAN, "unfinished", "", 500))


def test_a_sparse_learner_under_it_becomes_every_promoted_candidate(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    with served(world) as (sparse, _):

        def live() -> tuple[int, str]:
            while (step := sparse.step()).waiting_for is None:
                pass
            return step.count, str(step.waiting_for)

        assert live() == (800, "the decision on the window ending at 700")
        world.find(window(700, 0.1), window(800, 0.5), window(900, 0.5))
        world.work()
        assert live() == (1000, "the verdict on rebuild 2")
        world.find(window(1000, 0.5), judgement(2, 1000, -0.1))
        world.work()
        assert live() == (1200, "the decision on the window ending at 1100")
        assert sparse.version == 2
        assert world.masks.head() == Publication.first(version_of(world.verdicts()[-1]))


def test_a_rollback_comes_exactly_one_lead_behind_its_window(tmp_path: Path) -> None:
    """At 1400 the open rebuild would have ended; the rollback has superseded it at 1300."""
    world = opened(tmp_path)
    with source_of(world) as source:
        assert source.at(1400) == Waiting(LEDGER, "the decision on the window ending at 1300")
        requests.ask(world.home, back_to(1))
        world.find(window(1300, 0.1))
        world.work()
        first = world.verdicts()[0]
        back = RollBackTo(ModelVersion(3, str(first.snapshot), 1400, first.mask))
        found = [source.at(count) for count in (1100, 1300, 1380, 1400, 1420)]
        second = SwitchTo(version_of(world.verdicts()[1]))
        assert found == [second, Continue(), Continue(), back, Continue()]
        assert [one.version for one in source.versions()] == [1, 2, 3]
        assert FirstMaskSource(source).at(None) == SwitchTo(version_of(first))
        assert FirstMaskSource(source).at(1400) == Continue()


def test_without_a_lead_a_rollback_comes_with_the_decision_itself(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    world.rules = rules_with(lead_events=0)
    with source_of(world, replace(RUN, lead_events=0)) as source:
        assert source.at(1180) == Continue()
        assert source.at(1200) == Waiting(LEDGER, "the decision on the window ending at 1200")
        requests.ask(world.home, back_to(1))
        world.find(window(1200, 0.1))
        world.work()
        answer = source.at(1200)
        assert isinstance(answer, RollBackTo)
        assert (answer.to.version, answer.to.count) == (3, 1200)


def test_a_model_at_e_of_a_superseded_rebuild_goes_on(tmp_path: Path) -> None:
    """With a lead of 200 the model may stand at E while the rollback is decided."""
    world = opened(tmp_path)
    world.rules = rules_with(lead_events=200)
    with source_of(world, replace(RUN, lead_events=200)) as source:
        assert source.at(1400) == Waiting(LEDGER, "the verdict on rebuild 3")
        requests.ask(world.home, back_to(1))
        world.find(window(1300, 0.1))
        world.work(1)
        assert source.at(1400) == Waiting(LEDGER, "the verdict on rebuild 3")
        world.work(1)
        assert source.at(1400) == Continue()
        assert isinstance(source.at(1500), RollBackTo)


def test_a_sparse_learner_under_it_goes_back_where_it_stands(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    with served(world) as (sparse, source):
        while sparse.step().waiting_for is None:
            pass
        requests.ask(world.home, back_to(1))
        world.find(window(1200, 0.1))
        world.work()
        while (step := sparse.step()).waiting_for is None:
            pass
        assert (step.count, sparse.version) == (1400, 3)
        first = world.verdicts()[0]
        back = ModelVersion(3, str(first.snapshot), 1300, first.mask)
        assert world.masks.head() == Publication.first(back)
        assert [one.version for one in source.versions()] == [1, 2, 3]
    stored = world.values(topics.predictions("sparse"))
    published = [predictions_from_bytes(value) for value in stored]
    versions = {batch.begin: batch.version for batch in published}
    assert {begin: versions[begin] for begin in (600, 1080, 1100, 1280, 1300)} == {
        600: 1,
        1080: 1,
        1100: 2,
        1280: 2,
        1300: 3,
    }
