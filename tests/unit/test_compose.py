"""What deploy/compose.yaml must never lack: each rule is a rule of ours, told by what it finds, and seen to find a planted defect."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from docs.generate import settings_page
from tests.compose.composition import COMPOSE, OURS, ROOT, WORKERS, Definition, mounts, read, start_order

Services = dict[str, Definition]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus" / "compose.yml"


@pytest.fixture(scope="module")
def services() -> Services:
    return read()


def unrestrained(services: Services) -> list[str]:
    """Containers that may do more than they need."""
    wrong = []
    for name, service in services.items():
        if service.get("read_only") is not True:
            wrong.append(f"{name}: may write to its image")
        if service.get("cap_drop") != ["ALL"] or "cap_add" in service or "privileged" in service:
            wrong.append(f"{name}: keeps capabilities")
        if service.get("security_opt") != ["no-new-privileges:true"]:
            wrong.append(f"{name}: may gain privileges")
        if str(service.get("user", "root")).partition(":")[0] in ("root", "0"):
            wrong.append(f"{name}: runs as root")
        if not {"mem_limit", "pids_limit"} <= service.keys():
            wrong.append(f"{name}: may take all of the machine")
        if any(source.startswith("./") and not read_only for source, _, read_only in mounts(service)):
            wrong.append(f"{name}: may write to the checkout")
    return wrong


def unknown_variables(services: Services) -> list[str]:
    """Environment variables of our services that none of them reads."""
    known = set(re.findall(r"`((?:TALLYSTICK_\w+|DATABASE_URL|KAFKA_BOOTSTRAP_SERVERS))`", settings_page()))
    return sorted({key for name in OURS for key in services[name]["environment"]} - known)


def floating_images(services: Services) -> list[str]:
    """Images of others whose version or registry is not said."""
    return [
        f"{name}: {service['image']}"
        for name, service in services.items()
        if name not in OURS and not re.fullmatch(r"[a-z.]+\.[a-z]+/[\w/-]+:v?\d+\.\d+[\w.-]*", service["image"])
    ]


def open_to_the_network(services: Services) -> list[str]:
    """Ports that others than this machine could reach."""
    return [
        f"{name}: {port}"
        for name, service in services.items()
        for port in service.get("ports", ())
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    ]


def missing_files(services: Services) -> list[str]:
    """Files of the repository that are mounted and do not exist."""
    return [
        f"{name}: {source}"
        for name, service in services.items()
        for source, _, _ in mounts(service)
        if source.startswith(".") and not (COMPOSE.parent / source).exists()
    ]


def careless_starts(services: Services) -> list[str]:
    """Services that nobody could wait for, or that start before what they need."""
    wrong = [
        f"{name}: has no healthcheck"
        for name, service in services.items()
        if service["restart"] == "unless-stopped" and "healthcheck" not in service
    ]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ends = services[needed]["restart"] == "on-failure"
            if how["condition"] != ("service_completed_successfully" if ends else "service_healthy"):
                wrong.append(f"{name}: does not wait until {needed} is ready")
    wrong += [
        f"{name}: starts before {needed}"
        for name in WORKERS
        for needed in ("migrate", "seed", "topics")  # `up --wait` fails where nobody waits for what ends
        if needed not in services[name].get("depends_on", {})
    ]
    return wrong


def shells(services: Services) -> list[str]:
    """Commands and healthchecks of ours that go through a shell."""
    checks = {name: services[name].get("healthcheck", {}).get("test", ["CMD"]) for name in OURS}
    return [name for name in OURS if not isinstance(services[name]["command"], list) or checks[name][0] != "CMD"]


RULES: Final = (
    unrestrained,
    unknown_variables,
    floating_images,
    open_to_the_network,
    missing_files,
    careless_starts,
    shells,
)


@pytest.mark.parametrize("rule", RULES)
def test_the_composition_keeps_the_rule(rule: Callable[[Services], list[str]], services: Services) -> None:
    assert rule(services) == []


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        (unrestrained, lambda all_: all_["ingest"].pop("read_only")),
        (unrestrained, lambda all_: all_["kafka"].pop("cap_drop")),
        (unrestrained, lambda all_: all_["api"].update(security_opt=[])),
        (unrestrained, lambda all_: all_["postgres"].pop("user")),
        (unrestrained, lambda all_: all_["billing"].pop("mem_limit")),
        (unrestrained, lambda all_: all_["grafana"]["volumes"].append("./grafana:/etc/grafana")),
        (unknown_variables, lambda all_: all_["billing"]["environment"].update(TALLYSTICK_TYPO="1")),
        (floating_images, lambda all_: all_["kafka"].update(image="docker.io/apache/kafka:latest")),
        (floating_images, lambda all_: all_["kafka"].update(image="apache/kafka:4.3.1")),
        (open_to_the_network, lambda all_: all_["postgres"]["ports"].append("5432:5432")),
        (missing_files, lambda all_: all_["prometheus"]["volumes"].append("./prometheus/gone.yml:/etc/gone.yml:ro")),
        (careless_starts, lambda all_: all_["api"].pop("healthcheck")),
        (careless_starts, lambda all_: all_["ingest"]["depends_on"].pop("migrate")),
        (careless_starts, lambda all_: all_["migrate"]["depends_on"]["postgres"].update(condition="service_started")),
        (shells, lambda all_: all_["migrate"].update(command="tallystick migrate")),
    ],
)
def test_a_planted_defect_is_found(
    rule: Callable[[Services], list[str]], plant: Callable[[Services], Any], services: Services
) -> None:
    with_defect = copy.deepcopy(services)
    plant(with_defect)
    assert len(rule(with_defect)) > len(rule(services))


def follows_the_specification(file: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the JSON Schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_follows_the_specification() -> None:
    done = follows_the_specification(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_field_does_not(tmp_path: Path) -> None:
    misspelt = tmp_path / "compose.yaml"
    misspelt.write_text(COMPOSE.read_text().replace("read_only: true", "readonly: true"))
    done = follows_the_specification(misspelt)
    assert done.returncode == 1
    assert "readonly" in done.stdout


def test_every_variable_has_a_default_and_can_be_set() -> None:
    text = re.sub(r"^ *#.*$", "", COMPOSE.read_text(), flags=re.MULTILINE)
    assert re.findall(r"\$(?!\{\w+:-[^}]+\})", text) == []
    changed = read({"RUN_AS": "1000730000:0", "IMAGE": "registry.example/tallystick:1", "KAFKA_PORT": "9999"})
    assert changed["ingest"]["user"] == "1000730000:0"
    assert {changed[name]["image"] for name in OURS} == {"registry.example/tallystick:1"}
    assert changed["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].endswith("HOST://localhost:9999")
    assert changed["kafka"]["ports"] == ["127.0.0.1:9999:29092"]


def test_each_service_comes_after_what_it_depends_on(services: Services) -> None:
    order = list(start_order(services))
    assert order.index("postgres") < order.index("migrate") < order.index("seed") < order.index("ingest")
    assert order.index("kafka") < order.index("topics") < order.index("api")


def test_prometheus_asks_every_worker_where_it_answers(services: Services) -> None:
    [job] = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    asked = {target["labels"]["service"]: target["targets"] for target in job["static_configs"]}
    assert asked == {name: [f"{name}:{services[name]['environment']['TALLYSTICK_HTTP_PORT']}"] for name in WORKERS}
    usual = yaml.safe_load(PROMETHEUS.with_name("prometheus.yml").read_text())
    assert usual["rule_files"] == yaml.safe_load(PROMETHEUS.read_text())["rule_files"]


def test_what_prometheus_and_grafana_are_given_names_what_is_there(services: Services) -> None:
    targets = {target: source for source, target, _ in mounts(services["grafana"])}
    [provider] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/tallystick.yaml").read_text())[
        "providers"
    ]
    assert list((COMPOSE.parent / targets[provider["options"]["path"]]).glob("*.json"))
    [datasource] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert datasource["url"] == "http://prometheus:9090"
