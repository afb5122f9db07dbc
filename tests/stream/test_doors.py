"""What the stream room offers to the others, and what that costs them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import stream

DOORS = ("stream", "stream.log", "stream.sources")
ROOM = Path(stream.__file__).parent


@pytest.mark.parametrize("name", [*DOORS, "stream.log.kafka"])
def test_a_door_has_what_it_names(name: str) -> None:
    door = importlib.import_module(name)
    missing = [one for one in door.__all__ if not hasattr(door, one)]
    assert missing == []
    assert len(set(door.__all__)) == len(door.__all__)


@pytest.mark.parametrize("name", [*DOORS, "stream.log.kafka"])
def test_the_map_of_a_door_names_every_module(name: str) -> None:
    door = importlib.import_module(name)
    folder = Path(str(door.__file__)).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert door.__doc__ is not None
    assert {one for one in modules if f"``{one}``" not in door.__doc__} == set()


def test_who_comes_through_the_doors_does_not_load_a_broker_s_client() -> None:
    code = f"import sys, {', '.join(DOORS)}; print('kafka' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"
