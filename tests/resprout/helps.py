"""What ``--help`` prints: ``python -m tests.resprout.helps`` writes ``resprout/help.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from click.testing import CliRunner

from resprout.__main__ import HELP, WIDTH
from resprout.cli import main


def paths(command: click.Command = main, path: str = "") -> Iterator[str]:
    """Yield the words of every command that is shown, groups too."""
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from paths(inner, f"{path} {name}".strip())


def made() -> dict[str, str]:
    """Return the help of every command, by its words."""
    runner = CliRunner(env={"COLUMNS": str(WIDTH)})
    found = {}
    for path in paths():
        result = runner.invoke(main, [*path.split(), "--help"], prog_name="resprout")
        assert result.exit_code == 0, result.output
        found[path] = result.stdout
    return found


if __name__ == "__main__":
    HELP.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
