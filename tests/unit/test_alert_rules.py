"""What alert rules and dashboards name exists: metrics, labels, runbooks; and each rule is tried, firing and silent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from deploy.grafana.dashboards import DASHBOARDS, Panel
from docs.generate import metric_modules
from tests.documentation import without_code_blocks
from tests.promql import recorded, selectors

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "prometheus"
GROUPS: Final[list[dict[str, Any]]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
RULES: Final = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: Final = [rule for rule in RULES if "alert" in rule]
OF_THE_SCRAPE: Final = {"job", "instance", "service"}
OF_PROMETHEUS: Final = {
    "up": set[str](),
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
}

PANELS: Final = [panel for board in DASHBOARDS for _, row in board.rows for panel in row]

of_each_alert = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])


def known_series() -> dict[str, set[str]]:
    """Return the labels of every series that the services expose or the rules record."""
    found = dict(OF_PROMETHEUS)
    for module in metric_modules():
        for metric in (thing for thing in vars(module).values() if isinstance(thing, MetricWrapperBase)):
            family, labels = next(iter(metric.describe())).name, set(metric._labelnames)
            if isinstance(metric, Counter):
                found[f"{family}_total"] = labels
            elif isinstance(metric, Histogram):
                found |= {f"{family}_bucket": labels | {"le"}, f"{family}_sum": labels, f"{family}_count": labels}
            else:
                found[family] = labels
    return found


def assert_known(expression: str) -> None:
    """Every series of an expression is exposed by a service with its labels, or recorded by a rule."""
    known = known_series()
    for name, labels in selectors(expression):
        assert name in known, f"no service exposes {name}"
        assert labels <= known[name] | OF_THE_SCRAPE, f"{name} has no label {labels - known[name]}"
    assert recorded(expression) <= {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_the_series_of_a_rule_exist_with_their_labels(rule: dict[str, Any]) -> None:
    assert_known(rule["expr"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_asks_for_series_that_exist_and_says_what_it_shows(panel: Panel) -> None:
    assert panel.description
    assert panel.unit
    for query, legend in panel.queries:
        assert_known(query)
        asked = set(re.findall(r"\{\{(\w+)\}\}", legend))
        grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
        levels = {label for name in recorded(query) for label in name.partition(":")[0].split("_")}
        assert asked <= grouped | levels | OF_THE_SCRAPE, f"{query} has no label {asked}"


QUERY: Final = re.compile(r"`([^`\n]*\b(?:tallystick|usage)_\w+[^`\n]*)`")
RUNBOOKS: Final = sorted((ROOT / "docs" / "runbooks").glob("*.md"))


def queries_of(page: str) -> list[str]:
    """Return what a page names by metrics, outside of its blocks: series, and expressions of them."""
    told = QUERY.findall(without_code_blocks(page))
    metric = re.compile(
        r"(?:[\w:]+:)?(?:tallystick_(?:api|certificate|consumer|database|event|outbox)|usage_(?:aggregator|billing|ingest))_"
    )
    return [query for query in told if metric.search(query)]


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_what_a_runbook_asks_prometheus_exists(page: Path) -> None:
    for query in queries_of(page.read_text(encoding="utf-8")):
        assert_known(query)


def test_a_runbook_that_names_what_nobody_measures_is_found() -> None:
    [query] = queries_of("Look at `sum by (reason) (rate(usage_ingest_quarantine_events_total[10m]))`.")
    with pytest.raises(AssertionError, match="no service exposes usage_ingest_quarantine_events_total"):
        assert_known(query)


def test_the_buckets_that_are_asked_for_exist() -> None:
    bounds = {
        f"{next(iter(metric.describe())).name}_bucket": set(metric._upper_bounds)
        for module in metric_modules()
        for metric in vars(module).values()
        if isinstance(metric, Histogram)
    }
    asked = {
        (name, float(le))
        for rule in RULES
        for name, le in re.findall(r'(\w+_bucket)\{[^}]*le="([\d.]+)"', rule["expr"])
    }
    assert asked
    assert all(le in bounds[name] for name, le in asked)


@of_each_alert
def test_an_alert_says_what_it_means_and_where_its_runbook_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page = ROOT / rule["annotations"]["runbook"]
    assert page.exists()
    [row] = [line for line in (page.parent / "README.md").read_text().splitlines() if f"({page.name})" in line]
    assert rule["alert"] in row


@of_each_alert
def test_an_alert_is_tried_firing_and_silent(rule: dict[str, Any]) -> None:
    tried = {
        bool(case["exp_alerts"])
        for test in yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    }
    assert tried == {False, True}
