from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from learner.registry import Continue, NoModel, RollBackTo, Swap, Wait
from learner.trainer import Ports, SparseLearner
from pruner import requests
from pruner.decisions import FirstMaskSource, LedgerMaskSource, swap_of
from pruner.masks.projection import Projection
from pruner.verdicts import unfinished
from pruner.worker import InputEnd
from stream import topics
from stream.columnar import predictions_from_bytes
from stream.spec import RunSpec, Waiting
from stream.state import Checkpoints
from stream.topics import LEDGER
from tests.pruner.test_ledger import FIRST_PLAN
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
def regime_of(world: World, spec: RunSpec = RUN) -> Iterator[LedgerMaskSource]:
    with (
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.reader(topics.LEDGER)) as ledger,
    ):
        end = InputEnd(reader, world.snapshots, SCHEMA)
        yield LedgerMaskSource(ledger, spec, end.total)


def test_before_the_first_mask_it_waits_and_then_it_swaps(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.click(stream(1000))
    world.dense(1000)
    with regime_of(world) as regime:
        assert regime.at(None) == Wait(Waiting(LEDGER, "the first mask"))
        world.find(*(window(count) for count in range(WINDOW, 700, WINDOW)))
        world.work()
        (verdict,) = world.verdicts()
        assert regime.at(None) == Swap(1, str(verdict.snapshot), 600, verdict.mask)
        assert regime.at(600) == regime.at(None)


def test_it_lets_the_model_go_as_far_as_the_leash(tmp_path: Path) -> None:
    """Decided through 600: the model may come to 800, one lead beyond the window of 700."""
    world = first_mask(tmp_path)
    with regime_of(world) as regime:
        assert [regime.at(count) for count in (620, 700, 780)] == [Continue()] * 3
        assert regime.at(800) == Wait(Waiting(LEDGER, "the decision on the window ending at 700"))
        world.find(window(700, 0.1))
        world.work()
        assert regime.at(800) == Continue()
        assert regime.at(900) == Wait(Waiting(LEDGER, "the decision on the window ending at 800"))


@pytest.mark.parametrize("percent", [-0.1, 0.1])
def test_at_e_it_waits_for_the_verdict(tmp_path: Path, percent: float) -> None:
    world = first_mask(tmp_path)
    world.find(window(700, 0.1), window(800, 0.5))
    world.work()
    with regime_of(world) as regime:
        assert regime.at(880) == Continue()
        assert regime.at(1000) == Wait(Waiting(LEDGER, "the decision on the window ending at 900"))
        world.find(window(900, 0.5), window(1000, 0.5))
        world.work()
        assert regime.at(1000) == Wait(Waiting(LEDGER, "the verdict on rebuild 2"))
        world.find(judgement(2, 1000, percent))
        world.work()
        answer = regime.at(1000)
        verdict = world.verdicts()[-1]
        assert answer == (swap_of(verdict) if percent < 0 else Continue())
        assert regime.at(1020) == Continue()


def test_the_twin_swaps_once(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    with regime_of(world) as regime:
        twin = FirstMaskSource(regime)
        assert twin.at(None) == regime.at(None)
        assert twin.at(600) == Continue()
        assert twin.at(100_000) == Continue()


@pytest.mark.parametrize("events", [260, 500])
def test_it_is_over_when_the_input_ended_before_a_first_mask(tmp_path: Path, events: int) -> None:
    world = World(tmp_path)
    world.click(stream(events), end=True)
    with regime_of(world) as regime:
        assert regime.at(None) == Wait(Waiting(LEDGER, "the first mask"))
        world.dense(1000)
        assert regime.at(None) == Wait(Waiting(LEDGER, "the first mask"))
        world.find(*(window(count) for count in range(WINDOW, events + 1, WINDOW)))
        world.work()
        assert regime.at(None) == NoModel()


def test_a_rebuild_that_was_not_promoted_is_no_swap() -> None:
    with pytest.raises(ValueError, match="rebuild 1 was unfinished: no swap"):
        swap_of(unfinished(FIRST_PLAN, 500))


def test_a_sparse_learner_under_it_becomes_every_promoted_candidate(tmp_path: Path) -> None:
    world = first_mask(tmp_path)
    with (
        regime_of(world) as regime,
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.writer(topics.predictions("sparse"))) as writer,
    ):
        state = Checkpoints(tmp_path / "state" / "sparse")
        ports = Ports("sparse", reader, writer, state, world.snapshots)
        head = Projection(world.masks, world.snapshots, regime.swaps)
        sparse = SparseLearner(build(), ports, RUN, regime, head)

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
        assert world.masks.head() == swap_of(world.verdicts()[-1])


def test_a_rollback_comes_exactly_one_lead_behind_its_window(tmp_path: Path) -> None:
    """At 1400 the open rebuild would have ended; the rollback has overruled it at 1300."""
    world = opened(tmp_path)
    with regime_of(world) as regime:
        assert regime.at(1400) == Wait(Waiting(LEDGER, "the decision on the window ending at 1300"))
        requests.ask(world.home, back_to(1))
        world.find(window(1300, 0.1))
        world.work()
        first = world.verdicts()[0]
        back = RollBackTo(Swap(3, str(first.snapshot), 1400, first.mask))
        found = [regime.at(count) for count in (1100, 1300, 1380, 1400, 1420)]
        assert found == [swap_of(world.verdicts()[1]), Continue(), Continue(), back, Continue()]
        assert [swap.version for swap in regime.swaps()] == [1, 2, 3]
        assert FirstMaskSource(regime).at(None) == swap_of(first)
        assert FirstMaskSource(regime).at(1400) == Continue()


def test_without_a_lead_a_rollback_comes_with_the_decision_itself(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    world.rules = rules_with(lead_events=0)
    with regime_of(world, replace(RUN, lead_events=0)) as regime:
        assert regime.at(1180) == Continue()
        assert regime.at(1200) == Wait(Waiting(LEDGER, "the decision on the window ending at 1200"))
        requests.ask(world.home, back_to(1))
        world.find(window(1200, 0.1))
        world.work()
        answer = regime.at(1200)
        assert isinstance(answer, RollBackTo)
        assert (answer.to.version, answer.to.count) == (3, 1200)


def test_a_model_at_e_of_an_overruled_rebuild_goes_on(tmp_path: Path) -> None:
    """With a lead of 200 the model may stand at E while the rollback is decided."""
    world = opened(tmp_path)
    world.rules = rules_with(lead_events=200)
    with regime_of(world, replace(RUN, lead_events=200)) as regime:
        assert regime.at(1400) == Wait(Waiting(LEDGER, "the verdict on rebuild 3"))
        requests.ask(world.home, back_to(1))
        world.find(window(1300, 0.1))
        world.work(1)
        assert regime.at(1400) == Wait(Waiting(LEDGER, "the verdict on rebuild 3"))
        world.work(1)
        assert regime.at(1400) == Continue()
        assert isinstance(regime.at(1500), RollBackTo)


def test_a_sparse_learner_under_it_goes_back_where_it_stands(tmp_path: Path) -> None:
    world = two_versions(tmp_path)
    with (
        regime_of(world) as regime,
        closing(world.home.reader(topics.CLICKS)) as reader,
        closing(world.home.writer(topics.predictions("sparse"))) as writer,
    ):
        state = Checkpoints(tmp_path / "state" / "sparse")
        ports = Ports("sparse", reader, writer, state, world.snapshots)
        head = Projection(world.masks, world.snapshots, regime.swaps)
        sparse = SparseLearner(build(), ports, RUN, regime, head)
        while sparse.step().waiting_for is None:
            pass
        requests.ask(world.home, back_to(1))
        world.find(window(1200, 0.1))
        world.work()
        while (step := sparse.step()).waiting_for is None:
            pass
        assert (step.count, sparse.version) == (1400, 3)
        first = world.verdicts()[0]
        assert world.masks.head() == Swap(3, str(first.snapshot), 1300, first.mask)
        assert [swap.version for swap in world.masks.history()] == [1, 2, 3]
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
