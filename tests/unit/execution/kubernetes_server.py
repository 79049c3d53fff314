"""A fake Kubernetes API over HTTP that stores objects and changes them by a script.

It has what the tests need: server-side apply (with a field manager, else 415), get, delete, pods by label, a pod's log,
bearer tokens. Each read of an object first runs the next step of the test's script for its kind.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
Step = Callable[[Object], None] | Object | int  # a change of the object, its next status, or an HTTP error


@dataclass
class Cluster:
    """The stored objects by path, and the script of each kind."""

    token: str = "the-token"
    objects: dict[str, Object] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    script: dict[str, list[Step]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    version: int = 0
    finalizers: int = 0  # number of reads for which a deleted object still exists

    def put(self, path: str, body: Object) -> Object:
        self.version += 1
        known = self.objects.get(path)
        uid = known["metadata"]["uid"] if known else f"uid-{self.version}"
        stored = copy.deepcopy(body)
        stored["metadata"].update(resourceVersion=str(self.version), uid=uid)
        stored["status"] = known.get("status", {}) if known else {}
        self.objects[path] = stored
        return stored

    def advance(self, path: str) -> int:
        """Run the next step of the object's kind; 0, or the HTTP error to respond with."""
        kind = path.split("/")[-2]
        steps = self.script.get(kind, [])
        if not steps or path not in self.objects:
            return 0
        step = steps.pop(0)
        if isinstance(step, int):
            return step
        if callable(step):
            step(self.objects[path])
        else:
            self.objects[path]["status"] = step
        return 0

    def count_applied(self, kind: str) -> int:
        return sum(method == "PATCH" and f"/{kind}/" in path for method, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def _respond(self, status: int, body: Object | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._respond(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _serve(self) -> None:
        cluster, parts = self.cluster, urlsplit(self.path)
        path, query = parts.path, parse_qs(parts.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cluster.requests.append((self.command, path))
        if self.headers.get("Authorization") != f"Bearer {cluster.token}":
            return self._fail(401, "Unauthorized")
        if self.command == "PATCH":
            if self.headers["Content-Type"] != "application/apply-patch+yaml" or "fieldManager" not in query:
                return self._fail(415, "only server-side apply, with a field manager")
            return self._respond(200, cluster.put(path, json.loads(body)))
        if path.endswith("/log"):
            return self._respond(200, cluster.logs[path.split("/")[-2]])
        if self.command == "GET" and path.endswith("/pods"):
            wanted = dict(pair.split("=") for pair in query["labelSelector"][0].split(","))
            pods = [pod for key, pod in cluster.objects.items() if "/pods/" in key]
            chosen = [pod for pod in pods if wanted.items() <= pod["metadata"].get("labels", {}).items()]
            return self._respond(200, {"items": chosen})
        if self.command == "GET" and (status := cluster.advance(path)):
            return self._fail(status, "unavailable")
        if path not in cluster.objects:
            return self._fail(404, f"{path} not found")
        if self.command == "DELETE":
            cluster.objects[path]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            if not cluster.finalizers:
                del cluster.objects[path]
            return self._respond(200, {"status": "Success"})
        stored = cluster.objects[path]
        if "deletionTimestamp" in stored["metadata"]:
            cluster.finalizers -= 1
            if cluster.finalizers <= 0:
                del cluster.objects[path]
        return self._respond(200, stored)

    do_GET = do_PATCH = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def kubernetes(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """A fake cluster and the path of its KUBECONFIG."""
    cluster = Cluster()
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {"token": cluster.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    place = folder / "kubeconfig"
    place.write_text(yaml.safe_dump(config))
    try:
        yield cluster, place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
