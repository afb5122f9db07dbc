"""What the tests do where a server that they need is not there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

ALL = "TEST_ALL"
"""Set to 1 where everything must be there: then a missing server fails the test."""


def missing(what: str, way: str) -> NoReturn:
    """Skip the test by name, or fail it where everything must be there.

    Parameters
    ----------
    what
        What is not there, such as ``Kafka``.
    way
        How to get it.
    """
    message = f"{what} is not there; {way}"
    if os.environ.get(ALL) == "1":
        pytest.fail(f"{message} ({ALL}=1 allows no skip)")
    pytest.skip(message)
