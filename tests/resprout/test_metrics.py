from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from evaluator.join import JoinedBatch, Predicted
from evaluator.windows import Sums
from evaluator.worker import EvaluatorStep
from learner import LearnerStep
from pruner import PruneStep
from resprout.monitoring.metrics import LABELS, Metrics, families, fingerprint, markdown
from resprout.runner import Step, Worker
from resprout.settings import Settings
from stream.messages import (
    Alarm,
    DeadLetter,
    Decision,
    Layer,
    ModelScore,
    RebuildPlan,
    Rollback,
    Verdict,
    VerdictName,
    Window,
)
from stream.spec import Waiting
from tests.evaluator.messages import grafted
from tests.servers import missing

ROOT = Path(__file__).parents[2]
FAMILIES_FILE = ROOT / "resprout" / "monitoring" / "metrics.py"
METRICS_FOLDER = ROOT / "evaluator" / "metrics"
"""The evaluator's metrics bring their own names."""
FAMILIES = families()
NAMES = {family.name for family in FAMILIES}
WORKERS = ("source", "dense", "sparse", "never_rebuilt", "pruner", "evaluator")
MODELS = ("dense", "sparse", "never_rebuilt")
SETTINGS = Settings(evaluator={"models": MODELS})

# The client library leaves this one untyped.
parse_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics.text_string_to_metric_families

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Clock:
    """Shows what it is set to."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def made(*workers: str, clock: Callable[[], float] | None = None) -> Metrics:
    return Metrics(SETTINGS, workers or WORKERS, clock=clock or Clock())


def values(metrics: Metrics) -> Values:
    """Read the page back with the client library's parser."""
    page = metrics.render()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(page)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return values(metrics).get((name, tuple(sorted(labels.items()))))


def labelled(metrics: Metrics, name: str) -> set[tuple[str, ...]]:
    return {tuple(v for _, v in labels) for (n, labels) in values(metrics) if n == name}


def window(
    size: int, models: Mapping[str, tuple[float, float | None] | None], *, partial: bool = False
) -> Window:
    scores = {
        name: one
        and ModelScore(versions=(0,), metrics={"ce": one[0], "ne": one[1], "ne_training": 0.9})
        for name, one in models.items()
    }
    return Window(
        size=size,
        number=3,
        begin=3 * size,
        end=4 * size,
        partial=partial,
        weight=size,
        clicks=10,
        click_rate=10 / size,
        models=scores,
        bayes_ce=None,
        drift=(),
    )


def plan(reason: str) -> RebuildPlan:
    return RebuildPlan(number=1, reason=reason, cause="because", begin=500, decided=500, end=1_500)


def verdict(
    name: VerdictName, reason: str, layers: Mapping[str, Layer] | None = None, version: int = 1
) -> Verdict:
    return Verdict(
        count=1_500,
        rebuild=plan(reason),
        verdict=name,
        reason="said so",
        version=version if name == "promoted" else None,
        snapshot=None,
        mask=None,
        sparsity=0.8,
        layers=dict(layers or {}),
        judgement=None,
        cost_events=1_000,
    )


def letter(reason: str) -> DeadLetter:
    return DeadLetter(
        reason=reason, detail="", partition=0, offset=1, row=0, file=None, line=None, raw=""
    )


@pytest.fixture
def told() -> Metrics:
    """Metrics that have seen a report of every kind, at known times."""
    clock = Clock(1_000.0)
    metrics = Metrics(SETTINGS, WORKERS, clock)
    metrics("dense", LearnerStep(count=1_000, events=500))
    metrics("dense", LearnerStep(count=1_500, events=500))
    metrics("sparse", LearnerStep(count=1_200, events=200))
    clock.now = 1_010.0
    metrics("sparse", LearnerStep(count=1_200, waiting_for=Waiting("the verdict on rebuild 3")))
    metrics("evaluator", _scored())
    metrics("pruner", PruneStep(500, decided=Decision(count=500, rebuild=plan("first"))))
    clock.now = 1_017.0
    first = {"top.0": Layer(weights=100, kept=25, sparsity=0.75, overlap=None)}
    metrics("pruner", PruneStep(1_500, verdict=verdict("promoted", "first", first)))
    clock.now = 1_020.0
    metrics("pruner", PruneStep(2_000, decided=Decision(count=2_000, rebuild=plan("divergence"))))
    clock.now = 1_060.0
    metrics("pruner", PruneStep(3_000, verdict=verdict("rejected", "divergence")))
    return metrics


