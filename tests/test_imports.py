"""The house rules of DESIGN: who may import whom, and where each heavy library lives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT: dict[str, set[str]] = {
    "stream": set(),
    "evaluator": {"stream"},
    "learner": {"stream"},
    "pruner": {"stream", "learner"},
    "resprout": {"stream", "learner", "pruner", "evaluator"},
}
"""The rooms, and which other rooms each may see."""

OUTSIDE = {"bench", "examples", "tests"}
"""What no room may see: it stands on the rooms, not under them."""

HOMES: dict[str, tuple[str, ...]] = {
    "click": ("resprout/cli/",),
    "jinja2": ("evaluator/run/report.py",),
    "kafka": ("stream/log/kafka/",),
    "matplotlib": ("evaluator/run/plot.py",),
    "numba": ("learner/kernels/",),
    "onnx": ("learner/export.py",),
    "onnxruntime": ("learner/export.py",),
    "prometheus_client": ("resprout/monitoring/metrics.py",),
    "pyarrow": ("stream/",),
    "pydantic_settings": ("resprout/settings.py",),
    "redis": ("pruner/masks/redis.py",),
    "river": ("learner/river.py", "evaluator/metrics/river.py", "evaluator/drift.py"),
    "safetensors": ("learner/", "pruner/"),
    "sklearn": (),
    "sse_starlette": ("evaluator/page/",),
    "starlette": ("evaluator/page/",),
    "torch": ("learner/", "pruner/", "resprout/"),
    "uvicorn": ("evaluator/page/",),
    "xxhash": ("stream/",),
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
