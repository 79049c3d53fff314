"""Kubeflow Pipelines' v2beta1 API, as far as a launcher needs it: versions, runs, recurring runs, and how a run ended.

By the published `kfp-server-api` models; the SDK's own client waits for ever on a canceled run, has no timeouts and
prints. Starting is made idempotent by names: the API has no such thing, and a POST whose answer is lost may have been
carried out. So a run is looked up by its name before it is started, and again before it is tried a second time.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api as api
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from evermodel import storage
from evermodel.errors import EvermodelError

GOOD, BAD = {"SUCCEEDED", "SKIPPED"}, {"FAILED", "CANCELED"}
TIMEOUT = (5, 60)  # seconds to connect, to read
TRIES = 4
EXPERIMENT = "evermodel"


@dataclass(frozen=True)
class RetryPolicy:
    """How a wait passes; a test gives a faster one."""

    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    poll: float = 5.0
    patience: float = 600.0  # an endpoint that is away for longer isn't coming back for this run
    timeout: tuple[float, float] = TIMEOUT


@dataclass
class KfpClient:
    """One endpoint. `namespace`: of a multi-user installation. The token is read anew for each call: it is rotated."""

    endpoint: str
    namespace: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        settings = api.Configuration(host=self.endpoint.rstrip("/"))
        settings.retries = 0  # nothing is sent a second time without looking first
        settings.ssl_ca_cert = str(self.ca_file) if self.ca_file else None
        if self.token_file is not None:
            settings.api_key_prefix["authorization"] = "Bearer"
            settings.api_key["authorization"] = ""  # without one, the client asks no hook
            settings.refresh_api_key_hook = self._read_token
        client = api.ApiClient(settings)
        self._experiments = api.ExperimentServiceApi(client)
        self._pipelines = api.PipelineServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._runs = api.RunServiceApi(client)
        self._recurring = api.RecurringRunServiceApi(client)

    def _read_token(self, settings: Any) -> None:
        settings.api_key["authorization"] = storage.read_text(self.token_file or "").strip()

    # versions ---------------------------------------------------------------------------------------------------------

    def version(self, name: str, package: Path, digest: str) -> Any:
        """The pipeline's version of this digest: the one that is there, or the package uploaded as one."""
        pipeline_id = self._pipeline(name)
        wanted = f"{name}-{digest[:12]}"

        def there() -> Any | None:
            query = {"pipeline_id": pipeline_id, "filter": _named(wanted)}
            listed = self._list(self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", **query)
            return next((one for one in listed if one.display_name == wanted), None)

        def upload() -> Any:
            arguments = {"name": wanted, "display_name": wanted, "pipelineid": pipeline_id}
            return self._call(self._uploads.upload_pipeline_version, str(package), **arguments)

        return self._once(f"version {wanted}", there, upload)

    def _pipeline(self, name: str) -> str:
        def there() -> Any | None:
            query = {"filter": _named(name), **self._in_namespace()}
            listed = self._list(self._pipelines.pipeline_service_list_pipelines, "pipelines", **query)
            return next((one for one in listed if one.display_name == name), None)

        def create() -> Any:
            body = api.V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
            return self._call(self._pipelines.pipeline_service_create_pipeline, body)

        return str(self._once(f"pipeline {name}", there, create).pipeline_id)

    def _experiment(self) -> str:
        def there() -> Any | None:
            query = {"filter": _named(EXPERIMENT), **self._in_namespace()}
            listed = self._list(self._experiments.experiment_service_list_experiments, "experiments", **query)
            return next((one for one in listed if one.display_name == EXPERIMENT), None)

        def create() -> Any:
            body = api.V2beta1Experiment(display_name=EXPERIMENT, namespace=self.namespace)
            return self._call(self._experiments.experiment_service_create_experiment, body)

        return str(self._once(f"experiment {EXPERIMENT}", there, create).experiment_id)

    # runs -------------------------------------------------------------------------------------------------------------

    def start(self, name: str, version: Any, parameters: Mapping[str, str], *, account: str | None = None) -> Any:
        """The run of this name: one that goes on or has succeeded, or else a new one. Never two for one call."""
        experiment = self._experiment()
        body = api.V2beta1Run(
            display_name=name,
            experiment_id=experiment,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=account,
        )

        def there() -> Any | None:
            query = {"experiment_id": experiment, "filter": _named(name), "sort_by": "created_at desc"}
            listed = self._list(self._runs.run_service_list_runs, "runs", **query)
            return next((one for one in listed if one.display_name == name and one.state not in BAD), None)

        return self._once(f"run {name}", there, lambda: self._call(self._runs.run_service_create_run, body))

    def wait(self, run_id: str, say: Callable[[str], None]) -> Any:
        """The run once it has ended well; EvermodelError with what failed where it hasn't. CANCELED is an end."""
        told = ""
        while True:
            run = self._patiently(self._runs.run_service_get_run, run_id)
            if run.state != told:
                told = run.state
                say(f"run {run.display_name} ({run_id}): {told}")
            if run.state in GOOD:
                return run
            if run.state in BAD:
                raise EvermodelError(f"run {run.display_name} ({run_id}) ended {run.state}{_cause(run)}")
            self.policy.sleep(self.policy.poll)

    # recurring runs ---------------------------------------------------------------------------------------------------

    def schedule(
        self, name: str, version: Any, cron: str, parameters: Mapping[str, str], *, account: str | None = None
    ) -> Any:
        """The recurring run of this name, with this version, schedule and parameters; older ones of the name go.

        Missed times aren't made up for (`no_catchup`), and no two overlap: a window is looked at once, when it is over.
        """
        experiment = self._experiment()
        body = api.V2beta1RecurringRun(
            display_name=name,
            experiment_id=experiment,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            mode=api.RecurringRunMode.ENABLE,
            no_catchup=True,
            max_concurrency="1",
            service_account=account,
        )

        def listed() -> list[Any]:
            query = {"experiment_id": experiment, "filter": _named(name)}
            found = self._list(self._recurring.recurring_run_service_list_recurring_runs, "recurring_runs", **query)
            return [one for one in found if one.display_name == name]

        def there() -> Any | None:
            return next((one for one in listed() if _says(one) == _says(body)), None)

        kept = self._once(
            f"recurring run {name}",
            there,
            lambda: self._call(self._recurring.recurring_run_service_create_recurring_run, body),
        )
        for other in listed():
            if other.recurring_run_id != kept.recurring_run_id:
                self._call(self._recurring.recurring_run_service_delete_recurring_run, other.recurring_run_id)
        return kept

    # asking -----------------------------------------------------------------------------------------------------------

    def _once(self, what: str, there: Callable[[], Any | None], make: Callable[[], Any]) -> Any:
        """Look, and make what isn't there. After a lost answer look again: it may have been made all the same."""
        for attempt in range(TRIES):
            if (found := self._patiently(there)) is not None:
                return found
            try:
                return make()
            except ConnectionError as error:
                lost = error
                for _ in range(attempt + 2):  # an answer may be lost before the work is done
                    self.policy.sleep(self.policy.poll)
                    if (found := self._patiently(there)) is not None:
                        return found
        raise EvermodelError(f"{what} couldn't be made in {TRIES} tries: {lost}")

    def _list(self, ask: Callable[..., Any], items: str, **query: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            page = self._call(ask, page_size=100, page_token=token, **query)
            found += getattr(page, items) or []
            token = page.next_page_token or ""
            if not token:
                return found

    def _patiently(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        since = self.policy.clock()
        while True:
            try:
                return self._call(ask, *arguments) if arguments else ask()
            except ConnectionError as error:
                if self.policy.clock() - since > self.policy.patience:
                    raise EvermodelError(f"{error}; given up after {self.policy.patience:.0f} s") from None
                self.policy.sleep(self.policy.poll)

    def _call(self, ask: Callable[..., Any], *arguments: Any, **query: Any) -> Any:
        """ConnectionError where nobody can know what has become of it; EvermodelError where it was refused."""
        try:
            return ask(*arguments, **query, _request_timeout=self.policy.timeout)
        except HTTPError as error:
            raise ConnectionError(f"{self.endpoint} doesn't answer: {error}") from None
        except ApiException as error:
            status = error.status or 0
            if status == 409:
                raise ConnectionError(f"{self.endpoint}: it is there already") from None  # so it is looked up
            if status in (408, 429) or status >= 500:
                raise ConnectionError(f"{self.endpoint} answers {status}: {_said(error)}") from None
            raise EvermodelError(self._refused(status, _said(error))) from None

    def _refused(self, status: int, said: str) -> str:
        if status == 401:
            token = f"the token of {self.token_file}" if self.token_file else "a call without a token (kfp_token_file)"
            return f"{self.endpoint} refuses {token} (401): {said}"
        if status == 403:
            return f"{self.endpoint} allows this token nothing in namespace {self.namespace!r} (403): {said}"
        return f"{self.endpoint} refuses ({status}): {said}"

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _reference(version: Any) -> Any:
    ids = {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.pipeline_version_id}
    return api.V2beta1PipelineVersionReference(**ids)


def _says(recurring: Any) -> tuple[Any, ...]:
    """What makes two recurring runs the same."""
    version = recurring.pipeline_version_reference.pipeline_version_id
    return version, recurring.trigger.cron_schedule.cron, recurring.runtime_config.parameters, recurring.service_account


def _said(error: ApiException) -> str:
    try:
        tree = json.loads(error.body)
        return str(tree.get("message") or tree["error"])
    except (TypeError, ValueError, KeyError, AttributeError):
        return str(error.body or error.reason)


def _cause(run: Any) -> str:
    """The steps that failed, each with what it said."""
    tasks = run.run_details.task_details or [] if run.run_details else []
    failed = [(task.display_name, task.error) for task in tasks if task.state == "FAILED"]
    steps = [f"{name}: {error.message}" if error and error.message else str(name) for name, error in failed]
    said = [run.error.message] if run.error and run.error.message else []
    return "".join(f"\n  {line}" for line in [*said, *steps])
