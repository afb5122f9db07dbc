from __future__ import annotations

from pathlib import Path

from learner import LearnerStep
from resprout.monitoring.progress import EVERY_SECONDS, ProgressLogs, last_reports
from stream.follow import read_all
from stream.log.local import LocalLogStore
from stream.messages import Judgement, Progress, parse
from stream.spec import Waiting
from tests.evaluator.stage import EVENTS, full_run, run


def written(home: LocalLogStore, worker: str) -> list[Progress]:
    messages = [parse(r.record.value) for r in read_all(home.reader(f"progress.{worker}"))]
    return [message for message in messages if isinstance(message, Progress)]


def test_every_worker_has_a_log_and_writes_every_few_seconds(tmp_path: Path) -> None:
    home, now = LocalLogStore(tmp_path), [100.0]
    logs = ProgressLogs(home, ("dense", "sparse"), clock=lambda: now[0])
    logs("dense", LearnerStep(500, 500))
    logs("dense", LearnerStep(1_000, 500))
    now[0] += EVERY_SECONDS
    logs("dense", LearnerStep(1_500, 500))
    logs("sparse", LearnerStep(0, waiting_for=Waiting("the first mask")))
    logs.close()
    assert [(p.count, p.events, p.wall_seconds) for p in written(home, "dense")] == [
        (500, 500, 0.0),
        (1_500, 1_500, EVERY_SECONDS),
    ]
    assert [p.waiting_for for p in written(home, "sparse")] == ["the first mask"]


def test_the_last_step_is_always_written(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    logs = ProgressLogs(home, ("dense",), clock=lambda: 0.0)
    logs("dense", LearnerStep(500, 500))
    logs("dense", LearnerStep(700, 200, done=True))
    logs.close()
    assert [(p.count, p.done) for p in written(home, "dense")] == [(500, False), (700, True)]


def test_of_each_worker_the_last_is_found_again(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    logs = ProgressLogs(home, ("dense", "sparse", "pruner"), clock=lambda: 0.0)
    logs("dense", LearnerStep(500, 500))
    logs("dense", LearnerStep(700, 200, done=True))
    logs("sparse", LearnerStep(0, waiting_for=Waiting("the first mask")))
    logs.close()
    found = last_reports(home, ("dense", "sparse", "pruner"))
    assert [(one.worker, one.count, one.done) for one in found] == [
        ("dense", 700, True),
        ("sparse", 0, False),
    ]


def test_what_an_evaluator_judges_is_no_more_events_a_second(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    stage = full_run(tmp_path / "stage")
    logs = ProgressLogs(home, ("evaluator",))
    steps = run(stage.evaluator())
    assert any(isinstance(one, Judgement) for step in steps for one in step.messages)
    for step in steps:
        logs("evaluator", step)
    logs.close()
    last = written(home, "evaluator")[-1]
    assert (last.events, last.count, last.done) == (EVENTS, EVENTS, True)


def test_it_is_told_when_and_how_far_behind(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    behind = {"sparse": (500, 0.25)}
    logs = ProgressLogs(home, ("dense", "sparse"), behind.get, wall_clock=lambda: 1_700_000_000.25)
    for worker in ("dense", "sparse"):
        logs(worker, LearnerStep(500, 500))
    logs.close()
    (dense,), (sparse,) = written(home, "dense"), written(home, "sparse")
    assert (dense.time_ms, dense.lag_events, dense.lag_seconds) == (1_700_000_000_250, None, None)
    assert (sparse.lag_events, sparse.lag_seconds) == (500, 0.25)
