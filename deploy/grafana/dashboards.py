"""Grafana's dashboards as code (pure): what is on each, as rows of panels; `make docs` writes the JSON that Grafana is provisioned with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24
HEIGHT: Final = 8

Kind = Literal["timeseries", "stat", "table", "bargauge"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are (PromQL, legend); `unit` is one of Grafana's; `limits` colour a value from there on."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str
    kind: Kind = "timeseries"
    limits: Sequence[tuple[str, float]] = ()
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard; its `uid` stays what it is, so that links to it hold."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]] = field(default_factory=tuple)


def _share(bucket: str) -> str:
    return f"histogram_quantile({{q}}, sum by (le) (rate({bucket}[1m])))"


def _percentiles(bucket: str) -> list[tuple[str, str]]:
    return [(_share(bucket).replace("{q}", q), f"p{float(q) * 100:g}") for q in ("0.5", "0.95", "0.99")]


PIPELINE: Final = Dashboard(
    "tallystick-pipeline",
    "Tallystick: pipeline",
    "What arrives, how far behind each service is, what is refused.",
    (
        (
            "From Kafka into the log",
            (
                Panel(
                    "Events by outcome",
                    "What became of the records that were read.",
                    [("outcome:usage_ingest_events:rate1m", "{{outcome}}")],
                    "cps",
                    stacked=True,
                ),
                Panel(
                    "Event to row",
                    "From the youngest event time of a batch to its row being committed.",
                    _percentiles("usage_ingest_freshness_seconds_bucket"),
                    "s",
                ),
                Panel(
                    "Offsets of a batch",
                    "More under load: batches grow with the backlog.",
                    _percentiles("usage_ingest_batch_events_bucket"),
                    "short",
                ),
            ),
        ),
        (
            "Behind",
            (
                Panel(
                    "Lag in records",
                    "Records between our position and the end of the topic.",
                    [("service_topic:tallystick_consumer_lag_records:sum", "{{service}} {{topic}}")],
                    "short",
                ),
                Panel(
                    "Lag in seconds",
                    "Age of the last record that was applied while others wait behind it.",
                    [("service_topic:tallystick_consumer_lag_seconds:max", "{{service}} {{topic}}")],
                    "s",
                    limits=(("orange", 3), ("red", 30)),
                ),
                Panel(
                    "Batches read again",
                    "Batches that failed, by kind of error. Nothing is lost; nothing gets on.",
                    [
                        (
                            "sum by (service, topic, error) (rate(tallystick_consumer_redeliveries_total[5m]))",
                            "{{service}} {{topic}} {{error}}",
                        )
                    ],
                    "cps",
                ),
                Panel(
                    "Time of a batch",
                    "95th percentile, COMMIT included, by service.",
                    [
                        (
                            "histogram_quantile(0.95, sum by (le, service) (rate(tallystick_consumer_batch_seconds_bucket[1m])))",
                            "{{service}}",
                        )
                    ],
                    "s",
                ),
            ),
        ),
        (
            "Refused and waiting",
            (
                Panel(
                    "Quarantined, by reason",
                    "Records that cannot be counted as they are.",
                    [("sum by (reason) (rate(usage_ingest_quarantined_events_total[5m]))", "{{reason}}")],
                    "cps",
                    stacked=True,
                ),
                Panel(
                    "Held events",
                    "Valid events that wait for their subscription or key.",
                    [("max(usage_ingest_held_events_waiting)", "waiting")],
                    "short",
                ),
                Panel(
                    "Waiting to be published",
                    "Committed, not yet acknowledged by the broker.",
                    [("sum by (outbox) (tallystick_outbox_waiting_messages)", "{{outbox}}")],
                    "short",
                ),
            ),
        ),
        (
            "Workers",
            (
                Panel(
                    "Workers that answer",
                    "By service.",
                    [("service:tallystick_workers:up", "{{service}}")],
                    "short",
                    kind="stat",
                    limits=(("red", 0), ("green", 1)),
                ),
                Panel(
                    "Partitions",
                    "Assigned, running, halted.",
                    [("sum by (topic, state) (tallystick_consumer_partitions)", "{{topic}} {{state}}")],
                    "short",
                ),
                Panel(
                    "Memory",
                    "Resident memory of each worker.",
                    [('process_resident_memory_bytes{job="tallystick"}', "{{service}} {{instance}}")],
                    "bytes",
                    limits=(("orange", 262144000),),
                ),
                Panel(
                    "CPU",
                    "Cores that each worker uses.",
                    [('rate(process_cpu_seconds_total{job="tallystick"}[1m])', "{{service}} {{instance}}")],
                    "short",
                ),
            ),
        ),
        (
            "Postgres and certificates",
            (
                Panel(
                    "Connections to Postgres",
                    "In use, idle, and the most that there may be.",
                    [
                        ("sum by (service, state) (tallystick_database_connections)", "{{service}} {{state}}"),
                        ("sum by (service) (tallystick_database_connections_max)", "{{service}} at most"),
                    ],
                    "short",
                ),
                Panel(
                    "Waiting for a connection",
                    "95th percentile of what a transaction waits, by service.",
                    [
                        (
                            "histogram_quantile(0.95, sum by (le, service) (rate(tallystick_database_wait_seconds_bucket[1m])))",
                            "{{service}}",
                        )
                    ],
                    "s",
                    limits=(("orange", 0.1), ("red", 0.5)),
                ),
                Panel(
                    "Certificates are valid for",
                    "By the setting that names the file.",
                    [("min by (setting) (tallystick_certificate_expires_timestamp_seconds) - time()", "{{setting}}")],
                    "s",
                    kind="bargauge",
                    limits=(("red", 0), ("orange", 259_200), ("green", 1_814_400)),
                ),
            ),
        ),
    ),
)

SLO: Final = Dashboard(
    "tallystick-slo",
    "Tallystick: objectives",
    "The promises, and what is left of their budgets.",
    (
        (
            "Freshness: 99 % of batches are in the summaries within 3 s",
            (
                Panel(
                    "Too late now",
                    "Share of batches that took longer than 3 s.",
                    [
                        ("tallystick:freshness_error:ratio_rate5m", "5 min"),
                        ("tallystick:freshness_error:ratio_rate1h", "1 h"),
                    ],
                    "percentunit",
                    limits=(("orange", 0.01), ("red", 0.144)),
                ),
                Panel(
                    "Event to summary",
                    "From the youngest event time of a batch to its summaries being committed.",
                    _percentiles("usage_aggregator_event_freshness_seconds_bucket"),
                    "s",
                    limits=(("red", 3),),
                ),
                Panel(
                    "Event to status",
                    "From usage that suspends a subscription to the message that tells gateways.",
                    _percentiles("usage_aggregator_status_freshness_seconds_bucket"),
                    "s",
                    limits=(("red", 3),),
                ),
                Panel(
                    "Recorded to rated",
                    "From a batch being recorded to its usage being rated.",
                    _percentiles("usage_billing_recorded_freshness_seconds_bucket"),
                    "s",
                ),
            ),
        ),
        (
            "Availability: 99.9 % of requests are answered without a fault of ours",
            (
                Panel(
                    "Faults now",
                    "Share of answers with 5xx.",
                    [("tallystick:api_error:ratio_rate5m", "5 min"), ("tallystick:api_error:ratio_rate1h", "1 h")],
                    "percentunit",
                    limits=(("orange", 0.001), ("red", 0.0144)),
                ),
                Panel(
                    "Requests by status",
                    "Answers of the API.",
                    [("sum by (status) (rate(tallystick_api_requests_total[1m]))", "{{status}}")],
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Slowest routes",
                    "95th percentile by route.",
                    [
                        (
                            "topk(8, histogram_quantile(0.95, sum by (le, route) (rate(tallystick_api_request_seconds_bucket[5m]))))",
                            "{{route}}",
                        )
                    ],
                    "s",
                ),
            ),
        ),
        (
            "Exactness: every check holds",
            (
                Panel(
                    "Checks that differ",
                    "Of the last reconciliation.",
                    [("max(usage_billing_differing_checks)", "checks")],
                    "short",
                    kind="stat",
                    limits=(("green", 0), ("red", 1)),
                ),
                Panel(
                    "Last proof",
                    "How long ago the books were reconciled.",
                    [("time() - max(usage_billing_reconciled_timestamp_seconds > 0)", "ago")],
                    "s",
                    kind="stat",
                    limits=(("green", 0), ("orange", 7200), ("red", 10800)),
                ),
                Panel(
                    "Which differ",
                    "1 where a check did not hold.",
                    [("max by (check) (usage_billing_check_differs) > 0", "{{check}}")],
                    "short",
                    kind="table",
                ),
            ),
        ),
    ),
)

USAGE: Final = Dashboard(
    "tallystick-usage",
    "Tallystick: usage and quotas",
    "What is summed up, who is suspended, how the providers do. Of single tenants the API and the console tell: metrics name none.",
    (
        (
            "Summaries",
            (
                Panel(
                    "Events summed up",
                    "Added to summaries, or taken out of them again.",
                    [("sum(rate(usage_aggregator_events_total[1m]))", "events")],
                    "cps",
                ),
                Panel(
                    "Summary rows",
                    "Rows that were added to, by period.",
                    [("sum by (period) (rate(usage_aggregator_summary_rows_total[1m]))", "{{period}}")],
                    "cps",
                ),
                Panel(
                    "Messages by outcome",
                    "usage.recorded messages.",
                    [("sum by (outcome) (rate(usage_aggregator_messages_total[1m]))", "{{outcome}}")],
                    "cps",
                    stacked=True,
                ),
            ),
        ),
        (
            "Quotas",
            (
                Panel(
                    "Suspensions",
                    "Reasons of suspension that quotas brought about.",
                    [("sum by (reason) (increase(usage_aggregator_suspensions_total[5m]))", "{{reason}}")],
                    "short",
                ),
                Panel(
                    "Thresholds reached",
                    "Alerts of a used percentage of a quota.",
                    [("sum by (percent) (increase(usage_aggregator_thresholds_total[5m]))", "{{percent}} %")],
                    "short",
                ),
                Panel(
                    "Statuses told to gateways",
                    "subscription.status messages acknowledged.",
                    [("sum(rate(usage_aggregator_statuses_published_total[1m]))", "statuses")],
                    "cps",
                ),
            ),
        ),
        (
            "Providers",
            (
                Panel(
                    "Success of providers",
                    "Share of requests that succeeded, last minutes.",
                    [("min by (provider) (usage_aggregator_provider_success_ratio)", "{{provider}}")],
                    "percentunit",
                    kind="bargauge",
                    limits=(("red", 0), ("orange", 0.9), ("green", 0.99)),
                ),
            ),
        ),
    ),
)

BILLING: Final = Dashboard(
    "tallystick-billing",
    "Tallystick: billing and money",
    "What is rated, debited, invoiced; what waits for somebody.",
    (
        (
            "Rating",
            (
                Panel(
                    "Events by outcome",
                    "Rated, held for want of a price, taken back.",
                    [("sum by (outcome) (rate(usage_billing_events_total[1m]))", "{{outcome}}")],
                    "cps",
                    stacked=True,
                ),
                Panel(
                    "Worth of rated usage",
                    "Per hour, by currency and mode.",
                    [
                        (
                            "3600 * sum by (currency, billing_mode) (rate(usage_billing_rated_amount_total[5m]))",
                            "{{currency}} {{billing_mode}}",
                        )
                    ],
                    "short",
                ),
                Panel(
                    "Usage without a price",
                    "Events that are not billed until somebody sets one.",
                    [("max(usage_billing_unrated_events)", "events")],
                    "short",
                    kind="stat",
                    limits=(("green", 0), ("red", 1)),
                ),
            ),
        ),
        (
            "Prepaid credits",
            (
                Panel(
                    "Settlements",
                    "One for each user and window.",
                    [
                        ("sum(rate(usage_billing_settlements_total[1m]))", "settled"),
                        ("sum(rate(usage_billing_settlement_failures_total[5m]))", "failed"),
                    ],
                    "cps",
                ),
                Panel(
                    "Credits debited",
                    "Per hour.",
                    [
                        ("3600 * sum(rate(usage_billing_debited_credits_total[5m]))", "debited"),
                        ("3600 * sum(rate(usage_billing_owed_credits_total[5m]))", "owed"),
                    ],
                    "short",
                ),
                Panel(
                    "Owed now",
                    "Credits that users owe, because their balance did not cover what they had used.",
                    [("max(usage_billing_owed_credits_now)", "credits")],
                    "short",
                    kind="stat",
                ),
            ),
        ),
        (
            "Invoices and jobs",
            (
                Panel(
                    "Invoices issued",
                    "By currency, over a day.",
                    [("sum by (currency) (increase(usage_billing_invoices_total[1d]))", "{{currency}}")],
                    "short",
                    kind="stat",
                ),
                Panel(
                    "Closing failed",
                    "Customers whose period could not be closed, over a day.",
                    [("sum(increase(usage_billing_closing_failures_total[1d]))", "customers")],
                    "short",
                    kind="stat",
                    limits=(("green", 0), ("red", 1)),
                ),
                Panel(
                    "Jobs",
                    "Runs by outcome.",
                    [
                        (
                            "sum by (job_name, outcome) (increase(usage_billing_job_runs_total[1h]))",
                            "{{job_name}} {{outcome}}",
                        )
                    ],
                    "short",
                ),
                Panel(
                    "Jobs that are overdue",
                    "For how long a run should have been made.",
                    [("max by (job_name) (usage_billing_job_overdue_seconds) > 0", "{{job_name}}")],
                    "s",
                    kind="table",
                ),
            ),
        ),
        (
            "Webhooks",
            (
                Panel(
                    "Attempts by outcome",
                    "Requests to endpoints.",
                    [("sum by (outcome) (rate(usage_billing_webhook_attempts_total[5m]))", "{{outcome}}")],
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Waiting",
                    "Deliveries that wait to be made.",
                    [("max(usage_billing_webhooks_waiting)", "deliveries")],
                    "short",
                ),
            ),
        ),
    ),
)

DASHBOARDS: Final = (PIPELINE, SLO, USAGE, BILLING)


def document(dashboard: Dashboard) -> str:
    """Return the JSON that Grafana reads."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in dashboard.rows:
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            }
        )
        top += 1
        width = WIDTH // len(row)
        panels += [_panel(panel, {"x": n * width, "y": top, "w": width, "h": HEIGHT}) for n, panel in enumerate(row)]
        top += HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["tallystick"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for color, value in panel.limits]
    if not steps or steps[0]["value"]:
        steps = [{"color": "green", "value": None}, *steps]
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 25} if panel.stacked else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "table",
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
