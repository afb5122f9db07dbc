"""The runs behind the golden hashes; each prints the hashes of what it left as one line of JSON."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from learner import ADAGRAD, FROZEN, MASK
from resprout import retention
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.runner import Step
from resprout.settings import EVALUATOR, MODELS, Settings, load
from resprout.spec import ExternalSource, RunDefinition
from stream import topics
from stream.codec import end_record
from stream.columnar import predictions_from_bytes
from stream.config import open_logs
from stream.follow import MessageLog, read_all
from stream.log import LogStore
from stream.log.local import LocalLogStore
from stream.messages import (
    Alarm,
    DeadLetter,
    Decision,
    Interval,
    Judgement,
    Lifetime,
    ModelScore,
    PredictionBatch,
    Scores,
    Stability,
    Verdict,
    Window,
)
from stream.schema import CategoricalFeature, Columns, FeatureSchema, NumericFeature
from stream.sources.files import FileSource
from stream.sources.generator import GeneratorSource
from tests.golden.make import digest

SMALL: dict[str, Any] = {
    "pruner.regime": "d2s",
    # Hashes are of whole logs; one scenario has them trimmed.
    "stream.retention.clicks": "all",
    "stream.retention.predictions": "all",
    "stream.retention.truth": "all",
    "stream.generator.events": 120_000,
    "stream.generator.drifts": [{"kind": "abrupt", "begin": 55_000, "every_events": 25_000}],
    "learner.rate": 0.05,
    "learner.snapshot_events": 5_000,
    "learner.checkpoint_events": 10_000,
    "pruner.first_mask_events": 40_000,
    "pruner.rebuild_events": 10_000,
    "pruner.prune_events": 5_000,
    "pruner.judge_events": 5_000,
    "pruner.lead_events": 5_000,
    "pruner.checkpoint_events": 5_000,
    "trigger.window_events": 5_000,
    "trigger.cooldown_events": 5_000,
    "evaluator.windows": [5_000, 10_000],
    "evaluator.models": list(MODELS),
    "evaluator.segments": ["item_0"],
    "evaluator.segments_top": 3,
    "evaluator.checkpoint_events": 10_000,
}
"""The demo with all that is counted in events divided by about twenty."""
KILLED_AT = 70_000
PARTITIONS = 3


def settings(**more: Any) -> Settings:
    """Return the settings of the small demo, with more by dotted name (``__`` for a dot)."""
    return load(arguments=SMALL | {k.replace("__", "."): v for k, v in more.items()}).settings


def demo(_: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Run the small demo, seed 0."""
    plan = RunDefinition.generated(settings())
    execute(plan, state)
    return hashes(plan, state)


