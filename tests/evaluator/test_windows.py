from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from pydantic import TypeAdapter
from scipy.special import rel_entr
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from evaluator.config import EvaluatorConfig
from evaluator.join import JoinedBatch, Predicted
from evaluator.metrics.ece import expected_calibration_error
from evaluator.metrics.metric import histogram
from evaluator.windows import Sums, TumblingWindows, WindowsState
from stream.messages import Lifetime, ModelScore, Window
from tests.evaluator.stage import chance, drawn

N = 300
LABEL, WEIGHT = drawn(N)
CONFIG = EvaluatorConfig(windows=(50, 20), models=("dense", "sparse"), min_clicks=2)


def batch(begin: int, end: int, starts: int = 0, label: np.ndarray = LABEL) -> Sums:
    rows = slice(begin, end)
    models = ("dense", "sparse") if begin >= starts else ("dense",)
    predicted = {name: Predicted(1, chance(name, N)[rows]) for name in models}
    return Sums.of(JoinedBatch(begin, label[rows], WEIGHT[rows], predicted))


def fed(windows: TumblingWindows, begin: int, end: int, starts: int = 0) -> list[Window]:
    found: list[Window] = []
    for at in range(begin, end, 10):
        found += windows.add(batch(at, at + 10, starts))
    return found


def dense(window: Window) -> ModelScore:
    score = window.models["dense"]
    assert score is not None
    return score


def test_windows_of_every_size_follow_each_other_without_a_gap() -> None:
    found = fed(TumblingWindows(CONFIG), 0, 100)
    assert [(w.size, w.number, w.begin, w.end) for w in found] == [
        (20, 0, 0, 20),
        (20, 1, 20, 40),
        (50, 0, 0, 50),
        (20, 2, 40, 60),
        (20, 3, 60, 80),
        (20, 4, 80, 100),
        (50, 1, 50, 100),
    ]
    assert not any(window.partial for window in found)


def test_scores_of_a_window_are_those_of_scikit_learn_and_scipy() -> None:
    window = fed(TumblingWindows(CONFIG), 0, 100)[-1]
    rows = slice(50, 100)
    label, weight = LABEL[rows], WEIGHT[rows]
    rate = np.average(label, weights=weight)
    before = np.average(LABEL[:50], weights=WEIGHT[:50])
    assert window.click_rate == pytest.approx(rate)
    assert (window.weight, window.clicks) == pytest.approx((weight.sum(), weight @ label))
    ces = {}
    for name in ("dense", "sparse"):
        score = window.models[name]
        assert score is not None
        p = chance(name, N)[rows]
        ces[name] = log_loss(label, p, sample_weight=weight)
        constant = log_loss(label, np.full(50, before), sample_weight=weight)
        assert score.metrics["ce"] == pytest.approx(ces[name], rel=1e-12)
        assert score.metrics["ne"] == pytest.approx(
            ces[name] / scipy.stats.entropy([rate, 1 - rate])
        )
        assert score.metrics["ne_training"] == pytest.approx(ces[name] / constant)
        assert score.metrics["calibration"] == pytest.approx((weight @ p) / (weight @ label))
    relative = window.interval("sparse", "relative_ce")
    assert relative is not None
    assert relative.mean == pytest.approx(ces["sparse"] / ces["dense"] - 1)
    assert "relative_ce" not in dense(window).metrics


def test_the_other_scores_of_a_window_are_those_of_scikit_learn_and_scipy() -> None:
    truth = chance("truth", N)
    windows = TumblingWindows(EvaluatorConfig(windows=(N,), models=("dense",), min_clicks=2))
    p = chance("dense", N)
    joined = JoinedBatch(0, LABEL, WEIGHT, {"dense": Predicted(1, p)}, truth)
    score = dense(windows.add(Sums.of(joined))[0])
    assert score.metrics["predicted_clicks"] == pytest.approx(WEIGHT @ p)
    regret = rel_entr(truth, p) + rel_entr(1 - truth, 1 - p)
    assert score.metrics["regret"] == pytest.approx(np.average(regret, weights=WEIGHT))
    assert score.errors["roc_auc"] is not None
    assert score.errors["roc_auc"] < 0.02
    exact = roc_auc_score(LABEL, p, sample_weight=WEIGHT)
    assert score.metrics["roc_auc"] == pytest.approx(exact, abs=score.errors["roc_auc"])
    exact = average_precision_score(LABEL, p, sample_weight=WEIGHT)
    assert score.metrics["pr_auc"] == pytest.approx(exact, abs=score.errors["pr_auc"])
    assert score.metrics["ece"] == expected_calibration_error(histogram(p, LABEL, WEIGHT))