def _scored() -> EvaluatorStep:
    batch = JoinedBatch(
        begin=996,
        label=np.array([1.0, 0.0, 0.0, 1.0]),
        weight=np.array([1.0, 4.0, 4.0, 1.0]),
        models={
            "dense": Predicted(0, np.full(4, 0.25)),
            "sparse": Predicted(1, np.full(4, 0.5)),
        },
    )
    closed = (
        window(10_000, {"dense": (0.25, 0.8), "sparse": (0.26, 0.85), "never_rebuilt": None}),
        window(50_000, {"dense": (0.24, None)}),
        window(100_000, {"dense": (0.9, 0.9)}, partial=True),
    )
    return EvaluatorStep(
        1_000,
        4,
        closed,
        dead_letters=(letter("label"), letter("label"), letter("odd")),
        sums=Sums.of(batch),
    )


def test_every_name_is_prefixed_and_ends_in_its_unit() -> None:
    units = ("_events", "_seconds", "_ratio", "_nats")
    for family in FAMILIES:
        name = family.name
        assert re.fullmatch(r"resprout_[a-z]+(_[a-z]+)*", name)
        if family.kind == "counter":
            assert name.endswith("_total")
        else:
            assert name.endswith((*units, "_info"))
        assert ("timestamp" in name) == name.endswith("_timestamp_seconds")


def test_every_metric_says_what_it_is_once() -> None:
    assert len(NAMES) == len(FAMILIES)
    assert len({family.text for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.text[0].isupper()
        assert not family.text.endswith(".")
        assert set(family.labels) <= set(LABELS)
        assert (family.kind == "histogram") == bool(family.buckets)


def test_every_metric_is_on_the_page_with_its_type_and_its_help(told: Metrics) -> None:
    families = {family.name: family for family in parse_text(told.render()[0].decode())}
    for family in FAMILIES:
        found = families[family.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (family.kind, family.text)
    assert len(families) == len(FAMILIES)


def words(path: Path) -> Iterator[str]:
    """Yield what looks like a metric in a file, without what a histogram appends."""
    for word in re.findall(r"\bresprout_[a-z_]+", path.read_text("utf-8")):
        yield re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", word)


def test_no_other_file_of_the_code_names_a_metric() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), word)
        for room in ("stream", "learner", "pruner", "evaluator", "resprout")
        for path in (ROOT / room).rglob("*.py")
        if path != FAMILIES_FILE and path.parent != METRICS_FOLDER
        for word in words(path)
    }
    # The header of a snapshot names the version of the program by this.
    assert {word for _, word in named} <= {"resprout_version"}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/metrics.md"])
def test_the_documents_name_only_metrics_that_exist(name: str) -> None:
    assert set(words(ROOT / name)) <= NAMES


def test_the_tables_of_the_document_are_those_of_the_file() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    tables = text.partition("<!-- tables: begin")[2].partition("-->\n")[2]
    assert tables.partition("<!-- tables: end")[0].strip() == markdown(), (
        "put what resprout.monitoring.metrics.markdown() returns between the marks of "
        "docs/metrics.md"
    )


def test_metrics_are_named_by_literals_so_that_people_find_them() -> None:
    files = [FAMILIES_FILE, *METRICS_FOLDER.glob("*.py")]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    literals = {n.value for t in trees for n in ast.walk(t) if isinstance(n, ast.Constant)}
    assert literals >= NAMES


def test_every_counter_starts_at_0_for_every_value_of_its_labels() -> None:
    metrics = made()
    started = {name for (name, _), number in values(metrics).items() if number == 0}
    assert started >= {family.name for family in FAMILIES if family.kind == "counter"}
    assert labelled(metrics, "resprout_events_total") == {(worker,) for worker in WORKERS}
    assert labelled(metrics, "resprout_predicted_clicks_total") == {(m,) for m in MODELS}
    reasons = ("first", "divergence", "periodic", "request", "other")
    outcomes = ("promoted", "rejected", "failed", "unfinished")
    assert labelled(metrics, "resprout_rebuilds_total") == set(product(outcomes, reasons))
    dead = {reason for (reason,) in labelled(metrics, "resprout_dead_letters_total")}
    assert dead > {"label", "unparsable", "schema", "other"}
    assert value(metrics, "resprout_step_duration_seconds_count", worker="dense") == 0


