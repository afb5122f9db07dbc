"""The way of a click in README, followed through the code."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from urllib.request import urlopen

import pytest

from resprout.folder import RunFolder
from resprout.monitoring.page import Page
from resprout.spec import RunDefinition
from resprout.wiring import Wiring
from stream import open_logs
from tests.resprout.small import small
from tests.structure import ROOT

_SECTION = (ROOT / "README.md").read_text("utf-8").partition("## The way of a click")[2]
WAY = re.findall(
    r"^\| \d+ \| .* \| \[(.*)\]\((.*)\) \|$", _SECTION.partition("\n## ")[0], re.MULTILINE
)
"""What each step is called and where it leads."""
MOST_FILES = 20


@contextmanager
def called(files: list[str]) -> Iterator[None]:
    """Gather the files of the product whose functions are called, in their order."""

    def look(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(ROOT)):
            name = path.removeprefix(f"{ROOT}/")
            if not files or files[-1] != name:
                files.append(name)

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Take the first clicks of a run from the source to the page, one worker after the other."""
    path, files = tmp_path_factory.mktemp("run"), list[str]()
    plan, folder = RunDefinition.generated(small(serve__port=0)), RunFolder(path)
    folder.begin(plan)
    with (
        open_logs(plan.settings.stream, folder.home.folder) as logs,
        closing(Wiring(plan, folder, logs, ("source", "dense", "evaluator"))) as wiring,
    ):
        source, dense, evaluator = wiring.workers()
        dense.step()  # The source waits for it to have begun.
        with called(files):
            source.step()
            for _ in range(2):
                dense.step()
            for _ in range(2):
                evaluator.step()
            with closing(Page(plan.settings, path)) as page:
                page.show(logs)
                windows = f"{page.url}api/windows"
                asked = (b"dense.ne" in urlopen(windows).read() for _ in range(5_000))
                assert any(asked), "the page did not read the window"
    return files


def test_the_way_is_short_and_its_files_are_there() -> None:
    assert 0 < len(WAY) <= MOST_FILES
    assert len(set(WAY)) == len(WAY)
    for name, link in WAY:
        assert name == link
        assert (ROOT / link).is_file()


def test_a_click_takes_the_way(way: list[str]) -> None:
    """Each file is called after the one before it; what a browser runs comes last."""
    left = iter(way)
    missing = [name for name, _ in WAY if name.endswith(".py") and name not in left]
    assert missing == []


def test_the_way_ends_with_what_the_page_loads() -> None:
    *_, (last, _) = WAY
    index = (ROOT / "evaluator/page/static/index.html").read_text("utf-8")
    assert f'src="/static/{Path(last).name}"' in index
    assert all(name.endswith(".py") for name, _ in WAY[:-1])
