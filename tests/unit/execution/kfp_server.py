"""A stand-in of the Kubeflow Pipelines API, v2beta1: it keeps what the published `kfp-server-api` models say.

Each body is read into its model and each answer written from one, so a field that the API doesn't have can't be sent
or looked for. It can lose answers (after the work is done, or before), take time to show what was made, and let runs
live through given states.
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
ANSWERS = {
    "experiments": (api.V2beta1ListExperimentsResponse, "experiments"),
    "pipelines": (api.V2beta1ListPipelinesResponse, "pipelines"),
    "pipeline_versions": (api.V2beta1ListPipelineVersionsResponse, "pipeline_versions"),
    "runs": (api.V2beta1ListRunsResponse, "runs"),
    "recurringruns": (api.V2beta1ListRecurringRunsResponse, "recurring_runs"),
}


class _Json:
    """What ApiClient.deserialize reads."""

    def __init__(self, data: Any) -> None:
        self.data = json.dumps(data)


@dataclass
class Endpoint:
    """What is stored, and what shall go wrong."""

    url: str = ""
    token: str | None = None
    stored: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in MODELS})
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    faults: list[str] = field(default_factory=list)  # of coming POSTs: "lost", "refused", or a status code
    unseen: int = 0  # lists of runs that don't show yet what was just made
    cause: str = ""
    tokens: list[str | None] = field(default_factory=list)
    packages: list[list[Any]] = field(default_factory=list)
    client: Any = field(default_factory=api.ApiClient)

    def create(self, kind: str, body: Any) -> Any:
        model, key = MODELS[kind]
        made = self.client.deserialize(_Json(body), model) if isinstance(body, dict) else body
        if (
            kind != "runs"
            and kind != "recurringruns"
            and any(one.display_name == made.display_name for one in self.stored[kind])
        ):
            return None
        setattr(made, key, f"{kind}-{len(self.stored[kind]) + 1}")
        if kind == "runs":
            made.state = api.V2beta1RuntimeState.PENDING
        self.stored[kind].append(made)
        return made

    def live_on(self, run: Any) -> None:
        run.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if run.state == "FAILED" and self.cause:
            error = api.GoogleRpcStatus(message=self.cause)
            task = api.V2beta1PipelineTaskDetail(display_name="train", state="FAILED", error=error)
            run.run_details = api.V2beta1RunDetails(task_details=[task])


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(self.endpoint.client.sanitize_for_serialization(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._answer(status, {"code": status, "message": message, "error": message})

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
            endpoint.stored[kind] = [one for one in endpoint.stored[kind] if getattr(one, MODELS[kind][1]) != steps[1]]
            return self._answer(200, {})
        if len(steps) == 2:
            (run,) = [one for one in endpoint.stored["runs"] if one.run_id == steps[1]]
            endpoint.live_on(run)
            return self._answer(200, run)
        return self._list(kind, query)

    def _post(self, steps: list[str], query: dict[str, str], data: bytes) -> None:
        fault = self.endpoint.faults.pop(0) if self.endpoint.faults else ""
        if fault == "refused":
            self.close_connection = True
            return None
        if fault.isdigit():
            return self._fail(int(fault), "try later")
        if steps[-1] == "upload_version":
            made = self._upload(query, data)
        else:
            made = self.endpoint.create(steps[0], json.loads(data))
        if fault == "lost":  # it was done, and nobody hears of it
            self.close_connection = True
            return None
        return self._answer(200, made) if made is not None else self._fail(409, "AlreadyExists")

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
        """Two a page, so that whoever lists has to turn it."""
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
        found = [one for one in self.endpoint.stored[kind] if one.display_name == predicate["stringValue"]]
        for key in ("namespace", "experiment_id"):
            if key in query and hasattr(MODELS[kind][0], key):
                found = [one for one in found if getattr(one, key) == query[key]]
        if kind == "runs" and found and self.endpoint.unseen:
            self.endpoint.unseen -= 1
            found = []
        start = int(query.get("page_token") or 0)
        answer, items = ANSWERS[kind]
        more = str(start + 2) if start + 2 < len(found) else None
        self._answer(200, answer(**{items: found[start : start + 2], "next_page_token": more}))

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
