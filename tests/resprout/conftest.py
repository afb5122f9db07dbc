"""What several files of tests share."""

from __future__ import annotations

import pytest

from resprout.folder import RunFolder
from resprout.run import execute
from tests.resprout.eventful import PLAN


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The eventful run, undisturbed; only to be read."""
    folder = RunFolder(tmp_path_factory.mktemp("whole"))
    assert execute(PLAN, folder.path).finished
    return folder
