"""Every block of README is run: Python as doctests, commands and schemas here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from learner.export import footprint
from pruner.sparsity import kept_of
from resprout.cli import main
from resprout.cli.commands import LAYER
from resprout.settings import load
from resprout.spec import RunDefinition
from stream.schema import FeatureSchema

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("resprout")])
def test_a_command_of_the_readme_parses(line: str) -> None:
    """Unknown commands and options are found before the help is shown."""
    _, *words = shlex.split(line, comments=True)
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make")])
def test_a_target_of_the_readme_is_in_the_makefile(line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)


def test_all_commands_are_of_ours() -> None:
    """Those of docker, with what they set, are run by tests/docker."""
    words = ([w for w in line.split() if not re.match(r"[A-Z_]+=", w)] for line in COMMANDS)
    assert {line[0] for line in words} <= {"make", "resprout", "python", "docker", "export"}


def test_what_the_readme_exports_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in COMMANDS:
        if line.startswith("export"):
            for word in shlex.split(line)[1:]:
                monkeypatch.setenv(*word.split("="))
    settings = load().settings
    assert (settings.stream.home, settings.store.kind) == ("kafka", "redis")


def test_what_is_pruned_of_the_demo_is_as_it_is_counted() -> None:
    """What a layer keeps is learned, what all keep together is not, nor are the sums of it."""
    plan = RunDefinition.generated(load(LAYER).settings)
    model = plan.model()
    weights = {name: model.theta(name).numel() for name in model.prunable}
    left = kept_of(sum(weights.values()), len(weights), plan.settings.pruner.sparsity)
    kept = {name: left * size // sum(weights.values()) for name, size in weights.items()}
    kept["top.2"] += left - sum(kept.values())
    table = footprint(model.module, plan.source.schema, kept).table()
    for row in table:
        assert f"| {' | '.join(row)} |".replace("|  |", "| |") in README


def test_the_producer_of_the_readme_is_the_one_that_is_run() -> None:
    script = (ROOT / "examples" / "producer.py").read_text("utf-8").split('"""', 2)[2].strip()
    assert script in {block.strip() for block in blocks("python")}


def test_the_schema_of_the_readme_is_one() -> None:
    schema = FeatureSchema.model_validate(tomllib.loads(blocks("toml")[0]))
    assert schema.names == ("price", "site", "tags")


def test_every_language_of_a_block_is_run() -> None:
    assert set(re.findall(r"^```(\w+)$", README, flags=re.MULTILINE)) <= {"python", "sh", "toml"}


def test_the_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"\]\(([\w./-]+\.md)\)", README):
        assert (ROOT / name).is_file(), name
