"""The house rules of DESIGN: who may import whom, and where each heavy library lives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import (
    ROOT,
    Import,
    attributes,
    circles,
    class_names,
    exported,
    floors,
    graph,
    imports,
    listed,
    mapped,
    modules,
    packages,
    parts,
    without_doors,
)

MAY_IMPORT: dict[str, set[str]] = {
    "stream": set(),
    "evaluator": {"stream"},
    "learner": {"stream"},
    "pruner": {"stream", "learner"},
    "resprout": {"stream", "learner", "pruner", "evaluator"},
}
"""The rooms, and which other rooms each may see."""

DOORS: dict[str, str] = {
    "stream": "a room",
    "learner": "a room",
    "pruner": "a room",
    "evaluator": "a room",
    "stream.log": "what a log is, apart from what is in it: those who store or serve records",
    "stream.sources": "where clicks come from: those who feed a run, and no worker",
    "stream.sources.drift": "drifts by name; only those who list or check one",
    "stream.messages": "some thirty classes of one kind, which would drown the others",
    "stream.topics": "names of logs, which are read with it: topics.CLICKS",
    "stream.state": "files that survive a crash: of use to every room, and of no events",
    "stream.plugins": "for every room that offers an entry-point group: names, and checks",
    "learner.models": "models by name, and River's; only those who build one",
    "learner.export": "loads ONNX where it is asked for",
    "pruner.masks": "where masks are kept; only those who serve or list them",
    "pruner.updaters": "mask updaters by name; only those who build one",
    "pruner.criteria": "criteria by name; only those who list or build one",
    "pruner.conformance": "checks for authors of criteria, run by command",
    "pruner.requests": "what people ask for, read with it: requests.rollback",
    "pruner.triggers": "triggers by name; read with it: triggers.build",
    "evaluator.metrics": "metrics by name; only those who list them",
    "evaluator.run": "what came of a run: those who read one, and no worker",
    "evaluator.run.plot": "loads matplotlib",
    "evaluator.run.report": "loads matplotlib and jinja2",
    "evaluator.page": "loads a web server",
}
"""Where another room may come in, and for each that is not a room itself why it is a door."""

MOST_FLOORS = 5
"""Of imports in the evaluator, which once stood on ten."""
MOST_FILES = 120
"""Of the product."""

OUTSIDE = {"bench", "examples", "tests"}
"""What no room may see: it stands on the rooms, not under them."""

HOMES: dict[str, tuple[str, ...]] = {
    "click": ("resprout/cli/",),
    "jinja2": ("evaluator/run/report.py",),
    "kafka": ("stream/log/kafka/",),
    "matplotlib": ("evaluator/run/plot.py",),
    "numba": ("learner/kernels/",),
    "onnx": ("learner/export/__init__.py",),
    "onnxruntime": ("learner/export/__init__.py",),
    "prometheus_client": ("resprout/monitoring/metrics.py",),
    "pyarrow": ("stream/",),
    "pydantic_settings": ("resprout/settings.py",),
    "redis": ("pruner/masks/redis.py",),
    "river": (
        "learner/river.py",
        "evaluator/metrics/river.py",
        "evaluator/drift.py",
        "evaluator/baselines.py",
    ),
    "safetensors": ("learner/", "pruner/"),
    "sklearn": (),
    "sse_starlette": ("evaluator/page/",),
    "starlette": ("evaluator/page/",),
    "torch": ("learner/", "pruner/", "resprout/"),
    "uvicorn": ("evaluator/page/",),
    "xxhash": ("stream/", "learner/export/model.py"),
}
"""Heavy libraries, and the files or folders that may import them."""


def files(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in the file that stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_that_it_may_see(room: str) -> None:
    forbidden = (set(MAY_IMPORT) | OUTSIDE) - MAY_IMPORT[room] - {room}
    broken = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(room)
        for module in imported(path)
        if top(module) in forbidden
    ]
    assert broken == []


def crossing() -> Iterator[Import]:
    """Yield what rooms take from each other, by import or by a dot after it."""
    taken = [*imports(), *(one for module in modules() for one in attributes(module))]
    for one in taken:
        whole = f"{one.module}.{one.name}"
        met = Import(one.importer, whole, None) if whole in modules() else one
        if top(one.importer) != top(met.module):
            yield met


def test_rooms_meet_at_doors() -> None:
    broken = {
        f"{one.importer} imports {one.module}" for one in crossing() if one.module not in DOORS
    }
    assert broken == set()


def test_a_door_offers_all_that_is_taken_there() -> None:
    broken = {
        f"{one.importer} takes {one.name}, which {one.module} does not have in __all__"
        for one in crossing()
        if one.name is not None and one.module in DOORS and one.name not in exported(one.module)
    }
    assert broken == set()


@pytest.mark.parametrize("door", DOORS)
def test_a_door_is_there(door: str) -> None:
    assert door in modules()


@pytest.mark.parametrize("package", packages())
def test_the_docstring_of_a_package_is_a_map_of_its_modules(package: str) -> None:
    folder = modules()[package].parent
    gone = {name for name in listed(package) - parts(package) if not (folder / name).is_dir()}
    assert (parts(package) - mapped(package), gone) == (set(), set())


def test_imports_go_in_no_circle() -> None:
    assert circles(graph()) == []


def test_no_two_classes_share_a_name() -> None:
    assert [name for name, times in class_names(modules().values()).items() if times > 1] == []


def test_a_reader_of_the_evaluator_climbs_few_floors() -> None:
    assert floors(without_doors(graph("evaluator"))) <= MOST_FLOORS


def test_the_product_is_few_files() -> None:
    assert len(modules()) <= MOST_FILES


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_only_in_its_home(library: str) -> None:
    homes = HOMES[library]
    broken = [
        name
        for path in files(*MAY_IMPORT)
        if library in map(top, imported(path))
        and not (name := path.relative_to(ROOT).as_posix()).startswith(homes)
    ]
    assert broken == []


def test_no_import_is_relative() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(*MAY_IMPORT)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert broken == []


def test_only_the_generator_and_the_evaluator_name_the_log_of_the_truth() -> None:
    """No learner and no pruner can open what it is to guess."""
    seen = {
        path.relative_to(ROOT).parts[0]
        for path in files("learner", "pruner", "resprout")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
        and "TRUTH" in (getattr(node, "attr", ""), getattr(node, "id", ""))
    }
    assert seen <= {"resprout"}