def test_predicting_the_click_rate_of_the_window_scores_one() -> None:
    rate = float(np.average(LABEL[:20], weights=WEIGHT[:20]))
    constant = {"dense": Predicted(1, np.full(20, rate))}
    windows = TumblingWindows(EvaluatorConfig(windows=(20,), models=("dense",), min_clicks=2))
    closed = windows.add(Sums.of(JoinedBatch(0, LABEL[:20], WEIGHT[:20], constant)))
    score = dense(closed[0])
    assert score.metrics["ne"] == pytest.approx(1, abs=1e-12)
    assert score.metrics["calibration"] == pytest.approx(1, abs=1e-12)


def test_a_model_that_starts_late_is_none_until_a_window_begins_after_its_start() -> None:
    found = fed(TumblingWindows(CONFIG), 0, 100, starts=30)
    scored = {window.key: window.models["sparse"] is not None for window in found}
    assert scored == {
        "window/20/0": False,
        "window/20/1": False,
        "window/20/2": True,
        "window/20/3": True,
        "window/20/4": True,
        "window/50/0": False,
        "window/50/1": True,
    }
    assert all(window.models["dense"] for window in found)
    missing = [window.interval("sparse", "relative_ce") is None for window in found]
    assert missing == [not there for there in (scored[window.key] for window in found)]


def test_normalized_entropy_is_none_with_too_few_clicks() -> None:
    label = np.zeros(N)
    label[[3, 25, 27]] = 1
    windows = TumblingWindows(CONFIG)
    found = [w for at in range(0, 60, 10) for w in windows.add(batch(at, at + 10, label=label))]
    ne = {window.key: dense(window).metrics["ne"] is None for window in found}
    assert ne == {
        "window/20/0": True,
        "window/20/1": False,
        "window/20/2": True,
        "window/50/0": False,
    }
    assert [dense(window).metrics["ne_training"] for window in found] == [None] * 4
    for name in ("ece", "roc_auc", "pr_auc"):
        assert {w.key: dense(w).metrics[name] is None for w in found} == ne
    for name in ("roc_auc", "pr_auc"):
        assert {w.key: name not in dense(w).errors for w in found} == ne
    assert dense(found[-1]).metrics["calibration"] is None


def test_the_rate_before_a_window_is_that_of_all_events_before_it() -> None:
    first, *_, last = fed(TumblingWindows(CONFIG), 0, 200)
    assert dense(first).metrics["ne_training"] is None
    before = np.average(LABEL[:150], weights=WEIGHT[:150])
    constant = log_loss(LABEL[150:200], np.full(50, before), sample_weight=WEIGHT[150:200])
    assert dense(last).metrics["ne_training"] == pytest.approx(dense(last).metrics["ce"] / constant)


def test_the_end_of_the_input_closes_what_is_open_as_partial() -> None:
    windows = TumblingWindows(CONFIG)
    fed(windows, 0, 60)
    windows.add(batch(60, 64))
    found = windows.finish()
    assert [(w.key, w.begin, w.end, w.partial) for w in found] == [
        ("window/20/3/64", 60, 64, True),
        ("window/50/1/64", 50, 64, True),
    ]
    assert windows.finish() == ()


def test_windows_close_with_all_of_their_events_where_an_input_is_continued() -> None:
    """It is scored in two parts, as a sum of sums; so the last bits may differ."""
    whole, parted = fed(TumblingWindows(CONFIG), 0, 100), TumblingWindows(CONFIG)
    found = fed(parted, 0, 60)
    found += parted.add(batch(60, 64))
    partial = parted.finish()
    adapter = TypeAdapter(WindowsState)
    again = TumblingWindows(CONFIG, adapter.validate_json(adapter.dump_json(parted.state)))
    assert again.finish() == ()
    found += again.add(batch(64, 70))
    found += fed(again, 70, 100)
    assert [one.key for one in found] == [one.key for one in whole]
    assert not {one.key for one in partial} & {one.key for one in found}
    for one, other in zip(found, whole, strict=True):
        ours, theirs = dense(one).metrics, dense(other).metrics
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert ours[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name


def test_an_input_that_ends_where_all_windows_do_leaves_none_partial() -> None:
    windows = TumblingWindows(CONFIG)
    fed(windows, 0, 100)
    assert windows.finish() == ()


def test_windows_go_on_from_their_state_to_the_same_bits() -> None:
    whole = fed(TumblingWindows(CONFIG), 0, 200)
    adapter = TypeAdapter(WindowsState)
    state = TumblingWindows(CONFIG).state
    found: list[Window] = []
    for at in range(0, 200, 10):
        windows = TumblingWindows(CONFIG, adapter.validate_json(adapter.dump_json(state)))
        found += windows.add(batch(at, at + 10))
        state = windows.state
    assert found == whole


def told(windows: TumblingWindows, begin: int, end: int, starts: int = 0) -> list[Lifetime]:
    """Feed batches, and gather the scores so far."""
    found: list[Lifetime] = []
    for at in range(begin, end, 10):
        found += windows.lifetimes(windows.add(batch(at, at + 10, starts)))
    return found


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [((20, 50), [50, 100]), ((50, 10, 20), [20, 40, 60, 80, 100]), ((50,), [50, 100])],
)
def test_scores_so_far_are_told_with_windows_of_the_second_smallest_size(
    sizes: tuple[int, ...], ends: list[int]
) -> None:
    config = CONFIG.model_copy(update={"windows": sizes})
    assert [one.end for one in told(TumblingWindows(config), 0, 100)] == ends


