"""What can be set, and what goes by a name: the reference, its commands, and its documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from pydantic import BaseModel
from torch import Tensor, nn

from learner import models
from learner.models import dlrm
from resprout.__main__ import HELP
from resprout.cli import main
from resprout.settings import Settings, descriptions, flat, markdown
from stream.sources import World, drift
from tests.resprout.helps import made
from tests.structure import ROOT


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_reference_is_as_it_is_made() -> None:
    begin, end = "<!-- settings: begin.", "<!-- settings: end -->"
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    table = text.partition(begin)[2].partition("\n\n")[2].partition(end)[0]
    assert table.strip() == markdown().strip()


def test_every_setting_is_described() -> None:
    found = {one.name: one for one in descriptions()}
    assert {name for name, _ in flat(Settings())} == {n for n in found if "NAME" not in n}
    assert [name for name, one in found.items() if not one.text or not one.kind] == []


def test_the_default_that_is_said_is_the_one_that_holds() -> None:
    said = {one.name: one.default for one in descriptions()}
    for name, value in flat(Settings()):
        if not isinstance(value, BaseModel):
            shown = json.loads(said[name])
            assert shown == json.loads(json.dumps(value, default=list)), name


def test_a_setting_is_explained() -> None:
    result = call("config", "--explain", "pruner.sparsity")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "pruner.sparsity = 0.8  # default",
        "    float, 0 or more, less than 1",
        "    Share of the prunable weights to remove, over all layers together.",
        "    RESPROUT_PRUNER__SPARSITY",
    ]


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("--set", "pruner.sparsity=0.9"), "pruner.sparsity = 0.9  # argument; the default is 0.8"),
        (("--sparsity", "0.7"), "pruner.sparsity = 0.7  # argument; the default is 0.8"),
        (("--config", "my.toml"), "pruner.sparsity = 0.6  # my.toml; the default is 0.8"),
        (
            ("--config", "my.toml", "--set", "pruner.sparsity=0.8"),
            "pruner.sparsity = 0.8  # argument; the default is 0.8",
        ),
    ],
)
def test_what_is_explained_is_the_value_in_force_and_its_origin(
    arguments: tuple[str, ...], first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text("[pruner]\nsparsity = 0.6\n")
    result = call("config", "--explain", "pruner.sparsity", *arguments)
    assert result.stdout.splitlines()[0] == first, result.output


def test_derived_values_are_explained_and_secrets_are_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaled = call("config", "--explain", "pruner.first_mask_events", "--scale", "100000")
    assert scaled.stdout.splitlines()[0] == (
        "pruner.first_mask_events = 41000  # scale; the default is 1000000"
    )
    monkeypatch.setenv("RESPROUT_STORE__PASSWORD", "hunter2")
    secret = call("config", "--explain", "store.password")
    assert "store.password = (not shown)  # environment; the default is null" in secret.stdout
    assert "hunter2" not in secret.output
    own = ("--set", "comparisons.mine.updater=adaptation")
    mine = call("config", "--explain", "comparisons.mine.updater", *own)
    assert mine.stdout.startswith('comparisons.mine.updater = "adaptation"  # argument')


@pytest.mark.parametrize("name", ["trigger", "comparisons.mine.updater", "stream.kafka", "seed"])
def test_sections_and_what_the_user_names_are_explained(name: str) -> None:
    result = call("config", "--explain", name)
    assert result.exit_code == 0, result.output
    first = name.replace("mine", "NAME")
    assert all(line.startswith((first, " ")) for line in result.stdout.splitlines() if line)


def test_an_unknown_setting_is_wrong_usage_with_a_guess() -> None:
    result = call("config", "--explain", "pruner.sparcity")
    assert result.exit_code == 2
    assert "unknown setting 'pruner.sparcity'; did you mean pruner.sparsity?" in result.stderr
    assert "`resprout config` lists all" in call("config", "--explain", "zzz").stderr


def test_models_and_drifts_are_listed_and_checked() -> None:
    assert "dlrm            resprout" in call("models", "list").stdout
    assert "click-rate      resprout" in call("drifts", "list").stdout
    checked = call("models", "check", "dlrm", "--options", '{"embedding_dim": 4}')
    assert checked.exit_code == 0, checked.output
    assert [line.split()[1] for line in checked.stdout.splitlines()] == [
        f"{name}:" for name in models.CHECKS
    ]
    wrong = call("models", "check", "dlrm", "--options", '{"width": 4}')
    assert (wrong.exit_code, "width: Extra inputs are not permitted" in wrong.stderr) == (2, True)
    assert "unknown model 'dlmr'; known: dlrm" in call("models", "check", "dlmr").stderr
    assert "unknown drift 'sudden'" in call("drifts", "check", "sudden").stderr


@pytest.mark.parametrize("kind", drift.BUILT_IN)
def test_every_drift_keeps_its_promises(kind: str) -> None:
    result = call("drifts", "check", kind, "--options", '{"begin": 3000}')
    assert result.exit_code == 0, result.output


class Broken(nn.Module):
    """Breaks a promise, by name."""

    def __init__(self, promise: str) -> None:
        super().__init__()
        self.promise, self.calls = promise, 0
        if promise == "prunable":
            self.weight = nn.Parameter(torch.randn(2))
        else:
            self.layer = nn.Linear(2, 1)
        if promise == "seeded":
            nn.init.constant_(self.layer.weight, 0.5)
            nn.init.zeros_(self.layer.bias)

    def forward(self, dense: Tensor, categorical: Tensor) -> Tensor:
        dense = dense if dense.shape[1] else torch.zeros(len(dense), 2)
        if self.promise == "prunable":
            return dense @ self.weight
        self.calls += 1
        found: Tensor = self.layer(dense)
        if self.promise == "each_event_alone":
            found = found + dense.sum()
        if self.promise == "repeatable":
            found = found + self.calls
        if self.promise == "learns":
            found = found.detach() + 0 * found
        if self.promise == "written_down" and float(found.sum()) > 1e9:
            found = -found
        return found if self.promise == "logits" else found.squeeze(1)


@pytest.mark.parametrize("promise", sorted(set(models.CHECKS) - {"any_schema"}))
def test_a_model_that_breaks_a_promise_fails_that_check(
    promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.BUILT_IN, "broken", lambda schema, options: Broken(promise))
    result = call("models", "check", "broken")
    failed = re.findall(r"^FAIL  (\w+):", result.stdout, re.MULTILINE)
    assert result.exit_code == 1
    assert promise in failed


def test_a_model_that_needs_numbers_fails_that_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(schema: Any, options: dict[str, Any]) -> nn.Module:
        if not schema.numeric:
            raise ValueError("no numbers")
        return dlrm.from_schema(schema, options)

    monkeypatch.setitem(models.BUILT_IN, "broken", picky)
    result = call("models", "check", "broken")
    assert re.findall(r"^FAIL  (.*)", result.stdout, re.MULTILINE) == [
        "any_schema: ValueError: no numbers"
    ]


class Restless:
    """Breaks all promises of a drift."""

    def __init__(self, begin: int = 0) -> None:
        self.asked = 0

    def apply(self, world: World, count: int) -> World:
        self.asked += 1
        return World(concept=float("inf") if count > 1_000_000 else float(self.asked))

    def active(self, begin: int, end: int) -> bool:
        return False


def test_a_drift_that_breaks_its_promises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drift.BUILT_IN, "restless", Restless)
    result = call("drifts", "check", "restless")
    assert result.exit_code == 1
    assert set(re.findall(r"^FAIL  (\w+):", result.stdout, re.MULTILINE)) == set(drift.CHECKS)


def test_the_contract_of_a_model_lists_the_checks_as_they_are() -> None:
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    for name, function in models.CHECKS.items():
        assert rows.get(name) == (function.__doc__ or "").strip()


@pytest.mark.parametrize("name", ["models.md", "recipes.md", "settings.md"])
def test_the_commands_of_a_document_parse(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("resprout"):
                words = line.replace("'", "").split()[1:]
                result = call(*words, "--help")
                assert result.exit_code == 0, f"{line}: {result.output}"


def test_the_help_that_is_kept_is_the_help_that_is_made() -> None:
    """Where it is not: ``python -m tests.resprout.helps``."""
    assert json.loads(HELP.read_text("utf-8")) == made()


HEAVY = ("torch", "numpy", "pydantic", "river", "sklearn", "scipy", "matplotlib", "pyarrow")


@pytest.mark.parametrize("words", [[], ["-h"], ["demo", "--help"], ["masks", "list", "--help"]])
def test_help_loads_no_heavy_library(words: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["resprout", *{words!r}]
from resprout.__main__ import main
main()
print("loaded:", *({{one.partition(".")[0] for one in sys.modules}} & {{*{HEAVY!r}}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
    name = " ".join(["resprout", *words[:-1]])
    assert done.stdout.startswith(f"Usage: {name} [OPTIONS]")


def test_a_narrow_terminal_has_a_help_that_fits_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resprout", "criteria", "--help"]
    narrow = {**os.environ, "COLUMNS": "50"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=narrow
    )
    assert max(map(len, done.stdout.splitlines())) <= 50


def test_the_package_offers_the_function_once_the_module_of_its_name_is_loaded() -> None:
    code = """
import resprout
import resprout.run
from resprout.run import execute
assert callable(resprout.run), resprout.run
assert resprout.Settings().seed == 0
assert [one for one in resprout.__all__ if not hasattr(resprout, one)] == []
try:
    resprout.rnu
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'resprout' has no attribute 'rnu'\n"