def resumed(_: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Run the small demo, kill it, and let it continue."""
    plan = RunDefinition.generated(settings())
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(plan, state))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    execute(plan, state)
    return hashes(plan, state)


def trimmed(_: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Run the small demo, and delete after every step what nobody needs any more."""
    retention.EVERY_SECONDS = 0.0
    kept = {f"stream__retention__{log}": "needed" for log in ("clicks", "predictions", "truth")}
    plan = RunDefinition.generated(settings(**kept))
    execute(plan, state)
    return hashes(plan, state)


def kafka(config: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Run the small demo over the topics of a broker."""
    broker = {f"stream__kafka__{name}": value for name, value in config.items()}
    plan = RunDefinition.generated(settings(stream__home="kafka", **broker))
    execute(plan, state)
    return hashes(plan, state)


def partitions(_: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Learn from clicks in three partitions that are all there at the start."""
    asked = settings()
    source = GeneratorSource(asked.stream.generator, asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = LocalLogStore(Path(folder))
        with closing(source.attach(whole)) as feed:
            while feed.step() is not None:
                pass
        dealt = LocalLogStore(state / "logs")
        dealt.create({topics.CLICKS: PARTITIONS})
        _deal(whole, dealt)
    plan = RunDefinition(asked, ExternalSource(source.schema))
    execute(plan, state)
    return hashes(plan, state)


def file(_: Mapping[str, Any], state: Path) -> dict[str, str]:
    """Replay a CSV file in which some lines are no events."""
    schema = FeatureSchema(
        numeric=(NumericFeature(name="price", log1p=True), NumericFeature(name="age", scale=10.0)),
        categorical=(
            CategoricalFeature(name="site", buckets=500),
            CategoricalFeature(name="tags", buckets=300, max_values=3),
        ),
        columns=Columns(event_time="when", time_format="seconds", label="clicked"),
    )
    clicks = state / "clicks.csv"
    state.mkdir(exist_ok=True)
    with clicks.open("w", newline="") as out:
        csv.writer(out).writerows(_lines(40_000))
    few = {
        "pruner__first_mask_events": 10_000,
        "pruner__rebuild_events": 5_000,
        "pruner__prune_events": 2_500,
        "pruner__judge_events": 2_500,
        "pruner__criterion": "magnitude",
        "pruner__allocation": "uniform",
        "trigger__name": "periodic",
        "trigger__every_events": 5_000,
        "evaluator__segments": ["site", "tags"],
        "stream__generator__drifts": [],
    }
    plan = RunDefinition(settings(**few), FileSource(clicks, schema))
    execute(plan, state / "run")
    return hashes(plan, state / "run")


SCENARIOS: dict[str, Callable[[Mapping[str, Any], Path], dict[str, str]]] = {
    "demo": demo,
    "resumed": resumed,
    "trimmed": trimmed,
    "kafka": kafka,
    "partitions": partitions,
    "file": file,
}


def _lines(rows: int) -> Iterator[list[object]]:
    """Make lines of a file with signal in them; every 500th is no event."""
    rng = np.random.default_rng(5)
    yield ["when", "price", "age", "site", "tags", "clicked"]
    for row in range(rows):
        site, price = int(rng.zipf(1.5)) % 40, float(rng.lognormal())
        tags = "|".join(f"t{one}" for one in rng.integers(0, 20, rng.integers(0, 4)))
        chance = 1 / (1 + np.exp(1.5 - (site % 5) / 2 - (price > 2)))
        label: object = int(rng.random() < chance)
        age = "" if row % 7 == 0 else f"{rng.normal(40, 10):.1f}"
        yield [row, f"{price:.3f}", age, f"s{site}", tags, "maybe" if row % 500 == 499 else label]


def _deal(whole: LogStore, dealt: LogStore) -> None:
    """Deal the records of one partition out to several."""
    with closing(whole.reader(topics.CLICKS)) as log, closing(dealt.writer(topics.CLICKS)) as out:
        records = [stored.record for stored in read_all(log)][:-1]
        for number, record in enumerate(records):
            out.append([record], number * 7 % 11 % PARTITIONS)
        for partition in range(PARTITIONS):
            out.append([end_record()], partition)


def _killed(plan: RunDefinition, state: Path) -> None:
    """Run until the evaluator has scored so many events, and be killed there."""

    def observe(name: str, step: Step) -> None:
        if name == EVALUATOR and step.count >= KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    execute(plan, state, observe)


def hashes(plan: RunDefinition, state: Path) -> dict[str, str]:
    """Hash all that a run has left."""
    folder = RunFolder(state)
    with open_logs(plan.settings.stream, folder.home.folder) as logs:
        said = list(_messages(logs, topics.WINDOWS))
        found = {
            "predictions": digest(_predictions(logs)),
            "windows": digest(_scores(one) for one in said if isinstance(one, Window)),
            "lifetimes": digest(_scores(one) for one in said if isinstance(one, Lifetime)),
            "alarms": digest(_alarm(one) for one in said if isinstance(one, Alarm | Stability)),
            "judgements": digest(_judgement(one) for one in said if isinstance(one, Judgement)),
            "ledger": digest(_decided(one) for one in _messages(logs, topics.LEDGER)),
            "dead_letters": digest(_letter(one) for one in _messages(logs, topics.DEAD_LETTERS)),
        }
    for model in MODELS:
        tensors = folder.snapshots.read(folder.snapshots.names(model)[-1]).tensors
        kinds = {"weights": "", "sums": ADAGRAD, "masks": MASK, "frozen": FROZEN}
        for kind, prefix in kinds.items():
            found[f"{model}.{kind}"] = digest(_of_kind(tensors, prefix))
    _check_that_much_happened(folder, plan)
    return found


def _of_kind(tensors: Mapping[str, Any], prefix: str) -> Iterator[bytes | str]:
    """Yield names and contents of one kind of tensors."""
    for name, tensor in sorted(tensors.items()):
        is_other = name.startswith((ADAGRAD, MASK, FROZEN))
        if name.startswith(prefix) if prefix else not is_other:
            yield name.removeprefix(prefix)
            yield tensor.numpy().tobytes()


def _messages(logs: LogStore, name: str) -> Iterator[Any]:
    """Yield the messages of a log, each once, but for those of the wall clock."""
    found: Iterator[Any] = MessageLog(logs, name).read()
    return (message for message in found if message.kind != "progress")


def _predictions(logs: LogStore) -> Iterator[Any]:
    """Yield all predictions of all models and candidates, in the order of events."""
    for name in dict.fromkeys(map(topics.predictions, (*MODELS, "candidate-1"))):
        found: dict[tuple[str, int], PredictionBatch] = {}
        with closing(logs.reader(name)) as reader:
            for stored in read_all(reader):
                batch = predictions_from_bytes(stored.record.value)
                found.setdefault((batch.model, batch.begin), batch)
        for key in sorted(found):
            one = found[key]
            spans = [(s.partition, *s.first, *s.last, s.events) for s in one.spans]
            through = [(p, *place) for p, place in sorted(one.trained_through.items())]
            yield (*key, one.version, spans, through)
            yield one.probability.tobytes()


def _scores(one: Scores) -> tuple[Any, ...]:
    """Return the figures of a window or a lifetime."""
    at: tuple[Any, ...] = (one.begin, one.end)
    if isinstance(one, Window):
        at += (one.size, one.number, one.partial)
    segments = [
        (s.feature, s.value, s.events, s.weight, s.clicks, _figures(s)) for s in one.segments
    ]
    return (*at, one.weight, one.clicks, one.click_rate, one.drift, _figures(one), segments)


EXACT = ("ce", "ne", "ne_training", "calibration", "predicted_clicks", "ece")
BOUNDED = ("roc_auc", "pr_auc")


def _figures(one: Any) -> dict[str, Any]:
    """Return what is known of each model."""
    found: dict[str, Any] = {"bayes": one.bayes_ce}
    for model, score in one.models.items():
        found[model] = None if score is None else _score(score)
    return found


def _score(score: ModelScore) -> dict[str, Any]:
    relative = score.interval("relative_ce")
    figures: dict[str, Any] = {"versions": score.versions}
    figures["relative"] = _interval(relative) if relative else None
    for name in (*EXACT, *BOUNDED, "regret"):
        figures[name] = score.metrics[name]
    for name in BOUNDED:
        figures[f"{name}_error"] = score.errors.get(name)
    return figures


def _interval(one: Interval) -> tuple[float | None, ...]:
    return one.mean, one.low, one.high


def _alarm(one: Alarm | Stability) -> tuple[Any, ...]:
    if isinstance(one, Stability):
        return one.begin, one.end, one.psi
    return one.detector, one.feature, one.count, one.since, one.statistic, one.threshold


def _judgement(one: Judgement) -> tuple[Any, ...]:
    ces = (one.candidate_ce, one.incumbent_ce, one.dense_ce)
    return one.rebuild, one.begin, one.end, *ces, _interval(one.difference), _interval(one.relative)


def _decided(one: Decision | Verdict) -> tuple[Any, ...]:
    plan = one.rebuild
    rebuild = plan and (plan.number, plan.reason, plan.begin, plan.decided, plan.end)
    if isinstance(one, Decision):
        return "decision", one.count, rebuild, one.rollback is None
    layers = {
        name: (layer.weights, layer.kept, layer.sparsity, layer.overlap)
        for name, layer in one.layers.items()
    }
    outcome = (one.verdict, one.version, one.mask, one.sparsity, layers, one.cost_events)
    return "verdict", one.count, rebuild, outcome


def _letter(one: DeadLetter) -> tuple[Any, ...]:
    return one.reason, one.partition, one.offset, one.row, one.file, one.line, one.raw


def _check_that_much_happened(folder: RunFolder, plan: RunDefinition) -> None:
    """See that the hashes are of a run with rebuilds in it."""
    with open_logs(plan.settings.stream, folder.home.folder) as logs:
        ended = [one for one in _messages(logs, topics.LEDGER) if isinstance(one, Verdict)]
    verdicts = [one.verdict for one in ended]
    sys.stderr.write(f"verdicts: {verdicts}\n")
    assert len(verdicts) >= 3, verdicts
    assert "promoted" in verdicts, verdicts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="golden-") as made:
        taken = SCENARIOS[sys.argv[1]](json.loads(sys.argv[2]), Path(made) / "run")
    sys.stdout.write(json.dumps(taken) + "\n")
