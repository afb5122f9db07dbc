"""What nobody means is refused in a line, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resprout.cli import main

DEEP = 20_000
"""Brackets; parsers written as recursive functions give up at a thousand."""


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("config", "--seed", "9" * 30), "seed = 99999"),
        (("config", "--set", "seed=1e400"), "seed = inf (argument): Input should be a finite"),
        (("config", "--set", "seed=" + "9" * 5_000), "seed: 9999999999999999999999999"),
        (("config", "--set", "seed=" + "[" * DEEP), "is no value: maximum recursion depth"),
        (("config", "--set", "pruner.first_mask_events=1e999"), "first_mask_events = inf"),
        (("config", "--sparsity", "nan"), "pruner.sparsity = nan"),
        (("demo", "--scale", "inf"), "scale is inf; it must be a number above 0"),
        (("demo", "--scale", "nan"), "scale is nan; it must be a number above 0"),
        (("criteria", "check", "aux", "--options", '{"a":' * DEEP), "is no value: maximum recurs"),
        (("criteria", "check", "aux", "--options", "{"), "it must be a JSON object"),
    ],
)
def test_absurd_values_are_refused_by_name(words: tuple[str, ...], complaint: str) -> None:
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert complaint in result.stderr


@pytest.mark.parametrize("command", [("config", "--config"), ("schema", "--schema")])
def test_toml_of_endless_depth_is_refused_by_its_file(
    command: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "deep.toml").write_text("a = " + "[" * DEEP)
    result = call(*command, tmp_path / "deep.toml")
    assert result.exit_code == 2
    assert "deep.toml is no TOML: maximum recursion depth exceeded" in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://ann:s3cret@",
        "redis://host?password=s3cret",
        "redis://:s3//s3cret@host?x=1",
        "rediss:ann:s3cret@host",
        "http://ann:s3cret@host",
    ],
)
def test_a_password_in_an_address_that_is_refused_is_not_told(url: str) -> None:
    for words in (("--set", f"store.url={url}"), ("--set", f"store.url={url}", "--seed", "-1")):
        result = call("config", *words)
        assert result.exit_code == 2
        assert "s3cret" not in result.output + result.stderr


def test_a_password_in_an_address_is_not_shown_among_the_settings() -> None:
    result = call("config", "--set", "store.url=redis://:a//s3cret@masks:6379/2")
    assert result.exit_code == 0, result.output
    assert 'url = "redis://masks:6379/2"' in result.stdout
    assert "s3cret" not in result.output