def test_gauges_without_a_value_are_not_there() -> None:
    metrics = made()
    for name in (
        "resprout_normalized_entropy_ratio",
        "resprout_cross_entropy_nats",
        "resprout_layer_sparsity_ratio",
        "resprout_layer_mask_overlap_ratio",
        "resprout_rebuild_last_success_timestamp_seconds",
        "resprout_log_lag_events",
    ):
        assert labelled(metrics, name) == set()


def test_grafts_of_the_sparse_model_are_counted() -> None:
    metrics = made()
    changes = tuple(grafted(count, top=(50, 1)) for count in (100, 200))
    metrics("evaluator", EvaluatorStep(200, mask_changes=changes))
    others = grafted(300, "other", top=(50, 1))
    metrics("evaluator", EvaluatorStep(400, mask_changes=(others, grafted(400, top=(50, 1)))))
    assert value(metrics, "resprout_grafts_total") == 3


def test_a_process_exports_only_what_its_workers_know() -> None:
    page = values(made("dense"))
    assert {name for name, _ in page if "rebuild" in name or "clicks" in name} == set()
    assert {dict(labels)["worker"] for _, labels in page if dict(labels).get("worker")} == {"dense"}


def test_reports_become_the_numbers_that_a_person_works_out(told: Metrics) -> None:
    assert value(told, "resprout_events_total", worker="dense") == 1_000
    assert value(told, "resprout_events_total", worker="sparse") == 200
    assert value(told, "resprout_events_total", worker="evaluator") == 4
    assert value(told, "resprout_observed_clicks_total") == 2
    assert value(told, "resprout_predicted_clicks_total", model="dense") == 2.5
    assert value(told, "resprout_predicted_clicks_total", model="sparse") == 5
    assert value(told, "resprout_predicted_clicks_total", model="never_rebuilt") == 0
    assert value(told, "resprout_dead_letters_total", reason="label") == 2
    assert value(told, "resprout_dead_letters_total", reason="other") == 1


def test_scores_are_of_the_last_full_window_of_each_size(told: Metrics) -> None:
    ce, ne = "resprout_cross_entropy_nats", "resprout_normalized_entropy_ratio"
    assert value(told, ce, model="dense", window="10000") == 0.25
    assert value(told, ne, model="sparse", window="10000") == 0.85
    assert labelled(told, ce) == {("dense", "10000"), ("sparse", "10000"), ("dense", "50000")}
    assert labelled(told, ne) == {("dense", "10000"), ("sparse", "10000")}
    nothing = window(10_000, {"dense": (0.3, None), "sparse": None})
    told("evaluator", EvaluatorStep(2_000, messages=(nothing,)))
    assert labelled(told, ce) == {("dense", "10000"), ("dense", "50000")}
    assert labelled(told, ne) == set()


def test_rebuilds_are_counted_and_timed_by_reason_and_outcome(told: Metrics) -> None:
    def count(reason: str, outcome: str) -> float | None:
        return value(told, "resprout_rebuilds_total", reason=reason, outcome=outcome)

    assert (count("first", "promoted"), count("divergence", "rejected")) == (1, 1)
    assert count("divergence", "promoted") == 0
    assert value(told, "resprout_rebuild_duration_seconds_count") == 2
    assert value(told, "resprout_rebuild_duration_seconds_sum") == 7 + 40
    assert value(told, "resprout_rebuild_duration_seconds_bucket", le="10.0") == 1
    assert value(told, "resprout_rebuild_last_success_timestamp_seconds") == 1_017


def test_the_first_mask_is_that_of_both_pruned_models(told: Metrics) -> None:
    sparsity = "resprout_layer_sparsity_ratio"
    assert value(told, sparsity, model="sparse", layer="top.0") == 0.75
    assert value(told, sparsity, model="never_rebuilt", layer="top.0") == 0.75
    assert labelled(told, "resprout_layer_mask_overlap_ratio") == set()


def test_a_later_mask_is_that_of_the_sparse_model_alone(told: Metrics) -> None:
    layers = {"top.0": Layer(weights=100, kept=20, sparsity=0.8, overlap=0.9)}
    told("pruner", PruneStep(5_000, verdict=verdict("promoted", "divergence", layers)))
    sparsity = "resprout_layer_sparsity_ratio"
    assert value(told, sparsity, model="sparse", layer="top.0") == 0.8
    assert value(told, sparsity, model="never_rebuilt", layer="top.0") == 0.75
    assert value(told, "resprout_layer_mask_overlap_ratio", layer="top.0") == 0.9


