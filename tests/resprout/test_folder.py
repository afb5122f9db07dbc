from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.run import execute
from resprout.settings import WORKERS
from resprout.spec import ExternalSource, RunDefinition
from stream.log import LogIdentityError
from stream.schema import FeatureSchema, NumericFeature
from stream.state import StateFormatError, StateLockedError, dump_checked
from tests.resprout.small import small


def test_a_folder_remembers_what_its_run_was_begun_with(tmp_path: Path) -> None:
    folder, plan = RunFolder(tmp_path), RunDefinition.generated(small())
    folder.begin(plan)
    folder.begin(plan)
    assert folder.record() == plan.record()


def test_every_difference_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    other = RunDefinition.generated(small(seed=4, pruner__sparsity=0.5))
    with pytest.raises(ValueError, match=r"pruner.sparsity was 0.8, is 0.5; settings.seed was 0"):
        folder.check(other)


SENT = FeatureSchema(numeric=(NumericFeature(name="price"), NumericFeature(name="age")))


def test_how_clicks_are_generated_matters_only_where_they_are(tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path), small(stream__generator__click_rate=0.3)
    folder.begin(RunDefinition(small(), ExternalSource(SENT)))
    folder.check(RunDefinition(other, ExternalSource(SENT)))
    with pytest.raises(ValueError, match="schema"):
        folder.check(RunDefinition.generated(other))
    generated = RunFolder(tmp_path / "generated")
    generated.path.mkdir()
    generated.begin(RunDefinition.generated(small()))
    with pytest.raises(ValueError, match=r"generator\.click_rate was 0\.2, is 0\.3"):
        generated.check(RunDefinition.generated(other))


def test_of_many_differences_a_handful_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    sizes = {"fields": 5, "signal": 2, "hidden": 8, "zipf": 2, "latent_dim": 3}
    changed = small(seed=4, **{f"stream__generator__{name}": size for name, size in sizes.items()})
    with pytest.raises(ValueError, match="was 4, is 3; and 2 more; continue as") as raised:
        folder.check(RunDefinition.generated(changed))
    # The features come first: they are many, and told in short.
    assert "otherwise: schema.categorical was a list of 4, is a list of 5; " in str(raised.value)


def test_a_feature_that_differs_is_named_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition(small(), ExternalSource(SENT)))
    scaled = SENT.model_copy(
        update={"numeric": (SENT.numeric[0], NumericFeature(name="age", scale=2))}
    )
    with pytest.raises(
        ValueError, match=r"otherwise: schema\.numeric\.1\.scale was 1\.0, is 2\.0; continue"
    ):
        folder.check(RunDefinition(small(), ExternalSource(scaled)))


