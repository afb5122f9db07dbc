"""The recipes of CONTRIBUTING: each is installed as it is written there, and its commands are run.

A package is laid out in a temporary folder on the path: the module and the entry points of a
recipe. Its commands then run at a small scale, in an empty folder, beside the settings of the
recipe. So a recipe that no longer works, or that an example hides a step of, fails here.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sqlite3
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import resprout
from evaluator.run import RunHistory
from learner import masks_of
from resprout.cli import main
from resprout.folder import RunFolder
from resprout.settings import DELIMITER, PREFIX, flat, load
from stream import make_source, open_logs, topics
from stream.log import LocalLogStore
from stream.messages import Window
from tests.resprout.small import SMALL
from tests.stream.log_contract import CHECKS, Check, everything, records
from tests.structure import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RUN = "runs/mine"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe, as it is written."""

    title: str
    module: str
    code: str
    groups: Mapping[str, Mapping[str, str]]
    """Entry points by group."""
    settings: str
    """TOML; empty where none is needed."""
    commands: tuple[str, ...]

    @classmethod
    def of(cls, title: str, text: str) -> Recipe:
        """Read a section."""
        (first, code), *others = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", text, re.DOTALL)
        assert not others
        tomls = dict(re.findall(r"```toml\n# ([\w.]+)\n(.*?)```", text, re.DOTALL))
        (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        groups = tomllib.loads(tomls["pyproject.toml"])["project"]["entry-points"]
        return cls(title, first, code, groups, tomls.get("my.toml", ""), (*commands.splitlines(),))

    @property
    def group(self) -> str:
        """The entry-point group that it is about."""
        return next(iter(self.groups))

    def install(self, folder: Path) -> None:
        """Lay the package out in a folder."""
        (folder / f"{self.module}.py").write_text(self.code)
        about = folder / f"{self.module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.module}\nVersion: 1\n")
        lines = [
            line
            for group, offers in self.groups.items()
            for line in (f"[{group}]", *(f"{name} = {what}" for name, what in offers.items()))
        ]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


_PARTS = re.split(
    r"^### (.*)\n", TEXT.partition("\n## Recipes\n")[2].partition("\n## ")[0], flags=re.MULTILINE
)
RECIPES = {
    title: Recipe.of(title, text) for title, text in zip(_PARTS[1::2], _PARTS[2::2], strict=True)
}
"""By title."""


Cook = Callable[[str], Path]


@pytest.fixture
def cook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cook:
    """Return what installs a recipe, runs its commands, and says in which folder they ran."""

    def follow(title: str) -> Path:
        recipe = install(title, tmp_path, monkeypatch)
        for command in recipe.commands:
            run(command)
        return tmp_path / "work"

    return follow


