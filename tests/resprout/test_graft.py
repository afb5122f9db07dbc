"""A whole run whose served model is grafted: one table, one count, the same bits again."""

from __future__ import annotations

import random
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from learner.snapshots import FILE, load_weights
from pruner import LedgerFollower, requests
from pruner.masks import DiskMaskStore, content_hash, pack
from resprout.cli import main
from resprout.folder import RunFolder
from resprout.retention import Retention
from resprout.run import execute, worker_process
from resprout.runner import Step
from resprout.settings import DENSE, EVALUATOR, PRUNER, SOURCE, SPARSE, load
from resprout.spec import RunDefinition
from stream import open_logs, topics
from stream.log import KafkaConfig
from stream.messages import MaskChange, Verdict, parse
from tests.resprout.crew import crew
from tests.resprout.eventful import TOTAL, eventful
from tests.resprout.left import PARTS, Left, assert_same, records
from tests.resprout.test_rollback import BACK, Decides, Stands, with_request
from tests.resprout.victim import How, Life, Moment, Promoted, Scored, lived

EVERY = 3_000
GRAFTED = {"pruner__regime": "graft", "pruner__graft_events": EVERY, "pruner__graft_pull": 0.02}
PLAN = RunDefinition.generated(eventful(**GRAFTED))
AFTER = {"threads": 1, "turns": 1, "call": 2_000, "disk": 12}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The grafted run, undisturbed; only to be read."""
    folder = RunFolder(tmp_path_factory.mktemp("whole"))
    assert execute(PLAN, folder.path).finished
    return folder


def changes(folder: RunFolder) -> list[MaskChange]:
    found = [parse(one.record.value) for one in records(folder, topics.MASK_CHANGES)]
    return [one for one in found if isinstance(one, MaskChange)]


def verdicts(folder: RunFolder) -> list[Verdict]:
    with closing(folder.home.reader(topics.LEDGER)) as reader:
        return [one for one in LedgerFollower(reader).poll() if isinstance(one, Verdict)]


def test_it_is_grafted_on_the_grid_from_the_first_mask_on_and_says_so(whole: RunFolder) -> None:
    found = changes(whole)
    assert [one.count for one in found] == [*range(9_000, TOTAL, EVERY)]
    assert {(one.model, one.source_count - one.count) for one in found} == {(SPARSE, 0)}
    assert all(0 <= one.entered[name] <= kept for one in found for name, kept in one.kept.items())
    assert any(sum(one.entered.values()) > 0 for one in found)


def test_rebuilds_go_on_beside_it_and_take_over(whole: RunFolder) -> None:
    promoted = [one.count for one in verdicts(whole) if one.verdict == "promoted"]
    assert promoted[0] == 7_000
    assert len(promoted) > 1


def test_the_first_mask_is_cut_in_one_shot_and_keeps_its_sparsity(whole: RunFolder) -> None:
    first = verdicts(whole)[0]
    assert first.sparsity == pytest.approx(0.8, abs=0.01)
    assert first.cost_events == 3_000


def test_both_end_with_one_table_and_the_served_one_has_the_last_mask(whole: RunFolder) -> None:
    snapshots = whole.snapshots
    dense, served = (snapshots.read(snapshots.names(one)[-1]) for one in (DENSE, SPARSE))
    assert (dense.count, served.count) == (TOTAL, TOTAL)
    assert torch.equal(dense.tensors["embedding.weight"], served.tensors["embedding.weight"])
    assert not torch.equal(dense.tensors["top.0.weight"], served.tensors["top.0.weight"])
    masks = {n[5:]: t.bool() for n, t in served.tensors.items() if n.startswith("mask.")}
    assert content_hash(pack(masks)) == changes(whole)[-1].mask
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == round(0.2 * sum(mask.numel() for mask in masks.values()))


def test_the_mask_store_has_what_was_published_last(whole: RunFolder) -> None:
    store = DiskMaskStore(whole.masks)
    head = store.head()
    assert head is not None
    assert head.sequence > 0
    published = whole.snapshots.read(head.snapshot)
    masks = {n[5:]: t.bool() for n, t in published.tensors.items() if n.startswith("mask.")}
    assert head.mask == content_hash(pack(masks))
    assert store.get(head.mask).keys() == masks.keys()


def lives(seed: int, kills: int) -> list[Life]:
    """Draw lives that end all over the run, one of them between a verdict and its swap."""
    rng = random.Random(seed)
    moments: list[tuple[Moment, How]] = [(Promoted(), "turns")]
    for count in sorted(rng.randrange(7_500, TOTAL - 1_000) for _ in range(kills - 1)):
        worker = rng.choice((SOURCE, DENSE, SPARSE, PRUNER, EVALUATOR))
        moments.append((Scored(count, worker), rng.choice(get_args(How))))
    return [
        Life(moment, how, after=rng.randrange(AFTER[how]), seed=number)
        for number, (moment, how) in enumerate(moments)
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = RunFolder(tmp_path_factory.mktemp("killed"))
    for life in lives(seed=3, kills=10):
        assert lived(PLAN, folder.path, life), f"{life} was not ended by a kill"
    assert execute(PLAN, folder.path).finished
    return Left.by(folder)


@pytest.mark.parametrize("part", PARTS)
def test_killed_ten_times_it_leaves_what_an_undisturbed_run_leaves(
    whole: RunFolder, killed: Left, part: str
) -> None:
    assert getattr(killed, part) == getattr(Left.by(whole), part)


def test_with_the_newest_checkpoint_torn_it_goes_on_from_the_one_before(
    whole: RunFolder, tmp_path: Path
) -> None:
    assert lived(PLAN, tmp_path, Life(Scored(15_000, DENSE), "threads"))
    newest = RunFolder(tmp_path).checkpoints(DENSE).paths()[-1]
    part = newest / f"{SPARSE}.safetensors"
    part.write_bytes(part.read_bytes()[:-40])
    assert execute(PLAN, tmp_path).finished
    assert_same(Left.by(whole), Left.by(RunFolder(tmp_path)))


def test_a_rollback_leaves_the_table_and_is_the_same_killed_or_not(tmp_path: Path) -> None:
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    result = with_request(PLAN, whole.path, after=17_000)
    (told,) = result.summary.rollbacks
    assert (told.count, told.to_version, told.took_effect) == (19_000, 1, True)
    assert lived(PLAN, killed.path, Life(Decides(17_000), "turns", seed=1))
    requests.ask(killed.home, BACK)
    assert lived(PLAN, killed.path, Life(Decides(18_000), "turns"))
    assert lived(PLAN, killed.path, Life(Stands(DENSE, 19_000), "turns", seed=2))
    assert execute(PLAN, killed.path).finished
    assert_same(Left.by(whole), Left.by(killed))


def test_what_nobody_needs_is_deleted_from_its_logs(tmp_path: Path) -> None:
    needed = {f"stream__retention__{log}": "needed" for log in ("clicks", "predictions", "truth")}
    often = {"learner__checkpoint_events": 500, "evaluator__checkpoint_events": 200}
    plan = RunDefinition.generated(eventful(**GRAFTED, **needed, **often))
    assert lived(plan, tmp_path, Life(Scored(18_000, DENSE), "turns", trims=True))
    folder = RunFolder(tmp_path)
    with (
        open_logs(plan.settings.stream, folder.home.folder) as logs,
        closing(Retention(plan, folder, logs)) as retention,
    ):
        retention.trim()
    for log in (topics.CLICKS, topics.predictions(DENSE), topics.predictions(SPARSE)):
        with closing(folder.home.reader(log)) as reader:
            assert reader.begin(0) > 0, log
    assert execute(plan, tmp_path).finished


def test_processes_leave_what_one_process_leaves(whole: RunFolder, tmp_path: Path) -> None:
    with crew(tmp_path, PLAN.settings) as team:
        for name in ("source", "dense+sparse", "never_rebuilt", "pruner", "evaluator"):
            rate = ("--set", "stream.generator.rate=null") if name == "source" else ()
            team.start(name, *rate)
        for name, hand in team.hands.items():
            assert (name, hand.wait()) == (name, 0), hand.text
    assert_same(Left.by(whole), Left.by(RunFolder(team.state)))


def test_over_a_broker_stopped_and_continued_it_leaves_the_same(
    whole: RunFolder, tmp_path: Path, kafka_config: KafkaConfig
) -> None:
    on_broker = {"stream__home": "kafka", "stream__kafka__bootstrap": kafka_config.bootstrap}
    on_broker["stream__kafka__prefix"] = kafka_config.prefix
    plan = RunDefinition.generated(eventful(**GRAFTED | on_broker))
    stop = threading.Event()

    def observe(name: str, step: Step) -> None:
        if name == DENSE and step.count >= 15_000:
            stop.set()

    assert not execute(plan, tmp_path, observe, stop).finished
    assert execute(plan, tmp_path).finished
    folder = RunFolder(tmp_path)
    with open_logs(plan.settings.stream, folder.home.folder) as logs:
        assert_same(Left.by(whole), Left.by(folder, logs))


@pytest.mark.parametrize("name", [DENSE, SPARSE])
def test_a_process_with_one_of_both_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(ValueError, match="start `resprout learn dense sparse`, or set"),
        worker_process(PLAN, tmp_path / "run", (name,)),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pruner__criterion": "aux"}, "'aux' learns a mask in a prune phase: use 'fisher_ema'"),
        ({"learner__masking__embeddings": True}, "cannot be both shared and pruned"),
        ({"pruner__graft_events": 150}, "not a multiple of stream.batch_events = 100"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_anything_starts(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        execute(RunDefinition.generated(eventful(**GRAFTED | changed)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_export_is_of_the_shared_table_and_the_last_mask(
    whole: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "--state", str(whole.path), "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    weights = load_weights((tmp_path / "out" / FILE).read_bytes())
    snapshots = whole.snapshots
    dense, served = (snapshots.read(snapshots.names(one)[-1]).tensors for one in (DENSE, SPARSE))
    assert torch.equal(weights["embedding.weight"], dense["embedding.weight"])
    assert torch.equal(weights["top.0.weight"], served["top.0.weight"])


def test_one_shot_rebuilds_work_without_grafting(tmp_path: Path) -> None:
    """The evidence travels in the snapshots of dense, so its models may be processes apart."""
    given = {"pruner__evidence": "dense", "pruner__criterion": "fisher_ema"}
    plan = RunDefinition.generated(eventful(**given, pruner__allocation="global_layer_mean"))
    folder = RunFolder(tmp_path)
    assert execute(plan, tmp_path).finished
    assert not changes(folder) if folder.home.exists(topics.MASK_CHANGES) else True
    first = verdicts(folder)[0]
    assert first.verdict == "promoted"
    assert first.sparsity == pytest.approx(0.8, abs=0.01)


def test_settings_of_the_regime_can_be_set_together() -> None:
    settings = load(arguments={"pruner.regime": "graft", "pruner.graft_events": 5_000}).settings
    assert settings.pruner.criterion == "fisher_ema"
    assert replace(PLAN, settings=settings).grafts
