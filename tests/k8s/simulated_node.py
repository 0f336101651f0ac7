"""A node that runs nothing and says that it does: what a scheduler and a kubelet would tell the API server of healthy pods."""

from __future__ import annotations

import contextlib
import itertools
import threading
from datetime import UTC, datetime

import httpx

from tests.k8s.api_server import ApiServer, Manifest, Refused

NODE = "simulated"
_LIFETIME_SECONDS = 300.0


class SimulatedNode(threading.Thread):
    """Takes every pod of a namespace, as long as the API server runs. Pods become ready at once; those of Jobs succeed."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        super().__init__(daemon=True, name=f"node of {namespace}")
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._addresses = itertools.count(1)

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError):  # the server has ended
            for event in self._api.watch(self._pods, seconds=_LIFETIME_SECONDS):
                if event["type"] in {"ADDED", "MODIFIED"}:
                    with contextlib.suppress(Refused):  # the pod is gone meanwhile, or further than this event
                        self._play(event["object"])

    def _play(self, pod: Manifest) -> None:
        path = f"{self._pods}/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            self._api.delete(path, gracePeriodSeconds=0, preconditions={"uid": pod["metadata"]["uid"]})
        elif "nodeName" not in pod["spec"]:
            self._bind(pod)
        elif pod["status"]["phase"] == "Pending":
            self._api.patch_status(path, self._status(pod))

    def _bind(self, pod: Manifest) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        self._api.post(f"{self._pods}/{pod['metadata']['name']}/binding", binding)

    def _status(self, pod: Manifest) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ends = pod["spec"]["restartPolicy"] == "Never"
        state = (
            {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}}
            if ends
            else {"running": {"startedAt": now}}
        )
        address = f"10.0.0.{next(self._addresses)}"
        return {
            "phase": "Succeeded" if ends else "Running",
            "startTime": now,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": kind, "status": "False" if ends else "True", "lastTransitionTime": now}
                for kind in ("Ready", "ContainersReady")
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": container["image"],
                    "ready": not ends,
                    "restartCount": 0,
                    "state": state,
                }
                for container in pod["spec"]["containers"]
            ],
        }
