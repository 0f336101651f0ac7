"""The logins that the how-to and the manifests make may act as every role that their service takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

import yaml

from services.api.database import READER, TENANT, Role

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "secure-postgres-and-kafka.md"
CLUSTER: Final = ROOT / "deploy" / "k8s" / "components" / "cloudnative-pg" / "cluster.yaml"


def of_the_page() -> dict[str, set[str]]:
    statements = re.findall(r"CREATE ROLE (\w+) +LOGIN PASSWORD '…' IN ROLE ([\w,\s]+);", PAGE.read_text("utf-8"))
    return {login: set(re.findall(r"\w+", roles)) for login, roles in statements}


def of_the_cluster() -> dict[str, set[str]]:
    cluster = next(iter(yaml.safe_load_all(CLUSTER.read_text("utf-8"))))
    return {role["name"]: set(role["inRoles"]) for role in cluster["spec"]["managed"]["roles"] if "inRoles" in role}


def test_the_page_and_the_manifests_make_the_same_logins() -> None:
    assert of_the_page() == of_the_cluster()


def test_the_login_of_the_api_is_in_every_role_that_it_takes() -> None:
    assert of_the_cluster()["api"] == {*get_args(Role), TENANT, READER}


def test_each_worker_has_a_login_of_its_role() -> None:
    for service in ("ingest", "aggregator", "billing"):
        assert of_the_cluster()[service] == {f"tallystick_{service}"}
