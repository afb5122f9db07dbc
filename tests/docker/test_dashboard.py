from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from resprout.monitoring.metrics import DETECTORS, OUTCOMES, families
from resprout.settings import MODELS
from tests.servers import missing

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DASHBOARD: dict[str, Any] = json.loads(
    (DOCKER / "grafana" / "dashboards" / "resprout.json").read_text("utf-8")
)
PROMETHEUS: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = ALERTS["groups"][0]["rules"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
LABELS = {family.name: {*family.labels} for family in families()}
OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus or a histogram adds."""


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DASHBOARD["panels"]
    return found


def on_panels() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def in_annotations() -> list[str]:
    return [one["expr"] for one in DASHBOARD["annotations"]["list"]]


def in_variables() -> list[str]:
    return [one["query"]["query"] for one in DASHBOARD["templating"]["list"]]


def in_rules() -> list[str]:
    return [rule["expr"] for rule in RULES]


def in_document() -> list[str]:
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    return re.findall(r"^\| [^|`]+ \| `(.*)` \|$", text, re.MULTILINE)


def everywhere() -> list[str]:
    return [*on_panels(), *in_annotations(), *in_variables(), *in_rules(), *in_document()]


def names(query: str) -> set[str]:
    """Find the metrics in a query, without what a histogram appends."""
    found = re.findall(r"\b(?<!:)resprout_[a-z_]+\b", query)
    return {re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name) for name in found}


def promtool() -> str:
    return shutil.which("promtool") or missing(
        "promtool", "it comes with Debian's package prometheus"
    )


def ran(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_the_script_makes() -> None:
    script = runpy.run_path(str(DOCKER / "dashboard.py"))
    made = Path(script["PATH"]).read_text("utf-8")
    assert made == script["text"](), "run `python docker/dashboard.py`"


def test_every_query_names_only_metrics_that_exist() -> None:
    assert len(everywhere()) > 40
    for query in everywhere():
        assert names(query) <= set(LABELS), query
        assert names(query) or "up{" in query or "resprout:" in query, query


def test_every_metric_is_on_a_panel() -> None:
    assert set.union(*(names(query) for query in on_panels())) == set(LABELS)


def test_every_label_in_a_query_is_one_of_its_metric() -> None:
    for query in everywhere():
        for name, matchers in re.findall(r"\b(resprout_[a-z_]+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)!?=~?", matchers)) <= LABELS[name], query
        known = set.union(OF_PROMETHEUS, *(LABELS[name] for name in names(query)))
        for grouped in re.findall(r"\b(?:by|on|without|group_left) \(([\w, ]*)\)", query):
            assert set(re.findall(r"\w+", grouped)) <= known, query


def test_every_value_of_a_fixed_set_in_a_query_is_one_of_the_set() -> None:
    fixed = {"outcome": OUTCOMES, "detector": DETECTORS, "model": MODELS}
    for query in everywhere():
        for label, value in re.findall(r'(\w+)!?="([^"]*)"', query):
            assert value in fixed.get(label, (value,)), query


def test_rebuilds_and_alarms_mark_all_panels() -> None:
    marked = set.union(*(names(query) for query in in_annotations()))
    assert marked == {"resprout_rebuilds_total", "resprout_drift_alarms_total"}


def test_panels_stand_side_by_side_on_the_grid_and_none_covers_another() -> None:
    covered = Counter(
        (x, y)
        for panel in panels()
        for at in (panel["gridPos"],)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    )
    assert set(covered.values()) == {1}
    assert {x for x, _ in covered} == set(range(24))
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_panel_says_what_it_shows() -> None:
    assert all(panel["title"] and panel["description"] for panel in panels())
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_models_have_the_colours_that_all_eyes_tell_apart() -> None:
    for panel in panels():
        if panel["type"] == "timeseries":
            colours = {
                one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
                for one in panel["fieldConfig"]["overrides"]
            }
            assert list(colours) == list(MODELS)
            assert (colours["dense"], colours["sparse"]) == ("#0072B2", "#D55E00")


def test_the_dashboard_finds_its_data_source_and_grafana_the_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    used = {(s["type"], s["uid"]) for s in sources(DASHBOARD)}
    assert used == {(source["type"], source["uid"])}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "resprout.yaml").read_text())[
        "providers"
    ]
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted


def sources(part: object) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        if "datasource" in part:
            yield part["datasource"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from sources(one)


def test_every_worker_of_the_stack_is_scraped_where_it_answers() -> None:
    always, optional = PROMETHEUS["scrape_configs"]
    by_name = optional["dns_sd_configs"][0]
    targets = {f"{name}:{by_name['port']}" for name in by_name["names"]}
    targets.update(always["static_configs"][0]["targets"])
    workers = {
        name
        for name, service in COMPOSE["services"].items()
        if service.get("image") == "resprout:dev" and name != "topics"
    }
    port = COMPOSE["x-settings"]["RESPROUT_SERVE__PORT"]
    assert targets == {f"{name}:{port}" for name in workers}


def test_every_alert_says_what_to_look_at() -> None:
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) == len({rule["alert"] for rule in alerts}) > 4
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    shown = {
        (one["alertname"], bool(one["exp_alerts"]))
        for test in tests
        for one in test["alert_rule_test"]
    }
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    assert shown == {(alert, fires) for alert in alerts for fires in (True, False)}


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    ran(promtool(), "check", "config", DOCKER / "prometheus" / "prometheus.yml")
    ran(promtool(), "check", "rules", DOCKER / "prometheus" / "alerts.yml")


def test_promtool_finds_that_alerts_fire_when_they_should_and_not_otherwise() -> None:
    ran(promtool(), "test", "rules", Path(__file__).parent / "alerts_test.yml")


@pytest.mark.parametrize("where", [on_panels, in_annotations, in_document])
def test_promtool_can_read_every_query(where: Any, tmp_path: Path) -> None:
    rules = [
        {
            "record": f"one:{number}",
            "expr": query.replace("$__rate_interval", "1m").replace("$window", "100000"),
        }
        for number, query in enumerate(where())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    ran(promtool(), "check", "rules", path)
