"""A run that deletes all that nobody needs any more ends as one that keeps everything."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pruner import PruneStep, requests
from resprout.cli import main
from resprout.folder import RunFolder
from resprout.retention import Retention
from resprout.run import execute
from resprout.runner import Observe, Step, Worker
from resprout.settings import DENSE, EVALUATOR, MODELS, NEVER_REBUILT, PRUNER, SOURCE, SPARSE
from resprout.spec import RunDefinition
from resprout.wiring import SourceStep, Wiring
from stream import open_logs, topics
from stream.log import KafkaConfig, LogStore, LogTrimmedError
from stream.log.kafka.store import KafkaLogStore
from stream.messages import Decision, Request, Verdict, parse
from tests.resprout.crew import LEARNERS, crew, until
from tests.resprout.eventful import TOTAL, eventful
from tests.resprout.left import Left
from tests.resprout.test_workers import has_come
from tests.resprout.victim import How, Life, Moment, Promoted, Scored, die, lived, trimming

NEEDED: dict[str, Any] = {
    "stream__retention__clicks": "needed",
    "stream__retention__predictions": "needed",
    "stream__retention__truth": "needed",
}
OFTEN = {
    "learner__checkpoint_events": 500,
    "pruner__checkpoint_events": 300,
    "evaluator__checkpoint_events": 200,
}
"""So that checkpoints are no reason to keep what only something else needs."""
WHOLE = RunDefinition.generated(eventful(**OFTEN))
TRIMMED = RunDefinition.generated(eventful(**OFTEN, **NEEDED))
SAME = ("windows", "ledger", "dead_letters", "states", "snapshots", "masks", "head")
"""What retention must not touch."""
AFTER = {"threads": 1, "turns": 1, "call": 2_000, "disk": 12}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that keeps everything; only to be read."""
    folder = RunFolder(tmp_path_factory.mktemp("whole"))
    assert execute(WHOLE, folder.path).finished
    return folder


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run as users have it, over; only to be read."""
    folder = RunFolder(tmp_path_factory.mktemp("over"))
    assert execute(TRIMMED, folder.path).finished
    return folder


def lives(seed: int, kills: int) -> list[Life]:
    """Draw lives that end all over the run, one of them between a verdict and its swap."""
    rng = random.Random(seed)
    counts = sorted(rng.randrange(TOTAL - 1_000) for _ in range(kills - 1))
    moments: list[tuple[Moment, How]] = []
    for count in counts:
        worker = rng.choice((SOURCE, DENSE, PRUNER, EVALUATOR, SPARSE, NEVER_REBUILT))
        worker = worker if count >= 7_000 else DENSE
        moments.append((Scored(count, worker), rng.choice(get_args(How))))
    moments.insert(sum(count < 10_000 for count in counts), (Promoted(), "turns"))
    return [
        Life(moment, how, after=rng.randrange(AFTER[how]), seed=number, trims=True)
        for number, (moment, how) in enumerate(moments)
    ]


def tear(folder: RunFolder) -> int:
    """Damage the newest checkpoint of every worker; return how many that were."""
    torn = 0
    for kept in (folder.path / "checkpoints").rglob("manifest.json"):
        newest = sorted(p for p in kept.parents[1].glob("*-*") if not p.name.startswith("."))[-1]
        if kept.parent == newest:
            part = next(path for path in newest.iterdir() if path != kept)
            part.write_bytes(part.read_bytes()[:-1])
            torn += 1
    return torn


def finish(plan: RunDefinition, folder: RunFolder) -> None:
    """Carry a run to its end, trimmed after every step."""
    with trimming(plan, folder) as trim:
        assert execute(plan, folder.path, trim).finished


def check_same(folder: RunFolder, whole: RunFolder, home: LogStore | None = None) -> Left:
    """See that all that is left is as in a run that has kept everything, which is returned."""
    found, expected = Left.by(folder, home), Left.by(whole)
    for part in SAME:
        assert getattr(found, part) == getattr(expected, part), part
    for part in ("clicks", "truth"):
        kept, every = getattr(found, part), getattr(expected, part)
        assert kept == every[len(every) - len(kept) :], part
        assert 0 < len(kept) < len(every) or not every, part
    assert found.predictions.items() < expected.predictions.items()
    return found


@contextmanager
def all_the_time(plan: RunDefinition, folder: RunFolder) -> Iterator[None]:
    """Trim again and again, beside whoever else is at work."""
    over = threading.Event()

    def trim() -> None:
        with (
            open_logs(plan.settings.stream, folder.home.folder) as logs,
            closing(Retention(plan, folder, logs)) as retention,
        ):
            while not over.wait(0.05):
                retention.trim()

    with ThreadPoolExecutor(1) as pool:
        trimming = pool.submit(trim)
        try:
            yield
        finally:
            over.set()
        trimming.result()


def begins(home: LogStore, *logs: str) -> list[int]:
    found = []
    for log in logs:
        reader = home.reader(log)
        found += [reader.begin(partition) for partition in reader.partitions]
        reader.close()
    return found


@pytest.mark.parametrize(("seed", "torn"), [(1, False), (2, True)])
def test_killed_at_any_time_and_trimmed_after_every_step_it_leaves_the_same(
    whole: RunFolder, tmp_path: Path, seed: int, torn: bool
) -> None:
    """In the second case the newest checkpoints are damaged, too, each time."""
    folder, damaged = RunFolder(tmp_path), 0
    for life in lives(seed, kills=8):
        assert lived(TRIMMED, tmp_path, life), f"{life} was not ended by a kill"
        damaged += tear(folder) if torn else 0
    finish(TRIMMED, folder)
    assert damaged > 15 or not torn
    check_same(folder, whole)
    logs = (topics.CLICKS, topics.TRUTH, *map(topics.predictions, (*MODELS, "candidate-1")))
    assert all(begins(folder.home, *logs)), begins(folder.home, *logs)
    assert not any(begins(folder.home, topics.WINDOWS, topics.LEDGER, topics.DEAD_LETTERS))


@pytest.mark.parametrize("last", [PRUNER, NEVER_REBUILT, EVALUATOR])
def test_a_worker_that_is_as_late_as_can_be_still_finds_all_that_it_needs(
    whole: RunFolder, tmp_path: Path, last: str
) -> None:
    """It comes to a step only where nobody else can; each life is killed after some of these."""
    folder, context, killed = RunFolder(tmp_path), multiprocessing.get_context("forkserver"), True
    while killed:
        process = context.Process(target=be_late, args=(tmp_path, last))
        process.start()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        process.close()
        tear(folder)
    finish(TRIMMED, folder)
    check_same(folder, whole)


def be_late(state: Path, last: str) -> None:
    """Live until the run is over, or so many steps of the worker that is late."""
    folder = RunFolder(state)
    torch.set_num_threads(1)
    with trimming(TRIMMED, folder) as trim, folder.lock():
        folder.begin(TRIMMED)
        with closing(Wiring(TRIMMED, folder, folder.home, TRIMMED.workers)) as wiring:
            working = {worker.name: worker for worker in wiring.workers()}
            late = working.pop(last)
            for _ in range(70):
                advance(working)
                step = late.step()
                trim(last, SourceStep(0, done=True))
                if step.done and not working:
                    late.close()
                    return
            die()


def advance(working: dict[str, Worker]) -> None:
    """Step workers until none of them finds anything to do; those that are done leave."""
    moved = True
    while moved:
        moved = False
        for name, worker in list(working.items()):
            step = worker.step()
            moved = moved or step.events > 0
            if step.done:
                worker.close()
                del working[name]


ASKED = {
    8_000: Request(id="1", action="rebuild", reason="a new shop", time_ms=7),
    13_000: Request(id="2", action="rollback", version=1, reason="clicks fell", time_ms=8),
    16_000: Request(id="3", action="rebuild", reason="another shop", time_ms=9),
}
"""By the window after whose decision it is asked."""
ON_REQUEST = {"trigger__name": "divergence", "trigger__threshold": 0.9, "seed": 5}
"""Nothing but requests leads to a rebuild, and every decision tells what it saw of all windows."""


def asking(folder: RunFolder) -> Observe:
    """Ask for what is to be asked, each once."""
    left = dict(ASKED)

    def observe(_: str, step: Step) -> None:
        decided = step.decided.count if isinstance(step, PruneStep) and step.decided else 0
        if decided in left:
            requests.ask(folder.home, left.pop(decided))

    return observe


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with requests that keeps everything."""
    folder = RunFolder(tmp_path_factory.mktemp("asked"))
    plan = RunDefinition.generated(eventful(**ON_REQUEST))
    assert execute(plan, folder.path, asking(folder)).finished
    return folder