def test_a_rebuild_that_was_decided_in_an_earlier_life_is_not_timed() -> None:
    metrics = made()
    metrics("pruner", PruneStep(1_500, verdict=verdict("failed", "periodic")))
    assert value(metrics, "resprout_rebuild_duration_seconds_count") == 0
    failed = {"reason": "periodic", "outcome": "failed"}
    assert value(metrics, "resprout_rebuilds_total", **failed) == 1


def thinned(kept: int, overlap: float | None) -> dict[str, Layer]:
    return {"top.0": Layer(weights=100, kept=kept, sparsity=1 - kept / 100, overlap=overlap)}


LEDGER = (
    Decision(count=500, rebuild=plan("first")),
    verdict("promoted", "first", thinned(25, None)),
    Decision(count=2_000, why_not="cooling down"),
    verdict("promoted", "request", thinned(50, 0.75), version=2),
    verdict("rejected", "periodic", thinned(1, 0.5)),
)


def test_a_run_that_goes_on_shows_the_masks_in_force_and_counts_nothing() -> None:
    metrics = made("pruner")
    metrics.remember(LEDGER)
    sparsity = "resprout_layer_sparsity_ratio"
    assert value(metrics, sparsity, model="sparse", layer="top.0") == 0.5
    assert value(metrics, sparsity, model="never_rebuilt", layer="top.0") == 0.75
    assert value(metrics, "resprout_layer_mask_overlap_ratio", layer="top.0") == 0.75
    outcome = {"reason": "request", "outcome": "promoted"}
    assert value(metrics, "resprout_rebuilds_total", **outcome) == 0


@pytest.mark.parametrize("lived_before", [True, False])
def test_a_rollback_shows_the_mask_gone_back_to(lived_before: bool) -> None:
    metrics = made("pruner")
    metrics.remember(LEDGER if lived_before else ())
    for message in () if lived_before else LEDGER:
        if isinstance(message, Verdict):
            metrics("pruner", PruneStep(message.count, verdict=message))
    back = Rollback(to_version=1, version=3, snapshot="s", mask=None, count=4_000)
    metrics("pruner", PruneStep(3_000, decided=Decision(count=3_000, rollback=back)))
    sparsity = "resprout_layer_sparsity_ratio"
    assert value(metrics, sparsity, model="sparse", layer="top.0") == 0.75
    assert labelled(metrics, "resprout_layer_mask_overlap_ratio") == set()
    again = Rollback(to_version=3, version=4, snapshot="s", mask=None, count=5_000)
    metrics("pruner", PruneStep(4_000, decided=Decision(count=4_000, rollback=again)))
    assert value(metrics, sparsity, model="sparse", layer="top.0") == 0.75


def test_progress_is_a_step_that_did_not_merely_wait(told: Metrics) -> None:
    name = "resprout_worker_last_progress_timestamp_seconds"
    assert value(told, name, worker="sparse") == 1_000
    assert value(told, name, worker="evaluator") == 1_010
    assert value(told, name, worker="pruner") == 1_060
    assert value(told, name, worker="source") == 1_000


def test_workers_of_one_process_are_behind_the_one_furthest_on() -> None:
    clock = Clock(0.0)
    metrics = made("source", "dense", "evaluator", clock=clock)
    metrics("source", LearnerStep(count=1_000, events=1_000))
    metrics("dense", LearnerStep(count=1_000, events=1_000))
    assert value(metrics, "resprout_log_lag_events", worker="dense") == 0
    clock.now = 10.0
    metrics("source", LearnerStep(count=2_000, events=1_000))
    metrics("dense", LearnerStep(count=1_500, events=500))
    assert value(metrics, "resprout_log_lag_events", worker="dense") == 500
    assert value(metrics, "resprout_log_lag_seconds", worker="dense") == 5
    assert labelled(metrics, "resprout_log_lag_seconds") == {("source",), ("dense",)}


