"""``resprout``, and ``python -m resprout``.

What ``--help`` prints is kept in ``help.json``, so that it is there at once: commands load torch,
which takes seconds. ``python -m tests.resprout.helps`` writes it, and a test compares.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HELP = Path(__file__).with_name("help.json")
WIDTH = 80
"""Columns of a terminal that its lines need; a narrower one has them made to fit."""


def main() -> None:
    """Print a help that is kept, or carry out a command."""
    *words, last = sys.argv[1:] or ["--help"]
    if last in ("-h", "--help") and shutil.get_terminal_size().columns >= WIDTH:
        known = json.loads(HELP.read_text("utf-8"))
        if " ".join(words) in known:
            sys.stdout.write(known[" ".join(words)])
            return
    from resprout import cli

    cli.main()


if __name__ == "__main__":
    main()
