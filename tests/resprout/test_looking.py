"""Commands that look at a run leave the topics of the broker as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resprout.cli import main
from resprout.folder import RunFolder
from resprout.monitoring.page import replayed
from resprout.spec import RunDefinition
from stream.log import KafkaConfig
from tests.resprout.small import small
from tests.stream.kafka_tools import Stranger

LOOKS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "list": (("masks", "list", "--state"), ("ledger", "requests")),
    "show": (("masks", "show", "1", "--state"), ("ledger",)),
    "diff": (("masks", "diff", "1", "2", "--state"), ("ledger",)),
    "rollback": (
        ("masks", "rollback", "1", "--reason", "x", "--state"),
        ("ledger", "clicks", "requests"),
    ),
    "rebuild": (("rebuild", "--reason", "x", "--state"), ("ledger", "clicks", "requests")),
    "deadletters": (("deadletters", "--state"), ("deadletters",)),
    "report": (("report",), ("ledger", "windows", "deadletters", "clicks")),
}
"""The command, and the logs that it opens, in this order."""


@pytest.fixture
def begun(kafka_config: KafkaConfig, tmp_path: Path) -> RunFolder:
    """A run of which there is a state folder and, as yet, no topic."""
    there = {f"stream__kafka__{k}": getattr(kafka_config, k) for k in ("bootstrap", "prefix")}
    folder = RunFolder(tmp_path)
    folder.begin(RunDefinition.generated(small(stream__home="kafka", **there)))
    return folder


def topics(stranger: Stranger) -> set[str]:
    """Return the topics of the broker, but for those that it makes for itself."""
    with stranger.admin() as admin:
        return {name for name in admin.list_topics() if not name.startswith("__")}


def look(folder: RunFolder, config: KafkaConfig, words: Sequence[str]) -> Result:
    at = f"stream.kafka.bootstrap={config.bootstrap}"
    return CliRunner().invoke(main, [*words, str(folder.path), "--set", at])


@pytest.mark.parametrize("name", LOOKS)
def test_looking_names_a_topic_that_is_missing_and_makes_none(
    name: str, begun: RunFolder, kafka_config: KafkaConfig
) -> None:
    """One log after the other is there; what is missing is the next one."""
    words, logs = LOOKS[name]
    stranger = Stranger(kafka_config)
    for missing in logs:
        before = topics(stranger)
        result = look(begun, kafka_config, words)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert result.stderr == (
            f"Error: there is no log {missing!r} (topic {stranger.topic(missing)!r}) on the broker "
            f"at {kafka_config.bootstrap}: either its run has not begun, or the topic is gone; "
            "look at stream.kafka.bootstrap and stream.kafka.prefix (now: "
            f"{kafka_config.prefix!r})\n"
        )
        assert topics(stranger) == before
        stranger.create(missing, retention_ms="-1")
    result = look(begun, kafka_config, words)
    assert "there is no log" not in result.output
    assert topics(stranger) == before | {stranger.topic(missing)}


def test_a_page_of_the_past_makes_no_topic(begun: RunFolder, kafka_config: KafkaConfig) -> None:
    stranger, there = (
        Stranger(kafka_config),
        kafka_config.model_dump(include={"bootstrap", "prefix"}),
    )
    before = topics(stranger)
    result = look(begun, kafka_config, ("evaluate", "--replay"))
    assert result.exit_code == 1
    assert f"there is no log 'windows' (topic {stranger.topic('windows')!r})" in result.stderr
    assert topics(stranger) == before
    stranger.create("windows", retention_ms="-1")
    shown = {f"stream__kafka__{name}": value for name, value in there.items()}
    with replayed(small(stream__home="kafka", serve__port=0, **shown), begun) as page:
        assert page.url
    assert topics(stranger) == before | {stranger.topic("windows")}
