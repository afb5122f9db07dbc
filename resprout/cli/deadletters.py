"""See the dead letters, the events that did not validate: ``resprout deadletters``."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from resprout import homes
from resprout.cli.options import JSON, SETTINGS, STATE, CommandRequest, failure, several, usage
from resprout.folder import RunFolder
from stream import MessageLog, topics
from stream.messages import DeadLetter


@click.command()
@several(STATE, SETTINGS, JSON)
@click.pass_obj
def deadletters(request: CommandRequest) -> None:
    """List the events that did not validate: where they stand, why, and their bytes.

    Bytes are shown as text where they are text, else as base64; --json has both.
    """
    folder = RunFolder(request.folder("generated"))
    with usage():
        record = folder.record()
        settings = request.load((str(folder.path), record["settings"])).settings
    found: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    with (
        failure(),
        homes.look(settings.stream, folder) as logs,
    ):
        for letter in MessageLog(logs, topics.DEAD_LETTERS).read(DeadLetter):
            reasons[letter.reason] += 1
            if request.json:
                found.append(_row(letter))
            else:
                click.echo("\n".join(_lines(letter)))
    if request.json:
        click.echo(json.dumps({"reasons": dict(reasons.most_common()), "letters": found}))
    else:
        click.echo(_told(reasons))


def readable(encoded: str) -> str | None:
    """Decode bytes that are text a terminal can show; None where they are not.

    >>> readable("eyJsYWJlbCI6IDJ9"), readable("/w=="), readable("GwBj")
    ('{"label": 2}', None, None)
    """
    try:
        text = base64.b64decode(encoded).decode()
    except UnicodeDecodeError:
        return None
    return text if _is_safe(text) else None


def _row(letter: DeadLetter) -> dict[str, Any]:
    headers = [{"name": n, "value": value, "text": readable(value)} for n, value in letter.headers]
    return letter.model_dump(mode="json") | {"text": readable(letter.raw), "headers": headers}


def _lines(letter: DeadLetter) -> Iterator[str]:
    """Write a dead letter for people."""
    place = f"partition {letter.partition}, offset {letter.offset}, row {letter.row}"
    if letter.file is not None:
        line = "" if letter.line is None else f":{letter.line}"
        place = f"{_shown(letter.file)}{line} ({place})"
    yield f"{place}: {letter.reason}: {_shown(letter.detail)}"
    for name, value in letter.headers:
        yield f"  header  {_shown(name)}: {_content(value)}"
    yield f"  bytes   {_content(letter.raw)}"


def _content(encoded: str) -> str:
    text = readable(encoded)
    return f"base64 {encoded}" if text is None else text.replace("\n", "\n          ")


def _shown(text: str) -> str:
    """Make text that somebody else wrote safe for a terminal."""
    return text if text.isprintable() else ascii(text)


def _is_safe(text: str) -> bool:
    return text.replace("\n", "").replace("\t", "").isprintable()


def _told(reasons: Counter[str]) -> str:
    """Sum up.

    >>> _told(Counter(label=2, numeric=1)), _told(Counter())
    ('3 dead letters: 2 label, 1 numeric', 'no dead letters')
    """
    total = sum(reasons.values())
    if not total:
        return "no dead letters"
    each = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"{total} dead letter{'s' if total > 1 else ''}: {each}"