def test_rollbacks_and_rebuilds_are_decided_alike_whatever_has_been_trimmed(
    asked: RunFolder, tmp_path: Path
) -> None:
    """Of the windows, too, only those stay that somebody needs; the run stops and continues."""
    changed = ON_REQUEST | NEEDED | {"stream__retention__windows_events": 2_000}
    plan, folder = RunDefinition.generated(eventful(**changed)), RunFolder(tmp_path)
    ask = asking(folder)
    for pause in (9_500, 15_500, 18_500):
        stop = threading.Event()
        with trimming(plan, folder) as trim:

            def observe(name: str, step: Step) -> None:
                ask(name, step)
                trim(name, step)
                if name == EVALUATOR and step.count >= pause:  # noqa: B023
                    stop.set()  # noqa: B023

            assert not execute(plan, tmp_path, observe, stop).finished
        tear(folder)
    finish(plan, folder)
    found, expected = Left.by(folder), Left.by(asked)
    for part in ("ledger", "states", "snapshots", "masks", "head"):
        assert getattr(found, part) == getattr(expected, part), part
    decided = [parse(value) for _, value in expected.ledger]
    verdicts = [one for one in decided if isinstance(one, Verdict)]
    assert [one.rebuild.reason for one in verdicts] == ["first", "request", "request"]
    assert [one.count for one in decided if isinstance(one, Decision) and one.rollback] == [14_000]
    assert found.windows.items() < expected.windows.items()
    assert begins(folder.home, topics.WINDOWS)[0] > 0
    (remark,) = execute(plan, tmp_path).remarks
    assert "stream.retention.windows_events" in remark


