from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch

import resprout
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import DENSE, SOURCE
from resprout.spec import ExternalSource, RunDefinition
from resprout.wiring import Wiring
from stream.follow import read_all
from stream.log import KafkaConfig
from stream.log.local import LocalLogStore
from stream.messages import Progress, parse
from stream.schema import NumericFeature
from stream.sources.files import FileSource
from stream.state import StateLockedError, lock_folder
from tests.redis_server import redis_server
from tests.resprout.small import small


def test_all_workers_learn_judge_and_finish() -> None:
    settings = small()
    source = resprout.GeneratorSource(settings.stream.generator, settings.seed)
    result = resprout.run(settings, source)
    assert result.finished
    assert result.summary.events == 16_000
    assert sorted(result.models) == ["dense", "never_rebuilt", "sparse"]
    first, *others = result.verdicts
    assert (first.rebuild.reason, first.verdict, first.count) == ("first", "promoted", 6_000)
    assert [verdict.rebuild.reason for verdict in others] == ["periodic"] * len(others)
    assert {verdict.verdict for verdict in others} <= {"promoted", "rejected", "unfinished"}
    assert len(result.judgements) == sum(v.verdict in ("promoted", "rejected") for v in others)
    finest = [window for window in result.windows if window.size == 1_000]
    assert [window.end for window in finest] == list(range(1_000, 17_000, 1_000))
    assert all((window.models["sparse"] is None) == (window.begin < 6_000) for window in finest)
    assert all(window.bayes_ce is not None for window in finest)


def test_the_sparse_model_has_its_pruned_weights_at_zero() -> None:
    settings = small()
    source = resprout.GeneratorSource(settings.stream.generator, settings.seed)
    result = resprout.run(settings, source)
    layers = [m for m in result.models["sparse"].modules() if isinstance(m, torch.nn.Linear)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert float((weights == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_a_finished_run_is_told_again_without_work(tmp_path: Path) -> None:
    plan = RunDefinition.generated(small())
    first = execute(plan, tmp_path)
    again = execute(plan, tmp_path)
    assert again.windows == first.windows
    assert again.summary.events_per_second == 0


def test_a_run_cannot_go_on_with_other_settings(tmp_path: Path) -> None:
    execute(RunDefinition.generated(small(stream__generator__events=1_000)), tmp_path)
    other = RunDefinition.generated(small(stream__generator__events=1_000, pruner__sparsity=0.5))
    with pytest.raises(ValueError, match=r"begun otherwise: settings.pruner.sparsity was 0.8, is"):
        execute(other, tmp_path)


def test_a_second_run_on_the_same_state_folder_is_refused(tmp_path: Path) -> None:
    with (
        closing(lock_folder(tmp_path, name="resprout")),
        pytest.raises(StateLockedError, match=f"state folder {tmp_path} is in use by resprout"),
    ):
        execute(RunDefinition.generated(small()), tmp_path)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"pruner__criterion": "fischer"}, "unknown criterion 'fischer'; known: aux, "),
        ({"model__name": "dlmr"}, "unknown model 'dlmr'; known: dlrm"),
        ({"model__options": {"depth": 3}}, "depth"),
    ],
)
def test_what_is_unknown_is_found_before_anything_is_written(
    setting: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        execute(RunDefinition.generated(small(**setting)), tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_fault_in_a_worker_is_told_with_its_name(tmp_path: Path) -> None:
    def fail(name: str, step: Step) -> None:
        if name == DENSE and step.count >= 2_000:
            raise ArithmeticError("out of luck")

    with pytest.raises(ArithmeticError, match="out of luck") as caught:
        execute(RunDefinition.generated(small()), tmp_path, fail)
    assert caught.value.__notes__ == ["in worker 'dense'"]


def test_the_wall_clock_is_kept_in_logs_of_its_own(tmp_path: Path) -> None:
    execute(RunDefinition.generated(small()), tmp_path)
    reader = LocalLogStore(tmp_path / "logs").reader("progress.dense")
    messages = [parse(stored.record.value) for stored in read_all(reader)]
    assert messages
    last = messages[-1]
    assert isinstance(last, Progress)
    assert (last.worker, last.count) == ("dense", 16_000)


def test_a_warm_start_begins_with_the_weights_given(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plan = RunDefinition.generated(small(stream__generator__events=500))
    weights = {k: t * 0.5 for k, t in plan.model().module.state_dict().items()}
    save_file(weights, tmp_path / "warm.safetensors")
    warm = RunDefinition(plan.settings, plan.source, tmp_path / "warm.safetensors")
    for key, tensor in warm.model().module.state_dict().items():
        assert torch.equal(tensor, weights[key])
    execute(warm, tmp_path / "state")
    with pytest.raises(ValueError, match="init_from was"):
        execute(plan, tmp_path / "state")


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_wherever_masks_are_kept_the_run_is_the_same(kind: str, tmp_path: Path) -> None:
    with ExitStack() as opened:
        where = {"store__kind": kind}
        if kind == "redis":
            server = opened.enter_context(redis_server(tmp_path / "redis"))
            where["store__url"] = server.url
        there = execute(RunDefinition.generated(small(**where)), tmp_path / "there")
        here = execute(RunDefinition.generated(small()), tmp_path / "here")
        if kind == "redis":
            with server.client() as client:
                assert client.hget("resprout:head:sparse", "version") == b"1"
    assert there.windows == here.windows
    assert there.ledger == here.ledger


def test_a_run_over_a_broker_is_the_same(tmp_path: Path, kafka_config: KafkaConfig) -> None:
    where = {f"stream__kafka__{k}": getattr(kafka_config, k) for k in ("bootstrap", "prefix")}
    there = execute(
        RunDefinition.generated(small(stream__home="kafka", **where)), tmp_path / "there"
    )
    here = execute(RunDefinition.generated(small()), tmp_path / "here")
    assert there.finished
    assert there.windows == here.windows
    assert there.ledger == here.ledger


def test_clicks_that_somebody_else_writes_are_learned_without_a_source(tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("event_time,label,x\n" + "2026-01-01,1,0.5\n2026-01-02,0,1.5\n" * 500)
    schema = resprout.FeatureSchema(numeric=(NumericFeature(name="x"),))
    with closing(FileSource(clicks, schema).attach(LocalLogStore(tmp_path / "logs"))) as feed:
        while feed.step() is not None:
            """Write all of it."""
    plan = RunDefinition(small(), ExternalSource(schema))
    result = execute(plan, tmp_path)
    assert result.finished
    assert result.summary.events == 1_000
    folder = RunFolder(tmp_path)
    with (
        closing(Wiring(plan, folder, folder.home, [SOURCE])) as wiring,
        pytest.raises(ValueError, match="the clicks are written by somebody else"),
    ):
        wiring.workers()