def test_a_worker_that_runs_alone_is_behind_what_it_is_told_is_there() -> None:
    alone = made("sparse")
    alone("sparse", LearnerStep(count=1_000, events=500))
    assert labelled(alone, "resprout_log_lag_events") == set()
    clock, there = Clock(0.0), iter([1_000, 1_800, None, 2_000])
    metrics = made("sparse", clock=clock)
    metrics.follow("sparse", lambda: next(there))
    lag, seconds = "resprout_log_lag_events", "resprout_log_lag_seconds"
    metrics("sparse", LearnerStep(count=1_000, events=500))
    assert value(metrics, lag, worker="sparse") == 0
    for clock.now in (4.0, 8.0, 12.0):
        # Looked at once in five seconds: at 8 s, and at 13 s in vain.
        metrics("sparse", LearnerStep(count=1_000, waiting_for=Waiting("clicks")))
    assert value(metrics, lag, worker="sparse") == 800
    clock.now = 13.0
    metrics("sparse", LearnerStep(count=1_200, events=200))
    assert value(metrics, lag, worker="sparse") == 600
    assert value(metrics, seconds, worker="sparse") == 11
    clock.now = 18.0
    metrics("sparse", LearnerStep(count=2_100, events=200))
    assert value(metrics, lag, worker="sparse") == 0
    assert value(metrics, seconds, worker="sparse") == 0


@dataclass
class Stepper:
    """A worker that steps through a list of reports."""

    steps: list[LearnerStep]
    closed: list[str] = field(default_factory=list)

    def worker(self, name: str) -> Worker:
        return Worker(name, self._next, lambda: self.closed.append(name))

    def _next(self) -> Step:
        return self.steps.pop(0)


def test_steps_are_timed_unless_they_merely_wait() -> None:
    metrics, seconds = made("dense"), iter([1.0, 1.2, 5.0, 7.0, 7.01])
    stepper = Stepper(
        [LearnerStep(1, 1), LearnerStep(1, waiting_for=Waiting("clicks")), LearnerStep(2, 1)]
    )
    worker = metrics.timed(stepper.worker("dense"), timer=lambda: next(seconds))
    assert [worker.step().count for _ in range(3)] == [1, 1, 2]
    worker.close()
    assert stepper.closed == ["dense"]
    duration = "resprout_step_duration_seconds"
    assert value(metrics, f"{duration}_count", worker="dense") == 2
    assert value(metrics, f"{duration}_sum", worker="dense") == pytest.approx(0.21)
    assert value(metrics, f"{duration}_bucket", worker="dense", le="0.1") == 1


def test_a_report_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="know no worker 'twin'; they were made for: dense"):
        made("dense")("twin", LearnerStep(count=1))


def test_alarms_are_counted_by_what_they_listen_to() -> None:
    metrics = made("evaluator")
    alarm = Alarm(
        detector="click_rate",
        feature=None,
        count=500,
        since=400,
        statistic=2.0,
        threshold=1.0,
        reason="rose",
    )
    metrics("evaluator", EvaluatorStep(500, messages=(alarm,)))
    assert value(metrics, "resprout_drift_alarms_total", detector="click_rate") == 1
    assert value(metrics, "resprout_drift_alarms_total", detector="input") == 0


def test_build_info_tells_settings_apart_and_not_where_they_are_served() -> None:
    one, two = fingerprint(SETTINGS), fingerprint(Settings(seed=1))
    assert one == fingerprint(Settings(evaluator={"models": MODELS}))
    assert one != two
    elsewhere = Settings(evaluator={"models": MODELS}, serve={"port": 8_000})
    assert one == fingerprint(elsewhere)
    assert re.fullmatch("[0-9a-f]{12}", one)
    metrics = Metrics(SETTINGS, ["dense"])
    ((version, config),) = {
        (labels["version"], labels["config"])
        for family in parse_text(metrics.render()[0].decode())
        if family.name == "resprout_build_info"
        for labels in (family.samples[0].labels,)
    }
    assert (version.count("."), config) == (2, one)


def test_two_processes_worth_of_metrics_live_side_by_side() -> None:
    one, two = made("dense"), made("dense")
    one("dense", LearnerStep(count=500, events=500))
    assert value(one, "resprout_events_total", worker="dense") == 500
    assert value(two, "resprout_events_total", worker="dense") == 0


def test_prometheus_may_ask_for_openmetrics(told: Metrics) -> None:
    content, kind = told.render("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    found = {family.name for family in parse_openmetrics(content.decode())}
    assert found == {family.name.removesuffix("_total") for family in FAMILIES}
    assert told.render()[1].startswith("text/plain; version=0.0.4")


def test_promtool_finds_nothing_to_say_about_the_page(told: Metrics) -> None:
    promtool = shutil.which("promtool") or missing(
        "promtool", "it comes with Debian's package prometheus"
    )
    done = subprocess.run(
        [promtool, "check", "metrics"], input=told.render()[0], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
