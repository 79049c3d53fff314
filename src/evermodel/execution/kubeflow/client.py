"""A client of Kubeflow Pipelines' v2beta1 API with what a launcher needs: versions, runs, recurring runs.

It uses the models of the published `kfp-server-api`, because the SDK's own client waits forever on a canceled run, has
no timeouts, and prints. The API has no idempotent start: if the response to a POST is lost, the server may have done the
work. So each object has a name, which is looked up before the first POST and again after each lost response.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api as api
import tenacity
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.execution.retry import ProgressLog, Report, RetryPolicy, poll, retry

GOOD, BAD = {"SUCCEEDED", "SKIPPED"}, {"FAILED", "CANCELED"}
TIMEOUT = (5, 60)  # seconds to connect, to read
TRIES = 4
EXPERIMENT = "evermodel"
POLICY = RetryPolicy(poll_seconds=5.0)


@dataclass
class KfpClient:
    """One endpoint; `namespace` is for a multi-user installation. Each call reads the token anew, because it is rotated."""

    endpoint: str
    namespace: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    policy: RetryPolicy = field(default=POLICY)

    def __post_init__(self) -> None:
        settings = api.Configuration(host=self.endpoint.rstrip("/"))
        settings.retries = 0  # nothing is sent twice without a look-up between
        settings.ssl_ca_cert = str(self.ca_file) if self.ca_file else None
        if self.token_file is not None:
            settings.api_key_prefix["authorization"] = "Bearer"
            settings.api_key["authorization"] = ""  # the client calls the hook only if there is a key
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

    def upload_version(self, name: str, package: Path, digest: str) -> Any:
        """The pipeline's version of this digest; the package is uploaded if there is none yet."""
        pipeline_id = self._find_or_create_pipeline(name)
        wanted = f"{name}-{digest[:12]}"

        def find() -> Any | None:
            query = {"pipeline_id": pipeline_id, "filter": _by_name(wanted)}
            listed = self._list(self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", **query)
            return next((version for version in listed if version.display_name == wanted), None)

        def upload() -> Any:
            arguments = {"name": wanted, "display_name": wanted, "pipelineid": pipeline_id}
            return self._call(self._uploads.upload_pipeline_version, str(package), **arguments)

        return self._find_or_create(f"version {wanted}", find, upload)

    def _find_or_create_pipeline(self, name: str) -> str:
        def find() -> Any | None:
            query = {"filter": _by_name(name), **self._in_namespace()}
            listed = self._list(self._pipelines.pipeline_service_list_pipelines, "pipelines", **query)
            return next((pipeline for pipeline in listed if pipeline.display_name == name), None)

        def create() -> Any:
            body = api.V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace)
            return self._call(self._pipelines.pipeline_service_create_pipeline, body)

        return str(self._find_or_create(f"pipeline {name}", find, create).pipeline_id)

    def find_or_create_experiment(self) -> str:
        """The id of the experiment that holds our runs."""

        def find() -> Any | None:
            query = {"filter": _by_name(EXPERIMENT), **self._in_namespace()}
            listed = self._list(self._experiments.experiment_service_list_experiments, "experiments", **query)
            return next((experiment for experiment in listed if experiment.display_name == EXPERIMENT), None)

        def create() -> Any:
            body = api.V2beta1Experiment(display_name=EXPERIMENT, namespace=self.namespace)
            return self._call(self._experiments.experiment_service_create_experiment, body)

        return str(self._find_or_create(f"experiment {EXPERIMENT}", find, create).experiment_id)

    # runs -------------------------------------------------------------------------------------------------------------

    def start_run(
        self, name: str, version: Any, parameters: Mapping[str, str], *, service_account: str | None = None
    ) -> Any:
        """The run of this name that is active or has succeeded, else a new one; one call never starts two."""
        experiment = self.find_or_create_experiment()
        body = api.V2beta1Run(
            display_name=name,
            experiment_id=experiment,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=service_account,
        )

        def find() -> Any | None:
            query = {"experiment_id": experiment, "filter": _by_name(name), "sort_by": "created_at desc"}
            listed = self._list(self._runs.run_service_list_runs, "runs", **query)
            return next((run for run in listed if run.display_name == name and run.state not in BAD), None)

        return self._find_or_create(f"run {name}", find, lambda: self._call(self._runs.run_service_create_run, body))

    def wait_for_run(self, run_id: str, report: Report) -> Any:
        """The run when it has succeeded; EvermodelError with the failed steps if it fails or is canceled."""
        logs: dict[str, ProgressLog] = {}

        def read() -> Any:
            run = retry(lambda: self._call(self._runs.run_service_get_run, run_id), self.policy, on=ConnectionError)
            name = f"run {run.display_name} ({run_id})"
            logs.setdefault(name, ProgressLog(report, name)).add(run.state)
            return run

        run = poll(read, lambda run: run.state in GOOD | BAD, self.policy)
        if run.state in BAD:
            raise EvermodelError(f"run {run.display_name} ({run_id}) ended {run.state}{_failures(run)}")
        return run

    # recurring runs ---------------------------------------------------------------------------------------------------

    def schedule_run(
        self, name: str, version: Any, cron: str, parameters: Mapping[str, str], *, service_account: str | None = None
    ) -> Any:
        """The recurring run of this name with this version, schedule and parameters; others of the name are deleted.

        It doesn't make up for missed times (`no_catchup`), and no two of its runs overlap.
        """
        experiment = self.find_or_create_experiment()
        body = api.V2beta1RecurringRun(
            display_name=name,
            experiment_id=experiment,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            mode=api.RecurringRunMode.ENABLE,
            no_catchup=True,
            max_concurrency="1",
            service_account=service_account,
        )

        def list_all() -> list[Any]:
            query = {"experiment_id": experiment, "filter": _by_name(name)}
            listed = self._list(self._recurring.recurring_run_service_list_recurring_runs, "recurring_runs", **query)
            return [recurring for recurring in listed if recurring.display_name == name]

        def find() -> Any | None:
            return next((recurring for recurring in list_all() if _identity(recurring) == _identity(body)), None)

        def create() -> Any:
            return self._call(self._recurring.recurring_run_service_create_recurring_run, body)

        kept = self._find_or_create(f"recurring run {name}", find, create)
        for other in list_all():
            if other.recurring_run_id != kept.recurring_run_id:
                self._call(self._recurring.recurring_run_service_delete_recurring_run, other.recurring_run_id)
        return kept

    # calls ------------------------------------------------------------------------------------------------------------

    def _find_or_create(self, what: str, find: Callable[[], Any | None], create: Callable[[], Any]) -> Any:
        """Look the object up, and create it if it isn't there.

        After a lost response it looks the object up for a while before it creates it again: the server may have done
        the work, and may take a moment to list the object.
        """

        def look_up() -> Any | None:
            return retry(find, self.policy, on=ConnectionError)

        def attempt() -> Any:
            found = look_up()
            if found is not None:
                return found
            try:
                return create()
            except ConnectionError:
                limit_seconds = 2 * self.policy.poll_seconds
                found = poll(look_up, lambda found: found is not None, self.policy, limit_seconds=limit_seconds)
                if found is None:
                    raise
                return found

        wait = tenacity.wait_incrementing(start=self.policy.poll_seconds, increment=self.policy.poll_seconds)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ConnectionError),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=wait,
            sleep=self.policy.sleep,
        )
        try:
            return retrying(attempt)
        except tenacity.RetryError as failed:
            cause = failed.last_attempt.exception()
            raise EvermodelError(f"{what} couldn't be created in {TRIES} tries: {cause}") from None

    def _list(self, method: Callable[..., Any], items: str, **query: Any) -> list[Any]:
        """All pages of a list."""
        listed: list[Any] = []
        token = ""
        while True:
            page = self._call(method, page_size=100, page_token=token, **query)
            listed += getattr(page, items) or []
            token = page.next_page_token or ""
            if not token:
                return listed

    def _call(self, method: Callable[..., Any], *arguments: Any, **query: Any) -> Any:
        """ConnectionError if the outcome is unknown, EvermodelError if the server refuses."""
        try:
            return method(*arguments, **query, _request_timeout=TIMEOUT)
        except HTTPError as error:
            raise ConnectionError(f"{self.endpoint} doesn't answer: {error}") from None
        except ApiException as error:
            status = error.status or 0
            if status == 409:
                raise ConnectionError(f"{self.endpoint}: it exists already") from None  # so it is looked up
            if status in (408, 429) or status >= 500:
                raise ConnectionError(f"{self.endpoint} answers {status}: {_message(error)}") from None
            raise EvermodelError(self._refusal(status, _message(error))) from None

    def _refusal(self, status: int, message: str) -> str:
        if status == 401:
            token = f"the token of {self.token_file}" if self.token_file else "a call without a token (kfp_token_file)"
            return f"{self.endpoint} refuses {token} (401): {message}"
        if status == 403:
            return f"{self.endpoint} allows this token nothing in namespace {self.namespace!r} (403): {message}"
        return f"{self.endpoint} refuses ({status}): {message}"

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}


def _by_name(name: str) -> str:
    """The filter of a list call for one display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _reference(version: Any) -> Any:
    ids = {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.pipeline_version_id}
    return api.V2beta1PipelineVersionReference(**ids)


def _identity(recurring: Any) -> tuple[Any, ...]:
    """Two recurring runs of a name are the same if these are equal."""
    version = recurring.pipeline_version_reference.pipeline_version_id
    return version, recurring.trigger.cron_schedule.cron, recurring.runtime_config.parameters, recurring.service_account


def _message(error: ApiException) -> str:
    """The server's own message in an ApiException."""
    try:
        tree = json.loads(error.body)
        return str(tree.get("message") or tree["error"])
    except (TypeError, ValueError, KeyError, AttributeError):
        return str(error.body or error.reason)


def _failures(run: Any) -> str:
    """The failed steps, each with its message, one a line."""
    tasks = run.run_details.task_details or [] if run.run_details else []
    failed = [(task.display_name, task.error) for task in tasks if task.state == "FAILED"]
    steps = [f"{name}: {error.message}" if error and error.message else str(name) for name, error in failed]
    message = [run.error.message] if run.error and run.error.message else []
    return "".join(f"\n  {line}" for line in [*message, *steps])