def install(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Install a recipe, and go to an empty folder that has its settings."""
    recipe, packages, work = RECIPES[title], folder / "packages", folder / "work"
    packages.mkdir()
    work.mkdir()
    recipe.install(packages)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(sys.modules, recipe.module, raising=False)
    monkeypatch.chdir(work)
    (work / "my.toml").write_text(recipe.settings)
    given = set(leaves(tomllib.loads(recipe.settings)))
    for name, value in SMALL.items():
        if not any(f"{one}.".startswith(f"{name}.") for one in given):
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(PREFIX + name.upper().replace(".", DELIMITER), text)
    return recipe


def run(command: str) -> str:
    """Run a command of a recipe, and return what it says."""
    done = CliRunner().invoke(main, shlex.split(command)[1:])
    assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    return done.output


def leaves(values: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield the dotted names of settings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{name}.")
        else:
            yield at + name


def history(work: Path, run: str = RUN) -> RunHistory:
    """Read the run of a recipe."""
    folder = RunFolder(work / run)
    settings = load(("run", folder.record()["settings"]), work / "my.toml").settings
    with open_logs(settings.stream, folder.home.folder, writable=False) as logs:
        return RunHistory.read(logs, keeps_messages=True)


def masks(work: Path, model: str) -> dict[str, torch.Tensor]:
    """Return the masks of the last snapshot of a model."""
    snapshots = RunFolder(work / RUN).snapshots
    return masks_of(snapshots.read(snapshots.names(model)[-1]))


@pytest.fixture(scope="module")
def usual_mask(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Return the name of the first mask of a run without a recipe."""
    folder = tmp_path_factory.mktemp("usual")
    settings = load(arguments=SMALL).settings
    result = resprout.run(settings, make_source(settings.stream, settings.seed), state=folder)
    return result.verdicts[0].mask


def test_there_is_a_recipe_for_all_that_is_often_added() -> None:
    assert tuple(RECIPES) == (
        "A criterion",
        "Evidence",
        "A metric",
        "A mask updater",
        "A model",
        "A log home",
        "A drift",
        "A trigger",
        "A source",
    )


def test_the_table_of_recipes_is_that_of_the_recipes() -> None:
    table = re.findall(r"^\| (?:an? )?([\w ]+) \| `([\w.]+)` \|", TEXT, flags=re.MULTILINE)
    groups = {title.removeprefix("A ").lower(): one.group for title, one in RECIPES.items()}
    assert dict(table) == groups


def test_the_table_of_recipes_names_settings_and_lines_that_are_there() -> None:
    rows = re.findall(
        r"^\| an? .*`resprout\.\w+` \| (.*) \| `(\w+)` of `(.*)` \|$", TEXT, flags=re.M
    )
    assert len(rows) == len(RECIPES) - 2
    known = {name for name, _ in flat(load().settings)} | {"comparisons.NAME.updater"}
    for setting, name, file in rows:
        assert re.search(rf"^{name}\b", (ROOT / file).read_text("utf-8"), flags=re.MULTILINE), file
        assert {one for one in re.findall(r"`([\w.]+\.[\w.]+)`", setting)} <= known


def test_a_criterion(cook: Cook, usual_mask: str | None) -> None:
    first = history(cook("A criterion")).verdicts[0]
    assert first.verdict == "promoted"
    assert first.sparsity == pytest.approx(0.8, abs=0.01)
    assert first.mask != usual_mask


def test_evidence(cook: Cook, usual_mask: str | None) -> None:
    first = history(cook("Evidence")).verdicts[0]
    assert first.verdict == "promoted"
    assert first.mask != usual_mask


def test_a_metric(cook: Cook) -> None:
    work = cook("A metric")
    for window in history(work).of_kind(Window):
        found = window.metric("dense", "brier")
        assert found is not None
        assert 0 < found < 0.25
    assert "Brier" in (work / RUN / "report.html").read_text("utf-8")


def test_a_mask_updater(cook: Cook) -> None:
    work = cook("A mask updater")
    fixed, swapping = masks(work, "never_rebuilt"), masks(work, "swapping")
    assert history(work).of_kind(Window)[-1].metric("swapping", "relative_ce") is not None
    for name, mask in fixed.items():
        assert int(mask.sum()) == int(swapping[name].sum())
    assert any(not torch.equal(mask, swapping[name]) for name, mask in fixed.items())


def test_a_model(cook: Cook) -> None:
    work = cook("A model")
    served = runpy.run_path(str(work / "served" / "model.py"))
    weights = served["read"](work / "served" / "model.safetensors")
    pruned = np.concatenate([weights[name].ravel() for name in ("hidden.weight", "logit.weight")])
    assert float((pruned == 0).mean()) == pytest.approx(0.8, abs=0.01)
    chances = served["load"]().predict_encoded(
        np.zeros((3, 2), np.float32), np.ones((3, 4), np.int32)
    )
    assert ((chances > 0) & (chances < 1)).all()
    assert len(history(work).of_kind(Window)) > 0


def test_a_log_home(cook: Cook) -> None:
    work = cook("A log home")
    assert {path.name for path in (work / "fast").iterdir()} == {"mine"}
    told = CliRunner().invoke(main, ["masks", "list", "--state", RUN])
    assert (told.exit_code, "disk: Field required" in told.output) == (1, True)
    assert not (work / RUN / "logs").exists()
    assert history(work).events == SMALL["stream.generator.events"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_log_home_keeps_the_contract(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("A log home", tmp_path, monkeypatch)
    stream = load(config=Path("my.toml")).settings.stream
    with open_logs(stream, Path("runs/mine/logs")) as logs:
        check(logs)


def test_a_drift(cook: Cook) -> None:
    work = cook("A drift")
    rates: dict[bool, list[float]] = {True: [], False: []}
    for window in history(work).of_kind(Window):
        if window.size == 1_000:
            rates[8_000 <= window.begin < 11_000].append(window.click_rate)
            assert ("holiday" in window.drift) == (window.begin in (8_000, 11_000))
    assert min(rates[True]) > max(rates[False]) + 0.05
    assert (work / "runs" / "demo" / "ne-light.svg").exists()


def test_a_trigger(cook: Cook) -> None:
    _, *others = history(cook("A trigger")).verdicts
    assert {one.rebuild.reason for one in others} == {"rising"}


ROWS = 8_000


def make_table(folder: Path) -> None:
    """Write the table that the recipe of a source reads, and the schema of its clicks."""
    draw = np.random.default_rng(0)
    rows = [
        (
            number,
            1.7e9 + number,
            int(draw.random() < 0.2),
            float(draw.normal()),
            f"site {number % 7}",
        )
        for number in range(1, ROWS + 1)
    ]
    with closing(sqlite3.connect(folder / "clicks.db")) as database, database:
        database.execute("CREATE TABLE clicks (id, seconds, clicked, price, site)")
        database.executemany("INSERT INTO clicks VALUES (?, ?, ?, ?, ?)", rows)
    (folder / "clicks.toml").write_text(
        '[[numeric]]\nname = "price"\n[[categorical]]\nname = "site"\nbuckets = 100\n'
    )


def test_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = install("A source", tmp_path, monkeypatch)
    make_table(tmp_path / "work")
    for command in recipe.commands:
        run(command)
    found = history(tmp_path / "work")
    assert (found.events, found.invalid) == (ROWS, {})
    assert found.verdicts[0].verdict == "promoted"


def test_the_source_continues_where_its_log_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("A source", tmp_path, monkeypatch)
    make_table(tmp_path / "work")
    settings = load(config=Path("my.toml")).settings
    source = make_source(settings.stream, settings.seed)
    whole, broken = LocalLogStore(tmp_path / "whole"), LocalLogStore(tmp_path / "broken")
    with closing(source.attach(whole)) as feed:
        while feed.step() is not None:
            """Until it has ended."""
    for _ in range(ROWS // 500 + 2):
        with closing(source.attach(broken)) as feed:
            feed.step()
    both = [records(everything(store.reader(topics.CLICKS))) for store in (whole, broken)]
    assert len(both[0]) == ROWS + 1
    assert both[0] == both[1]
