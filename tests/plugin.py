"""A package that, once on the path, offers what an installed one does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, code: str, offers: Mapping[str, tuple[str, ...]]) -> None:
    """Write a module ``far_away`` and the entry points of its package into a folder.

    Parameters
    ----------
    folder
        To be put on the path.
    code
        Of the module.
    offers
        By entry-point group what it offers, such as ``"cube = cubed"``: a name and an object of
        the module.
    """
    sys.modules.pop("far_away", None)
    (folder / "far_away.py").write_text(code)
    about = folder / "far_away-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1.0\n")
    lines: list[str] = []
    for group, offered in offers.items():
        lines.append(f"[{group}]")
        lines += [one.replace("= ", "= far_away:") for one in offered]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
