from __future__ import annotations

from pathlib import Path

import pytest

from stream import plugins


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that offers one shape which is there, and one which is not."""
    (tmp_path / "their_shapes.py").write_text("oval = 3\n")
    about = tmp_path / "their_shapes-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-shapes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[resprout.shapes]\noval = their_shapes:oval\nsquare = their_shapes:square\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_what_another_package_offers_is_found() -> None:
    assert plugins.find("resprout.shapes", {"disc": 1}, "oval") == 3


@pytest.mark.usefixtures("installed")
def test_what_is_not_where_it_is_said_to_be_is_named() -> None:
    with pytest.raises(ValueError, match="cannot load 'square' from 'their_shapes:square'"):
        plugins.find("resprout.shapes", {"disc": 1}, "square")


@pytest.mark.usefixtures("installed")
def test_what_is_unknown_is_refused_with_all_that_is_known() -> None:
    with pytest.raises(ValueError, match="unknown shape None; known: disc, oval, square"):
        plugins.find("resprout.shapes", {"disc": 1}, None)