def test_scores_so_far_are_of_all_events() -> None:
    found = told(TumblingWindows(CONFIG), 0, 100)
    assert [(one.begin, one.end) for one in found] == [(0, 50), (0, 100)]
    last, rows = found[-1], slice(0, 100)
    label, weight = LABEL[rows], WEIGHT[rows]
    assert last.click_rate == pytest.approx(np.average(label, weights=weight))
    for name in ("dense", "sparse"):
        p, score = chance(name, N)[rows], last.models[name]
        assert score is not None
        assert score.metrics["ce"] == pytest.approx(
            log_loss(label, p, sample_weight=weight), rel=1e-12
        )
        assert score.metrics["ne_training"] is None
        assert score.errors["roc_auc"] is not None
        exact = roc_auc_score(label, p, sample_weight=weight)
        assert score.metrics["roc_auc"] == pytest.approx(exact, abs=score.errors["roc_auc"])


def test_models_that_begin_late_have_a_lifetime_of_their_own_beside_dense() -> None:
    found = told(TumblingWindows(CONFIG), 0, 100, starts=30)
    assert [(one.begin, one.end) for one in found] == [
        (0, 50),
        (30, 50),
        (0, 100),
        (30, 100),
    ]
    whole, later = found[-2:]
    assert whole.models["sparse"] is None
    ces = {}
    for name in ("dense", "sparse"):
        score = later.models[name]
        assert score is not None
        p = chance(name, N)[30:100]
        ces[name] = log_loss(LABEL[30:100], p, sample_weight=WEIGHT[30:100])
        assert score.metrics["ce"] == pytest.approx(ces[name], rel=1e-12)
        assert score.metrics["ne_training"] is not None
    relative = later.interval("sparse", "relative_ce")
    assert relative is not None
    assert relative.mean == pytest.approx(ces["sparse"] / ces["dense"] - 1)


@pytest.mark.parametrize(("events", "ends"), [(100, []), (64, [64, 64]), (105, [105, 105])])
def test_the_end_of_the_input_tells_the_scores_so_far_unless_they_are_known(
    events: int, ends: list[int]
) -> None:
    windows = TumblingWindows(CONFIG)
    told(windows, 0, events - events % 10, starts=20)
    if events % 10:
        windows.add(batch(events - events % 10, events, starts=20))
    assert [one.end for one in windows.lifetimes(windows.finish())] == ends


def test_scores_so_far_go_on_from_their_state_to_the_same_bits() -> None:
    whole = told(TumblingWindows(CONFIG), 0, 200, starts=30)
    adapter = TypeAdapter(WindowsState)
    state = TumblingWindows(CONFIG).state
    found: list[Lifetime] = []
    for at in range(0, 200, 10):
        windows = TumblingWindows(CONFIG, adapter.validate_json(adapter.dump_json(state)))
        found += told(windows, at, at + 10, starts=30)
        state = windows.state
    assert found == whole


def test_other_sizes_than_those_of_the_state_are_refused() -> None:
    state = TumblingWindows(CONFIG).state
    other = EvaluatorConfig(windows=(20, 60))
    with pytest.raises(ValueError, match=r"windows of 20 and 60 .* continue from .* 20 and 50;"):
        TumblingWindows(other, state)


def test_a_batch_across_the_end_of_a_window_is_refused() -> None:
    text = r"windows of 50 and 20 events may end at 10, inside a batch that ends at 15"
    with pytest.raises(ValueError, match=text):
        TumblingWindows(CONFIG).add(batch(0, 15))
