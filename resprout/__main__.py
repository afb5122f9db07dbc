"""``python -m resprout``."""

from __future__ import annotations

from resprout.cli import main

if __name__ == "__main__":
    main()