@pytest.mark.parametrize(
    "changed",
    [
        {"stream__ahead_events": 77},
        {"stream__generator__rate": None},
        {"stream__generator__events": None},
        {"stream__kafka__bootstrap": "elsewhere:9092"},
        {"store__url": "redis://elsewhere:6379/1"},
        {"serve__port": 8_000},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_where_servers_are_and_how_fast_clicks_come_may_change(
    changed: dict[str, object], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    folder.check(RunDefinition.generated(small(**changed)))


@pytest.mark.parametrize(
    "changed",
    [
        {"stream__home": "kafka"},
        {"stream__kafka__prefix": "other."},
        {"store__kind": "memory"},
        {"store__prefix": "other"},
        {"store__versions": 7},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_which_logs_and_masks_they_are_may_not_change(
    changed: dict[str, object], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    name = next(iter(changed)).replace("__", r"\.")
    with pytest.raises(ValueError, match=rf"begun otherwise: settings\.{name} was"):
        folder.check(RunDefinition.generated(small(**changed)))


def test_no_password_is_written_down(tmp_path: Path) -> None:
    secret = {
        "stream__home": "kafka",
        "stream__kafka__security_protocol": "SASL_SSL",
        "stream__kafka__sasl_mechanism": "PLAIN",
        "stream__kafka__username": "ann",
        "stream__kafka__password": "hunter2",
        "store__kind": "redis",
        "store__url": "redis://ann:hunter2@masks:6379/0",
    }
    folder, plan = RunFolder(tmp_path), RunDefinition.generated(small(**secret))
    folder.begin(plan)
    written = (tmp_path / "run.json").read_text() + plan.spec.config_json
    assert "hunter2" not in written
    assert "ann" not in written


def test_a_run_that_was_begun_before_a_setting_was_known_goes_on(tmp_path: Path) -> None:
    folder, plan = RunFolder(tmp_path), RunDefinition.generated(small())
    record = plan.record()
    del record["settings"]["stream"]["home"]
    record["settings"]["stream"]["ahead_events"] = 20_000
    tmp_path.joinpath("run.json").write_text(json.dumps(record))
    folder.check(plan)
    with pytest.raises(ValueError, match=r"settings\.stream\.home was 'embedded', is 'kafka'"):
        folder.check(RunDefinition.generated(small(stream__home="kafka")))


def test_a_run_of_an_earlier_version_is_refused_by_the_setting_that_is_gone(tmp_path: Path) -> None:
    folder, plan = RunFolder(tmp_path), RunDefinition.generated(small())
    record = plan.record()
    record["settings"]["pruner"]["selection"] = "top_k"
    tmp_path.joinpath("run.json").write_text(json.dumps(record))
    match = (
        r"of an earlier version .* run\.json has pruner\.selection, which is no longer a setting"
    )
    for look in (folder.record, lambda: folder.check(plan)):
        with pytest.raises(ValueError, match=match):
            look()
    for command in ("masks list --state", "deadletters --state", "report"):
        told = CliRunner().invoke(main, [*command.split(), str(tmp_path)])
        assert told.exit_code == 2
        assert "name another folder" in " ".join(told.output.split())
    folder.clear()


def test_of_many_who_begin_at_once_one_writes_the_record_and_all_check_it(tmp_path: Path) -> None:
    folder, refused = RunFolder(tmp_path), []
    plans = [RunDefinition.generated(small(seed=number % 2)) for number in range(8)]
    gate = threading.Barrier(len(plans))

    def begin(plan: RunDefinition) -> None:
        gate.wait()
        try:
            folder.begin(plan)
        except ValueError:
            refused.append(plan.settings.seed)

    threads = [threading.Thread(target=begin, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = folder.record()["settings"]["seed"]
    assert refused == [1 - won] * 4
    assert {file.name for file in tmp_path.iterdir()} == {"run.json"}


def test_workers_share_a_folder_and_each_is_there_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with closing(folder.lock_worker("dense")), closing(folder.lock_worker("sparse")):
        with pytest.raises(StateLockedError, match=r"workers/dense is in use by dense \(process"):
            folder.lock_worker("dense")
        with pytest.raises(StateLockedError, match=r"is in use by dense \("), folder.lock():
            """Not reached."""
    with folder.lock([*WORKERS, "adapting"]):
        for worker in (*WORKERS, "adapting"):
            with pytest.raises(StateLockedError, match=r"is in use by resprout \(process"):
                folder.lock_worker(worker)
    with folder.lock():
        """It is free again."""


def test_a_folder_without_a_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run; name the state folder of one"):
        RunFolder(tmp_path).record()


def test_clearing_deletes_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    folder.home.writer("clicks").close()
    folder.clear()
    assert {file.name for file in tmp_path.iterdir()} == {"lock", "workers"}
    RunFolder(tmp_path / "none").clear()
    assert not (tmp_path / "none").exists()


def test_clearing_refuses_what_is_not_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex', which is no part of a run"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "thesis.tex").exists()


def test_clearing_refuses_a_folder_that_only_looks_like_a_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "app.log").write_text("precious")
    with pytest.raises(ValueError, match="holds 'logs', which is no part of a run"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "logs" / "app.log").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe{", b'{"settings": {}}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged .*; name another folder"):
        RunFolder(tmp_path).record()


def test_a_record_with_a_flipped_setting_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small()))
    file = tmp_path / "run.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match=r"run\.json is damaged \(it does not match its checksum"):
        folder.record()


def test_without_the_file_that_is_damaged_the_run_continues_as_the_message_says(
    tmp_path: Path,
) -> None:
    """It comes to the same end as one that nothing befell, and is told of other settings again."""
    began = RunDefinition.generated(small(stream__generator__events=8_000))
    longer = RunDefinition.generated(small(stream__generator__events=12_000))
    found = {}
    for name in ("whole", "damaged"):
        state = tmp_path / name
        execute(began, state)
        for file in ("run.json", "logs.json") if name == "damaged" else ():
            (state / file).write_text((state / file).read_text().replace("a", "e"))
            with pytest.raises(
                ValueError, match=rf"{file} is damaged .* or delete the file and co"
            ):
                execute(longer, state)
            (state / file).unlink()
        found[name] = execute(longer, state).summary
    untimed = {"call_seconds": 0.0, "events_per_second": 0.0}
    whole, damaged = (one.model_copy(update=untimed) for one in found.values())
    assert whole == damaged
    with pytest.raises(ValueError, match=r"settings\.seed was 0, is 3"):
        execute(RunDefinition.generated(small(seed=3)), tmp_path / "damaged")


def test_a_record_of_a_later_release_says_which(tmp_path: Path) -> None:
    folder, plan = RunFolder(tmp_path), RunDefinition.generated(small())
    later = json.loads(dump_checked(2, plan.record()))
    (tmp_path / "run.json").write_text(json.dumps(later))
    expected = r"run\.json is of format 2, written by Resprout 0\.1\.0; this release reads format 1"
    with pytest.raises(StateFormatError, match=expected):
        folder.record()


def test_logs_that_were_made_again_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.check_logs({"ledger": "7f", "windows": "80"})
    folder.check_logs({"ledger": "7f", "windows": "80"})
    again = r"began with the log ledger 7f, this one is 9c: it was deleted and made again; begin w"
    with pytest.raises(LogIdentityError, match=again):
        folder.check_logs({"ledger": "9c", "windows": "80"})


def test_a_file_is_no_state_folder(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# a run\n")
    folder = RunFolder(file)
    with pytest.raises(FileNotFoundError, match=r"README.md is a file and no run; name the state"):
        folder.record()
    for take in (folder.clear, folder.lock().__enter__, lambda: folder.lock_worker("dense")):
        with pytest.raises(OSError, match=r"no run can be kept in .*README\.md \(.*with --state"):
            take()
