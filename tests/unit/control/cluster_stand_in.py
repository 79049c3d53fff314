"""Stand-ins, over HTTP, for the Kubernetes API with one RayService and for serving: the part that the reconciler uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import yaml

from evermodel import storage
from evermodel.control.rollout.serve_config import configured_releases
from evermodel.records import Release

CONFIG = """
applications:
  - name: evermodel
    args: {use_cases: {restaurants: s3://b/restaurants.yaml}}
    deployments: [{name: Models, user_config: {use_cases: {restaurants: {weights: {order: 1.0, revenue: 0.1}}}}}]
"""
PATH = "/apis/ray.io/v1/namespaces/live/rayservices/evermodel-serving"


class ApiServer:
    """Holds one object. A patch needs its resourceVersion; a test changes the object first through `before_patch`."""

    def __init__(self) -> None:
        self.object: dict[str, Any] = {
            "metadata": {"name": "evermodel-serving", "resourceVersion": "1"},
            "spec": {"serveConfigV2": CONFIG, "rayClusterConfig": {"headGroupSpec": {}}},
        }
        self.patches: list[dict[str, Any]] = []
        self.conflicts = 0
        self.refused = 0  # requests while it is down
        self.down = False
        self.before_patch: Callable[[], None] = lambda: None
        self._lock = Lock()

    @property
    def config(self) -> str:
        return str(self.object["spec"]["serveConfigV2"])

    @property
    def state(self) -> dict[str, Any]:
        text = self.object["metadata"].get("annotations", {}).get("evermodel.io/projection", "{}")
        return dict(json.loads(text).get("use_cases", {}).get("restaurants", {}))

    def edit(self, config: str) -> None:
        with self._lock:
            self.object["spec"]["serveConfigV2"] = config
            self._next_version()

    def _next_version(self) -> None:
        self.object["metadata"]["resourceVersion"] = str(int(self.object["metadata"]["resourceVersion"]) + 1)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        if self.down:
            self.refused += 1
            return 503, {"message": "etcd is away"}
        if path.partition("?")[0] != PATH:
            return 404, {"message": f"no {path}"}
        if method == "GET":
            return 200, self.object
        assert headers["content-type"] == "application/merge-patch+json"
        self.before_patch()
        patch = json.loads(body)
        with self._lock:
            if patch["metadata"].pop("resourceVersion") != self.object["metadata"]["resourceVersion"]:
                self.conflicts += 1
                return 409, {"message": "the object has been modified"}
            merge(self.object, patch)
            self._next_version()
            self.patches.append(patch)
            return 200, self.object


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7386, for objects."""
    for key, value in patch.items():
        if isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        elif value is None:
            target.pop(key, None)
        else:
            target[key] = value


class Serving:
    """Replicas that load the configured release in `load_config`. Each request is answered by the next replica."""

    def __init__(self, api: ApiServer, replicas: int = 2) -> None:
        self._api, self._next = api, 0
        self.live: list[str | None] = [None] * replicas
        self.errors: list[str | None] = [None] * replicas
        self.broken: set[str] = set()
        self.down = False

    def load_config(self, *replicas: int) -> None:
        """These replicas (default: all) load the configured release, or keep their own and report an error."""
        uri = configured_releases(self._api.config)["restaurants"]
        if uri is None:
            return
        release = Release.from_json(storage.read_text(uri)).id
        for replica in replicas or range(len(self.live)):
            if release in self.broken:
                self.errors[replica] = "IntegrityError: sha256 differs"
            else:
                self.live[replica], self.errors[replica] = release, None

    def answer(self, _method: str, path: str, headers: Any, _body: bytes) -> tuple[int, Any]:
        if self.down:
            return 502, "bad gateway"
        assert path == "/readyz"
        self._next = (self._next + 1) % len(self.live)
        case = {"release": self.live[self._next], "error": self.errors[self._next]}
        return 200, {
            "ready": case["release"] is not None,
            "error": None,
            "use_cases": {"restaurants": case},
            "replica": f"r{self._next}",
            "replicas": len(self.live),
        }


@contextmanager
def serve(stand_in: ApiServer | Serving) -> Iterator[str]:
    """Serves `stand_in` on a free port; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = stand_in.answer(self.command, self.path, self.headers, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def weights(config: str) -> Any:
    models = yaml.safe_load(config)["applications"][0]["deployments"][0]
    return models["user_config"]["use_cases"]["restaurants"]["weights"]
