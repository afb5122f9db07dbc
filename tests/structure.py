"""The structure of the product in figures: ``python -m tests.structure``.

Files, lines of code (without docstrings, comments and blank lines), floors of imports inside each
room, circles of imports, and class names that stand twice. Everything is read from the source, and
nothing of the product is imported.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("stream", "learner", "pruner", "evaluator", "resprout")
_SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True, slots=True)
class Import:
    """One name, or a whole module, that a module imports from the product."""

    importer: str
    module: str
    """The module named after ``from`` or ``import``."""
    name: str | None
    """None where the module itself is imported."""


def modules(*rooms: str) -> dict[str, Path]:
    """Return the files of rooms by the names of their modules.

    >>> "stream.schema" in modules("stream")
    True
    """
    found = {}
    for room in rooms or ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_door(module: str) -> bool:
    """Tell whether a module is the ``__init__`` of a package."""
    return modules(_room(module))[module].name == "__init__.py"


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def code_lines(path: Path) -> int:
    """Count the lines of a file that hold code."""
    strings: set[int] = set()
    for node in ast.walk(parsed(path)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                strings.update(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type not in _SILENT:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - strings)


def imports(*rooms: str) -> Iterator[Import]:
    """Yield what the modules of rooms import from any room, at any depth of a function."""
    for module, path in modules(*rooms).items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                found: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [(node.module or "", alias.name) for alias in node.names]
            else:
                continue
            yield from (Import(module, *one) for one in found if _room(one[0]) in ROOMS)


def _room(module: str) -> str:
    return module.partition(".")[0]


def attributes(importer: str) -> Iterator[Import]:
    """Yield what a module takes from whole modules of the product by dots: ``topics.CLICKS``."""
    known, bound = modules(), dict[str, str]()
    tree = parsed(known[importer])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (whole := f"{node.module}.{alias.name}") in known:
                    bound[alias.asname or alias.name] = whole
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id in bound:
            yield Import(importer, bound[node.value.id], node.attr)


def exported(module: str) -> set[str]:
    """Return the names in the ``__all__`` of a module.

    >>> "Settings" in exported("resprout")
    True
    """
    found: set[str] = set()
    for node in parsed(modules(_room(module))[module]).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        if any(isinstance(one, ast.Name) and one.id == "__all__" for one in targets):
            assert isinstance(node, ast.Assign | ast.AugAssign)
            found.update(ast.literal_eval(node.value))
    return found


def packages() -> list[str]:
    """Return all packages, rooms first: each has an ``__init__`` that is its map."""
    found = [module for module, path in modules().items() if path.name == "__init__.py"]
    return sorted(found, key=lambda module: (module.count("."), module))


def parts(package: str) -> set[str]:
    """Return the names of the modules and packages right inside a package.

    >>> "log" in parts("stream"), "schema" in parts("stream"), "kafka" in parts("stream")
    (True, True, False)
    """
    inside = (one.removeprefix(f"{package}.") for one in modules() if one.startswith(f"{package}."))
    return {one for one in inside if one.isidentifier()} - {"__main__"}


def mapped(package: str) -> set[str]:
    """Return the modules that the docstring of a package lists, or names in double backticks."""
    return {*listed(package), *re.findall(r"``(\w+)``", _docstring(package))}


def listed(package: str) -> set[str]:
    """Return what the lines of the list in the docstring of a package begin with.

    A line begins with a dash and a name in double backticks, or it is indented and has two spaces
    between the name and its description.
    """
    text, name = _docstring(package), r"(?:``)?(\w+)(?:``)?/?"
    return {
        *re.findall(rf"^- {name}[:,]", text, flags=re.MULTILINE),
        *re.findall(rf"^ +{name} {{2,}}\S", text, flags=re.MULTILINE),
    }


def _docstring(package: str) -> str:
    return ast.get_docstring(parsed(modules(_room(package))[package])) or ""


def graph(*rooms: str) -> dict[str, set[str]]:
    """Return for each module of rooms the modules of the same rooms that it imports."""
    known = modules(*rooms)
    found: dict[str, set[str]] = {module: set() for module in known}
    for one in imports(*rooms):
        whole = f"{one.module}.{one.name}"
        target = whole if whole in known else one.module
        if target in known and target != one.importer:
            found[one.importer].add(target)
    return found


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return circles of imports: each a list of modules of which each imports the next.

    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    [['a', 'b', 'c']]
    """
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            if not any(set(circle) == set(other) for other in found):
                found.append(circle)
        elif module not in done:
            for target in sorted(arrows[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(arrows):
        visit(module, [])
    return found


def floors(arrows: Mapping[str, set[str]]) -> int:
    """Count the modules of the longest chain of imports.

    >>> floors({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}})
    3
    >>> floors({"a": {"b"}, "b": {"a"}})
    Traceback (most recent call last):
    ...
    ValueError: imports go in a circle, which has no floors: a -> b -> a
    """
    for one in circles(arrows):
        raise ValueError(f"imports go in a circle, which has no floors: {_chain(one)}")

    @cache
    def height(module: str) -> int:
        return 1 + max((height(one) for one in arrows[module]), default=0)

    return max(map(height, arrows), default=0)


def _chain(circle: list[str]) -> str:
    return " -> ".join([*circle, circle[0]])


def without_doors(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave the doors out, which import what stands behind them only to hand it on."""
    doors = {module for module in arrows if is_door(module)}
    return {module: to - doors for module, to in arrows.items() if module not in doors}


def class_names(paths: Iterable[Path]) -> Counter[str]:
    """Count how often each class name is defined; names that begin with ``_`` are left out."""
    return Counter(
        node.name
        for path in paths
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def report() -> str:
    """Write all figures."""
    rows = [("room", "files", "lines of code", "floors of imports")]
    total_files = total_lines = 0
    for room in ROOMS:
        paths = modules(room).values()
        lines = sum(map(code_lines, paths))
        total_files, total_lines = total_files + len(paths), total_lines + lines
        arrows = without_doors(graph(room))
        height = "in a circle" if circles(arrows) else str(floors(arrows))
        rows.append((room, str(len(paths)), str(lines), height))
    rows.append(("all", str(total_files), str(total_lines), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines_out = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    twice = [name for name, times in class_names(modules().values()).items() if times > 1]
    circle = circles(graph())
    lines_out.append(f"circles of imports: {len(circle)}")
    lines_out += [f"  {_chain(one)}" for one in circle]
    lines_out.append(f"class names that stand twice: {', '.join(sorted(twice)) or 'none'}")
    return "\n".join(lines_out)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
