"""The dashboard and the alert rules use only Relay's metrics, and use every one of them.

`promtool check rules` in .ci/run checks the syntax of the rules.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.infra.metrics import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"\b(?:relay|process)_[a-z_]+\b")
# The suffixes that Prometheus adds to the name of a metric, by its type.
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}


def measured() -> dict[str, str]:
    """Return the metric of each time series, by the name of the series."""
    return {
        metric.name + suffix: metric.name
        for metric in REGISTRY.collect()
        for suffix in SUFFIXES.get(metric.type, ("",))
    }


def labels() -> dict[str, set[str]]:
    """Return the labels of Relay's metrics, by name."""
    own: dict[str, set[str]] = {}
    for collector in list(REGISTRY._collector_to_names):
        name = getattr(collector, "_name", "")
        found = getattr(collector, "_labelnames", None) or (getattr(collector, "_label", ""),)
        own[name] = {label for label in found if label}
    return own


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "docs/operations/alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((ROOT / "docs/operations/grafana.json").read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Return the expressions by alert, or by panel and query."""
    shown = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}
    return {**{rule["alert"]: rule["expr"] for rule in rules()}, **shown}


def test_expressions_use_only_existing_metrics() -> None:
    known = measured()
    unknown = {
        where: missing
        for where, expression in expressions().items()
        if (missing := set(METRIC.findall(expression)) - set(known))
    }
    assert unknown == {}


def test_every_relay_metric_is_in_a_panel_or_an_alert() -> None:
    known = measured()
    shown = {
        known[name] for expression in expressions().values() for name in METRIC.findall(expression) if name in known
    }
    assert {name for name in known.values() if name.startswith("relay_")} - shown == set()


def test_expressions_use_only_existing_labels() -> None:
    own, known = labels(), measured()
    for where, expression in expressions().items():
        for name, matchers in re.findall(r"\b(relay_[a-z_]+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert used <= own[known[name]], where


def test_every_alert_has_a_severity_a_summary_and_documentation() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert f"`{rule['alert']}`" in text, f"docs/operations.md does not say what to do about {rule['alert']}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("place", ["docs/operations/grafana.json"])
def test_dashboard_has_a_datasource_variable(place: str) -> None:
    dashboard = json.loads((ROOT / place).read_text(encoding="utf-8"))
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
