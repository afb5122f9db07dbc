"""What the documents name is there: settings, metrics, addresses, commands, files, Python names."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib

import pytest
from click.testing import CliRunner

from evaluator.metrics import installed
from resprout.cli import main
from resprout.monitoring.metrics import families, markdown
from resprout.settings import DELIMITER, PREFIX, REPLACED, Settings, flat
from stream import ClickEvent, FeatureSchema, Reason, topics
from stream.schema import Columns
from tests.structure import ROOMS, ROOT, modules

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(
        f"docs/{name}.md"
        for name in (
            "events",
            "metrics",
            "models",
            "recipes",
            "regime",
            "reliability",
            "retention",
            "settings",
        )
    ),
)
SETTINGS = (*(name for name, _ in flat(Settings())), *Settings.model_fields)
_ROOM = "|".join(ROOMS)
_SECTION = "|".join(Settings.model_fields)


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def quoted(name: str) -> list[str]:
    """Return what stands in single backticks outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text(name), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def current(name: str) -> list[str]:
    """Return what stands in backticks; of a table in the changelog only what is, not what was."""
    if name != "CHANGELOG.md":
        return quoted(name)
    kept = re.sub(r"^\| .*? \| (?=.*\|$)", "", text(name), flags=re.MULTILINE)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", kept)


def is_setting(name: str) -> bool:
    """Tell whether a dotted name is a setting, or a section of them."""
    at = name.partition("=")[0].strip()
    return at.startswith("comparisons.") or any(f"{one}.".startswith(f"{at}.") for one in SETTINGS)


def is_constant(name: str) -> bool:
    """Tell whether the product has a name as a text: an entry-point group, a key."""
    return any(f'"{name}"' in path.read_text("utf-8") for path in modules().values())


def is_python(name: str) -> bool:
    """Tell whether a dotted name leads to a module or something in it."""
    parts = name.partition("(")[0].split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for one in parts[length:]:
            found = getattr(found, one, None)  # type: ignore[assignment]
        return found is not None
    return False


@pytest.mark.parametrize("name", DOCUMENTS)
def test_dotted_names_are_settings_or_python_names(name: str) -> None:
    dotted = [one for one in current(name) if re.match(rf"({_ROOM}|{_SECTION})\.\w+", one)]
    known = (is_setting, is_python, is_constant, REPLACED.__contains__)
    assert [one for one in dotted if not any(knows(one) for knows in known)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_environment_variables_are_settings(name: str) -> None:
    found = re.findall(rf"{PREFIX}(\w+)", text(name))
    assert [one for one in found if not is_setting(one.lower().replace(DELIMITER, "."))] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_metrics_of_prometheus_are_exported(name: str) -> None:
    known = {family.name for family in families()} | {f"{f.name}_bucket" for f in families()}
    found = set(re.findall(r"\bresprout_[a-z_]*[a-z]", text(name)))
    assert found <= known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_addresses_are_answered(name: str) -> None:
    served = text("evaluator/page/app.py")
    for address in set(re.findall(r"/api/(\w+)", " ".join(current(name)))):
        assert re.search(rf"^ +/api/{address}\b", served, flags=re.MULTILINE), address


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_parse(name: str) -> None:
    """Unknown commands and options are found before the help is shown."""
    for command in current(name):
        if re.match(r"resprout [a-z]", command) and not re.search(r"[|\[]|\.\.", command):
            _, *words = shlex.split(command)
            result = CliRunner().invoke(main, [*words, "--help"])
            assert result.exit_code == 0, f"{command}: {result.output}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_are_there(name: str) -> None:
    folder = (ROOT / name).parent
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", text(name))
    assert [one for one in links if not (folder / one).exists()] == []
    paths = [
        one
        for one in current(name)
        if re.fullmatch(rf"({_ROOM}|tests|docs|bench|examples|docker)/[\w/.-]*", one)
    ]
    assert [one for one in paths if not (ROOT / one).exists()] == []


def test_the_kills_are_as_they_were_measured() -> None:
    assert text("bench/results/recovery.md") in text("docs/reliability.md")


def test_metrics_of_predictions_are_computed() -> None:
    named = re.findall(r'metrics\["(\w+)"\]|errors\["(\w+)"\]', text("CHANGELOG.md"))
    assert {one or other for one, other in named} <= {metric.name for metric in installed()}


def test_the_tables_of_metrics_are_as_they_are_made() -> None:
    begin, end = "<!-- tables: begin.", "<!-- tables: end -->"
    table = text("docs/metrics.md").partition(begin)[2].partition("\n\n")[2].partition(end)[0]
    assert table.strip() == markdown().strip()
    assert is_python(re.findall(r"Written by ([\w.]+)\(\)", text("docs/metrics.md"))[0])


def test_the_fields_and_reasons_of_events_are_those_that_there_are() -> None:
    fields, _, headers, reasons = (
        re.findall(r"^\| `(\w+)`(?:,.*?)? \|", table, flags=re.MULTILINE)
        for table in re.findall(r"(?:^\|.*\n)+", text("docs/events.md"), flags=re.MULTILINE)
    )
    assert set(fields) == set(ClickEvent.model_fields)
    assert set(reasons) == {reason.value for reason in Reason}
    decoded = text("stream/codec.py")
    assert all(f'b"{kind}"' in decoded for kind in headers)


def test_the_keys_of_columns_stand_with_their_defaults() -> None:
    block = re.findall(r"```toml\n(\[columns\].*?)```", text("docs/events.md"), flags=re.DOTALL)[0]
    said = tomllib.loads(block)["columns"]
    optional = set(re.findall(r"^# (\w+) = ", block, flags=re.MULTILINE))
    default = Columns().model_dump(mode="json")
    assert said == {name: value for name, value in default.items() if value is not None}
    assert optional == {name for name, value in default.items() if value is None}


def test_the_schema_of_criteo_has_its_columns() -> None:
    block = re.findall(r"```toml\n(\[\[numeric.*?)```", text("docs/events.md"), flags=re.DOTALL)[0]
    schema = FeatureSchema.model_validate(tomllib.loads(block))
    assert (schema.numeric_count, schema.column_count) == (13, 26)
    assert schema.columns is not None
    assert schema.columns.names == ("label", *schema.names)


def test_logs_are_called_by_their_names() -> None:
    known = {getattr(topics, name) for name in topics.__all__ if name.isupper()}
    for name in DOCUMENTS:
        found = re.findall(r"(?:the )?(?:log|topic)s? `(\w+)`", text(name))
        assert set(found) <= known
