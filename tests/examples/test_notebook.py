"""The notebook of the Python API is run, cell by cell, and prints what it says that it prints."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from typing import Any

from tests.structure import ROOT

NOTEBOOK = ROOT / "examples" / "python.ipynb"


def run(source: str, names: dict[str, Any]) -> str:
    """Run a cell as a notebook does: what it prints, and then the value of its last expression."""
    tree, printed = ast.parse(source), io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue() + ("" if value is None else repr(value))


def shown(cell: dict[str, Any]) -> str:
    """Return what a cell has as its output."""
    texts = (one.get("text") or one["data"]["text/plain"] for one in cell["outputs"])
    return "".join("".join(text) for text in texts)


def test_every_cell_prints_what_stands_below_it() -> None:
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["language"]) == (4, "python")
    names: dict[str, Any] = {}
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    for cell in code:
        assert run("".join(cell["source"]), names) == shown(cell)
