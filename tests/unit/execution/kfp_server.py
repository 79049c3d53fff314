"""A fake of the Kubeflow Pipelines API, v2beta1, by the published `kfp-server-api` models.

Each request body is parsed into its model and each response is written from one, so no test can use a field that the API
doesn't have. The fake can lose a response before or after the work, list a new object late, and lead runs through given
states.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import yaml

V2 = "/apis/v2beta1"
MODELS = {
    "experiments": (api.V2beta1Experiment, "experiment_id"),
    "pipelines": (api.V2beta1Pipeline, "pipeline_id"),
    "pipeline_versions": (api.V2beta1PipelineVersion, "pipeline_version_id"),
    "runs": (api.V2beta1Run, "run_id"),
    "recurringruns": (api.V2beta1RecurringRun, "recurring_run_id"),
}
LISTS = {
    "experiments": (api.V2beta1ListExperimentsResponse, "experiments"),
    "pipelines": (api.V2beta1ListPipelinesResponse, "pipelines"),
    "pipeline_versions": (api.V2beta1ListPipelineVersionsResponse, "pipeline_versions"),
    "runs": (api.V2beta1ListRunsResponse, "runs"),
    "recurringruns": (api.V2beta1ListRecurringRunsResponse, "recurring_runs"),
}


class _Json:
    """The argument of ApiClient.deserialize."""

    def __init__(self, data: Any) -> None:
        self.data = json.dumps(data)


@dataclass
class Endpoint:
    """The stored objects, and the faults to come."""

    url: str = ""
    token: str | None = None
    stored: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in MODELS})
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    faults: list[str] = field(default_factory=list)  # of the next POSTs: "lost", "refused", or a status code
    unlisted: int = 0  # number of list responses that don't hold the new runs yet
    cause: str = ""
    tokens: list[str | None] = field(default_factory=list)
    packages: list[list[Any]] = field(default_factory=list)
    client: Any = field(default_factory=api.ApiClient)

    def create(self, kind: str, body: Any) -> Any:
        model, key = MODELS[kind]
        created = self.client.deserialize(_Json(body), model) if isinstance(body, dict) else body
        if (
            kind != "runs"
            and kind != "recurringruns"
            and any(known.display_name == created.display_name for known in self.stored[kind])
        ):
            return None
        setattr(created, key, f"{kind}-{len(self.stored[kind]) + 1}")
        if kind == "runs":
            created.state = api.V2beta1RuntimeState.PENDING
        self.stored[kind].append(created)
        return created

    def advance(self, run: Any) -> None:
        run.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if run.state == "FAILED" and self.cause:
            error = api.GoogleRpcStatus(message=self.cause)
            task = api.V2beta1PipelineTaskDetail(display_name="train", state="FAILED", error=error)
            run.run_details = api.V2beta1RunDetails(task_details=[task])


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def _respond(self, status: int, body: Any) -> None:
        data = json.dumps(self.endpoint.client.sanitize_for_serialization(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._respond(status, {"code": status, "message": message, "error": message})

    def _serve(self) -> None:
        endpoint, parts = self.endpoint, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given = self.headers.get("Authorization")
        endpoint.tokens.append(given)
        if endpoint.token is not None and given != f"Bearer {endpoint.token}":
            return self._fail(401, "Request unauthenticated")
        steps = parts.path.removeprefix(V2).strip("/").split("/")
        if self.command == "POST":
            return self._post(steps, query, data)
        kind = "pipeline_versions" if steps[-1] == "versions" else steps[0]
        if self.command == "DELETE":
            kept = [known for known in endpoint.stored[kind] if getattr(known, MODELS[kind][1]) != steps[1]]
            endpoint.stored[kind] = kept
            return self._respond(200, {})
        if len(steps) == 2:
            (run,) = [run for run in endpoint.stored["runs"] if run.run_id == steps[1]]
            endpoint.advance(run)
            return self._respond(200, run)
        return self._list(kind, query)

    def _post(self, steps: list[str], query: dict[str, str], data: bytes) -> None:
        fault = self.endpoint.faults.pop(0) if self.endpoint.faults else ""
        if fault == "refused":
            self.close_connection = True
            return None
        if fault.isdigit():
            return self._fail(int(fault), "try later")
        if steps[-1] == "upload_version":
            created = self._upload(query, data)
        else:
            created = self.endpoint.create(steps[0], json.loads(data))
        if fault == "lost":  # the work is done, but there is no response
            self.close_connection = True
            return None
        return self._respond(200, created) if created is not None else self._fail(409, "AlreadyExists")

    def _upload(self, query: dict[str, str], data: bytes) -> Any:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = message_from_bytes(head + data).get_payload()
        text = part.get_payload(decode=True).decode()
        self.endpoint.packages.append(list(yaml.safe_load_all(text)))
        version = api.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"], name=query["name"], display_name=query["display_name"]
        )
        return self.endpoint.create("pipeline_versions", version)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        """Two objects a page, so that a client needs several pages."""
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
        found = [known for known in self.endpoint.stored[kind] if known.display_name == predicate["stringValue"]]
        for key in ("namespace", "experiment_id"):
            if key in query and hasattr(MODELS[kind][0], key):
                found = [known for known in found if getattr(known, key) == query[key]]
        if kind == "runs" and found and self.endpoint.unlisted:
            self.endpoint.unlisted -= 1
            found = []
        start = int(query.get("page_token") or 0)
        response, items = LISTS[kind]
        next_page = str(start + 2) if start + 2 < len(found) else None
        self._respond(200, response(**{items: found[start : start + 2], "next_page_token": next_page}))

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def kubeflow() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": endpoint}))
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
