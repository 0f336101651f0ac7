"""What these tests say to a Kubernetes API server: plain HTTPS, with server-side apply as `kubectl apply --server-side` does it."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx

Manifest = dict[str, Any]

MANAGER: Final = "tallystick-tests"
_SECONDS = 30.0


class Refused(Exception):
    """The server refused a manifest, and says why."""


class ApiServer:
    """One API server, asked as an administrator."""

    def __init__(self, address: str, token: str, certificate: Path) -> None:
        self.address, self.token, self.certificate = address, token, certificate
        self._client = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(certificate)),
            timeout=_SECONDS,
            trust_env=False,
        )
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        self._client.close()

    def is_ready(self) -> bool:
        """Whether the server answers, and has made what it makes at its start."""
        try:
            return self._client.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply one manifest with strict validation of its fields. Raises `Refused`, for a warning of the server as well."""
        parameters = {"fieldManager": MANAGER, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        return self._send(
            manifest, "PATCH", self.path_of(manifest), parameters, {"Content-Type": "application/apply-patch+yaml"}
        )

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create one object. Raises `Refused`, for a warning of the server as well."""
        path = self.path_of(manifest).rpartition("/")[0]
        return self._send(
            manifest, "POST", path, {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        )

    def items(self, path: str) -> list[Manifest]:
        """Return all objects below a path such as `/api/v1/namespaces/x/pods`."""
        found: list[Manifest] = self._decoded(self._client.get(path))["items"]
        return found

    def post(self, path: str, body: Manifest) -> Manifest:
        """Post what is no object of its own, such as a binding."""
        return self._decoded(self._client.post(path, json=body))

    def patch_status(self, path: str, status: Manifest) -> None:
        """Replace fields in the status of the object at `path`, as a kubelet does."""
        self._decoded(
            self._client.patch(
                f"{path}/status", json={"status": status}, headers={"Content-Type": "application/merge-patch+json"}
            )
        )

    def scale(self, path: str, replicas: int) -> None:
        """Set the number of replicas of the workload at `path` by its subresource, as an autoscaler does."""
        self._decoded(
            self._client.patch(
                f"{path}/scale",
                json={"spec": {"replicas": replicas}},
                headers={"Content-Type": "application/merge-patch+json"},
            )
        )

    def delete(self, path: str, **options: Any) -> None:
        """Delete the object at `path`. It is no error if there is none."""
        answer = self._client.request("DELETE", path, json={"kind": "DeleteOptions", "apiVersion": "v1", **options})
        if answer.status_code != httpx.codes.NOT_FOUND:
            self._decoded(answer)

    def watch(self, path: str, *, seconds: float, **parameters: str) -> Iterator[Manifest]:
        """Yield what is there and then every change, as `{type, object}`, for a time."""
        asked = {"watch": "1", "timeoutSeconds": str(max(1, round(seconds))), **parameters}
        with self._client.stream("GET", path, params=asked, timeout=seconds + _SECONDS) as answer:
            for line in answer.iter_lines():
                yield json.loads(line)

    def wait(self, path: str, name: str, until: Callable[[Manifest], bool], *, seconds: float) -> Manifest:
        """Return the object `name` below `path` once `until` is true of it. Raises `TimeoutError` with its status."""
        last: Manifest = {}
        for event in self.watch(path, seconds=seconds, fieldSelector=f"metadata.name={name}"):
            last = event["object"]
            if until(last):
                return last
        raise TimeoutError(f"{path}/{name}: not within {seconds:.0f} s; its status is {last.get('status')}")

    def path_of(self, manifest: Manifest) -> str:
        """Return where the object lives. Raises `Refused` for a kind that the server does not have."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        if (version, kind) not in self._kinds:
            self._discover(version)
        if (version, kind) not in self._kinds:
            raise Refused(f"{_name(manifest)}: the server has no {kind} in {version}: its CRD is not installed")
        plural, namespaced = self._kinds[version, kind]
        namespace = f"/namespaces/{manifest['metadata']['namespace']}" if namespaced else ""
        return f"{_root(version)}{namespace}/{plural}/{manifest['metadata']['name']}"

    def _discover(self, version: str) -> None:
        answer = self._client.get(_root(version))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return
        for found in self._decoded(answer)["resources"]:
            if "/" not in found["name"]:
                self._kinds[version, found["kind"]] = (found["name"], found["namespaced"])

    def _send(
        self,
        manifest: Manifest,
        method: str,
        path: str,
        parameters: dict[str, str],
        headers: dict[str, str] | None = None,
    ) -> Manifest:
        answer = self._client.request(method, path, params=parameters, headers=headers, json=manifest)
        if answer.is_error:
            raise Refused(f"{_name(manifest)}: {answer.json()['message']}")
        if warnings := answer.headers.get_list("Warning"):
            raise Refused(f"{_name(manifest)}: {'; '.join(warnings)}")
        return self._decoded(answer)

    @staticmethod
    def _decoded(answer: httpx.Response) -> Manifest:
        if answer.is_error:
            raise Refused(f"{answer.request.method} {answer.request.url.path}: {answer.text}")
        found: Manifest = answer.json()
        return found


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"
