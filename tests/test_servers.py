from __future__ import annotations

import pytest

from tests.servers import ALL, missing


def test_a_missing_server_skips_the_test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALL, raising=False)
    with pytest.raises(pytest.skip.Exception, match="Kafka is not there; set X"):
        missing("Kafka", "set X")


def test_a_missing_server_fails_where_everything_must_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALL, "1")
    with pytest.raises(pytest.fail.Exception, match=r"Kafka is not there; set X .*no skip"):
        missing("Kafka", "set X")
