"""What a demo is observed with: found or asked for in one line, and configured with what `deploy/` has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from deploy.grafana.dashboards import DASHBOARDS
from services.cli import main
from services.cli.demo.observe import configuration, find_programs, provision, targets
from services.cli.supervisor import WorkerSpec
from shared.errors import ConfigurationError


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_programs_are_those_that_variables_name(tmp_path: Path) -> None:
    named = {
        "TALLYSTICK_PROMETHEUS": program(tmp_path / "prom"),
        "TALLYSTICK_GRAFANA": program(tmp_path / "graf"),
    }
    found = find_programs(named)
    assert (found.prometheus, found.grafana) == tuple(named.values())


def test_no_prometheus_is_told_in_one_line_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TALLYSTICK_PROMETHEUS", str(tmp_path / "nothing"))
    assert main.run(["demo", "--observe"]) == 2
    said = capsys.readouterr().err
    assert "there is no Prometheus: install it (Debian's package prometheus" in said
    assert said.count("\n") == 1


def test_a_missing_grafana_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_programs({"TALLYSTICK_PROMETHEUS": program(tmp_path / "prometheus")}).grafana is None


def test_to_go_on_without_being_observed_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["demo", "--for", "9"]) == 2
    assert "--for says how long to go on with --observe" in capsys.readouterr().err


def test_the_configuration_is_that_of_one_machine_with_targets_from_a_file() -> None:
    written = yaml.safe_load(configuration())
    [job] = written["scrape_configs"]
    assert written["rule_files"] == ["rules.yml"]
    assert job == {"job_name": "tallystick", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}


def test_another_shape_of_the_configuration_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yml").write_text("scrape_configs: []\n")
    monkeypatch.setattr("services.cli.demo.observe.CONFIGURATION", tmp_path / "other.yml")
    with pytest.raises(ConfigurationError, match="does not name its targets as expected"):
        configuration()


def test_targets_have_the_labels_that_rules_ask_for() -> None:
    written = json.loads(targets([WorkerSpec("services.ingest", 0, 9901), WorkerSpec("services.billing", 0, 9902)]))
    assert written == [
        {"targets": ["127.0.0.1:9901"], "labels": {"service": "ingest"}},
        {"targets": ["127.0.0.1:9902"], "labels": {"service": "billing"}},
    ]


def test_grafana_is_provisioned_with_our_dashboards_over_this_prometheus(tmp_path: Path) -> None:
    provision(tmp_path / "grafana", "http://127.0.0.1:9999")
    written = tmp_path / "grafana" / "provisioning"
    [source] = yaml.safe_load((written / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((written / "dashboards" / "tallystick.yaml").read_text())["providers"]
    assert source["url"] == "http://127.0.0.1:9999"
    found = {json.loads(file.read_text())["uid"] for file in Path(provider["options"]["path"]).glob("*.json")}
    assert found == {board.uid for board in DASHBOARDS}