def test_processes_share_what_they_need_and_one_that_comes_late_finds_it(
    whole: RunFolder, tmp_path: Path
) -> None:
    with crew(tmp_path, TRIMMED.settings) as team:
        folder = RunFolder(team.state)
        for name in ("dense", "sparse", "pruner", "evaluator"):
            team.start(name)
        team.start("source", "--set", "stream.generator.rate=null")
        until(has_come(team.hands["evaluator"], 7_000), team)
        with all_the_time(TRIMMED, folder):
            assert team.hands["sparse"].end(signal.SIGKILL) == -signal.SIGKILL
            assert team.hands["dense"].wait() == 0, team.hands["dense"].text
            assert team.hands["pruner"].end(signal.SIGKILL) == -signal.SIGKILL
            # Nobody has learned more with these two than the first checkpoint holds.
            for name in ("never_rebuilt", "sparse", "pruner"):
                team.start(name)
            until(has_come(team.hands["evaluator"], 12_000), team)
            assert team.hands["evaluator"].end(signal.SIGKILL) == -signal.SIGKILL
            team.start("evaluator")
            for name, hand in team.hands.items():
                assert (name, hand.wait()) == (name, 0), hand.text
    check_same(folder, whole)


def test_the_evaluators_process_trims_at_the_latest_at_its_end(
    whole: RunFolder, tmp_path: Path
) -> None:
    with crew(tmp_path, TRIMMED.settings) as team:
        for name in ("source", *LEARNERS):
            team.start(name, *(("--set", "stream.generator.rate=null") * (name == "source")))
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
        check_same(RunFolder(team.state), whole)


def test_a_run_that_is_over_is_looked_at_and_carried_out_again_as_ever(
    whole: RunFolder, over: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_same(over, whole)
    shutil.copytree(over.path, tmp_path, dirs_exist_ok=True)
    result = execute(TRIMMED, tmp_path)
    assert result.remarks == ()
    assert result.summary.last_half == execute(WHOLE, whole.path).summary.last_half
    told: dict[str, list[str]] = {}
    for state in (whole.path, tmp_path):
        for command in ("report", "deadletters --state", "masks list --state"):
            assert main([*command.split(), str(state)], standalone_mode=False) in (None, 0)
            told.setdefault(command, []).append(capsys.readouterr().out.replace(str(state), ""))
    assert all(one == other for one, other in told.values())
    reports = [(state / "report.html").read_text() for state in (whole.path, tmp_path)]
    assert f"{TOTAL:,} of {TOTAL:,}, the whole input" in reports[1]
    assert reports[0].count("<tr") == reports[1].count("<tr")


@pytest.mark.parametrize(
    ("worker", "told"),
    [
        (EVALUATOR, r'that has all, and let it keep more: stream\.retention\.clicks = "all"'),
        (NEVER_REBUILT, r"its logs keep more .stream\.retention"),
    ],
)
def test_who_begins_anew_is_told_which_setting_keeps_what_he_needs(
    over: RunFolder, tmp_path: Path, worker: str, told: str
) -> None:
    shutil.copytree(over.path, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(RunFolder(tmp_path).checkpoints(worker).folder)
    with pytest.raises(LogTrimmedError, match=told):
        execute(TRIMMED, tmp_path)


@pytest.mark.parametrize("allowed", [True, False])
def test_topics_are_trimmed_where_that_is_allowed(
    whole: RunFolder, tmp_path: Path, kafka_config: KafkaConfig, allowed: bool
) -> None:
    broker = {"stream__home": "kafka", "stream__kafka__allow_trim": allowed}
    broker |= {f"stream__kafka__{n}": getattr(kafka_config, n) for n in ("bootstrap", "prefix")}
    plan, folder = (
        RunDefinition.generated(eventful(**OFTEN, **NEEDED, **broker)),
        RunFolder(tmp_path),
    )
    assert execute(plan, tmp_path).finished
    with closing(KafkaLogStore(kafka_config)) as home:
        if allowed:
            check_same(folder, whole, home)
        else:
            assert not any(begins(home, topics.CLICKS, topics.TRUTH, topics.predictions(DENSE)))


def test_what_cannot_be_deleted_stops_nobody_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    with (
        caplog.at_level("WARNING"),
        closing(Retention(TRIMMED, folder, folder.home, clock=lambda: 0.0)) as retention,
    ):
        broken = folder.snapshots.folder / "dense/000000000000100-0123456789ab"
        broken.mkdir(parents=True)
        (broken / "model.safetensors").write_bytes(b"\xff" * 3)
        for _ in range(2):
            retention(EVALUATOR, SourceStep(0, done=True))
    (said,) = caplog.messages
    assert said.startswith(f"nothing is deleted from the logs for now: snapshot {broken}")
