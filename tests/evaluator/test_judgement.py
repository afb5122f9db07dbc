from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pydantic import TypeAdapter
from sklearn.metrics import log_loss

from evaluator.join import Join, JoinCursor
from evaluator.judging import Judging, JudgingState, LedgerState
from stream.messages import Judgement
from stream.spec import RunSpec
from stream.topics import LEDGER
from tests.evaluator.stage import SCHEMA, Floats, Stage, chance, drawn, plan, verdict

N = 400
LABEL, WEIGHT = drawn(N)
PLAN = plan(2, 120)
SPEC = RunSpec.small(
    schema=SCHEMA, batch_events=10, window_events=40, rebuild_events=80, judge_events=60
)
BEGIN, END = 140, 200
ROWS = slice(BEGIN, END)
MODELS = ("dense", "sparse", "candidate-2")


def laid_out(folder: Path, weight: Floats = WEIGHT, through: int = END) -> Stage:
    """Lay out a candidate that has predicted up to ``through``."""
    stage = Stage(folder, SPEC)
    stage.clicks(LABEL, weight)
    stage.predict("dense", chance("dense", N))
    stage.predict("sparse", chance("sparse", N))
    stage.predict("candidate-2", chance("candidate-2", N), BEGIN, through)
    return stage


def at_begin(stage: Stage) -> JoinCursor:
    """Walk to where the judgement begins."""
    join = Join(stage.home, SPEC)
    while join.count < BEGIN:
        join.next(("dense", "sparse"))
    return join.cursor


class OneJudge:
    """The judging of one rebuild, with or without a verdict in its ledger."""

    def __init__(self, stage: Stage, state: JudgingState | None = None) -> None:
        def open_join(cursor: JoinCursor) -> Join:
            return Join(stage.home, SPEC, cursor)

        self.judging = Judging(
            open_join, SPEC, state or JudgingState(starts={BEGIN: at_begin(stage)})
        )
        self.ledger = LedgerState(stage.home.reader(LEDGER), SPEC)
        self.ledger.plans[PLAN.number] = PLAN

    def step(self, *, has_verdict: bool) -> tuple[int, Judgement | None]:
        if has_verdict:
            self.ledger.verdicts[PLAN.number] = verdict(PLAN, "failed")
        return self.judging.step(self.ledger)

    @property
    def done(self) -> bool:
        return self.judging.state.judged == PLAN.number


def judged(stage: Stage) -> Judgement:
    judge = OneJudge(stage)
    for _ in range(6):
        events, judgement = judge.step(has_verdict=False)
        assert events == 10
    assert judge.done
    assert judgement is not None
    return judgement


def loss(model: str) -> Floats:
    """Losses by brute force."""
    p = chance(model, N)[ROWS]
    return np.array([-np.log(p[i] if LABEL[ROWS][i] else 1 - p[i]) for i in range(END - BEGIN)])


def test_a_judgement_equals_brute_force(tmp_path: Path) -> None:
    found = judged(laid_out(tmp_path))
    assert (found.rebuild, found.begin, found.end) == (2, BEGIN, END)
    for name, ce in (
        ("candidate-2", found.candidate_ce),
        ("sparse", found.incumbent_ce),
        ("dense", found.dense_ce),
    ):
        p = chance(name, N)[ROWS]
        assert ce == pytest.approx(log_loss(LABEL[ROWS], p, sample_weight=WEIGHT[ROWS]), rel=1e-12)
    difference = np.average(loss("candidate-2") - loss("sparse"), weights=WEIGHT[ROWS])
    assert found.difference.mean == pytest.approx(difference)
    assert found.relative.mean == pytest.approx(found.candidate_ce / found.incumbent_ce - 1)


def test_without_weights_the_interval_is_that_of_a_paired_t_test(tmp_path: Path) -> None:
    found = judged(laid_out(tmp_path, weight=np.ones(N)))
    oracle = scipy.stats.ttest_rel(loss("candidate-2"), loss("sparse")).confidence_interval()
    assert found.difference.low == pytest.approx(oracle.low)
    assert found.difference.high == pytest.approx(oracle.high)


def test_the_interval_of_the_relative_difference_is_that_of_its_residuals(tmp_path: Path) -> None:
    found = judged(laid_out(tmp_path))
    new, old = loss("candidate-2") * WEIGHT[ROWS], loss("sparse") * WEIGHT[ROWS]
    residual = new - new.sum() / old.sum() * old
    error = scipy.stats.sem(residual) / old.mean()
    assert found.relative.high is not None
    reach = scipy.stats.t.ppf(0.975, len(new) - 1) * error
    assert found.relative.high - found.relative.mean == pytest.approx(reach)


def test_it_goes_on_from_its_state_to_the_same_bits(tmp_path: Path) -> None:
    stage = laid_out(tmp_path)
    whole = judged(stage)
    adapter = TypeAdapter(JudgingState)
    state, judgement = JudgingState(starts={BEGIN: at_begin(stage)}), None
    for _ in range(6):
        judge = OneJudge(stage, adapter.validate_json(adapter.dump_json(state)))
        _, judgement = judge.step(has_verdict=False)
        state = judge.judging.state
        judge.judging.close()
    assert judgement == whole


def test_it_waits_for_a_candidate_that_may_still_predict(tmp_path: Path) -> None:
    stage = laid_out(tmp_path, through=160)
    judge = OneJudge(stage)
    assert [judge.step(has_verdict=False)[0] for _ in range(3)] == [10, 10, 0]
    assert not judge.done
    stage.predict("candidate-2", chance("candidate-2", N), 160, END)
    assert [judge.step(has_verdict=False)[0] for _ in range(4)] == [10, 10, 10, 10]
    assert judge.done


def test_it_gives_up_a_candidate_with_a_verdict_once_it_has_seen_all_its_predictions(
    tmp_path: Path,
) -> None:
    judge = OneJudge(laid_out(tmp_path, through=160))
    found = [(judge.step(has_verdict=True), judge.done) for _ in range(3)]
    assert found == [((10, None), False), ((10, None), False), ((0, None), True)]


def test_a_complete_candidate_is_judged_even_if_it_has_a_verdict(tmp_path: Path) -> None:
    judge = OneJudge(laid_out(tmp_path))
    found = [judge.step(has_verdict=True)[1] for _ in range(6)]
    assert found[-1] is not None


def test_it_waits_for_the_incumbent_whatever_the_verdict(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SPEC)
    stage.clicks(LABEL, WEIGHT)
    stage.predict("dense", chance("dense", N))
    stage.predict("sparse", chance("sparse", N), 0, BEGIN)
    judge = OneJudge(stage)
    assert judge.step(has_verdict=True) == (0, None)
    assert not judge.done
