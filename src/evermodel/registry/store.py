"""The model registry: releases as MLflow model versions, with their manifests and reports. The only mlflow import.

A use case is a registered model, a release one of its versions. `sync_aliases` sets the aliases `champion`, `challenger`
and `previous` until they match the ledger, and so repairs what a crash, a lost race or an edit in the UI has left. No
request for a prediction reads the registry.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evermodel import storage
from evermodel.clock import micros
from evermodel.errors import ConflictError
from evermodel.failpoint import failpoint
from evermodel.ledger import Ledger
from evermodel.records import EvaluationReport, Release, TrainingManifest, canonical_json
from evermodel.run_folder import RunFolder
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIASES = ("champion", "challenger", "previous")
TAG = "evermodel.release"
CHAIN = "evermodel.chain"
ROUNDS = 5  # of `sync_aliases`, while the ledger changes


class ModelRegistry:
    """The registry at an MLflow tracking URI (`sqlite:///…`, `http://…`); its database is made on first use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def client(self) -> MlflowClient:
        return connect(self.uri)

    def log_release(
        self, use_case: UseCase, release: Release, manifests: Sequence[TrainingManifest], report: EvaluationReport
    ) -> str:
        """Log a release with its manifests and report, with any verdict; the MLflow run's id.

        A second call returns the same run and the same version, and finishes a run that a crash has interrupted.
        """
        client, name = self.client, use_case.name
        experiment = self._find_or_create_experiment(name)
        runs = client.search_runs([experiment], f"tags.`{TAG}` = '{release.id}'", max_results=1)
        run = runs[0] if runs else self._create_run(experiment, release, report)
        failpoint("registry.run")
        run_id = str(run.info.run_id)
        if run.info.status != "FINISHED":
            self._log_run(run_id, use_case, release, manifests, report)
            client.set_terminated(run_id, "FINISHED", end_time=_milliseconds(release))
            failpoint("registry.logged")
        self._find_or_create_version(release, run_id=run_id)
        return run_id

    def sync_aliases(self, ledger: Ledger, use_case: str) -> dict[str, str]:
        """Set the aliases until they match the ledger; release id by alias.

        ConflictError if somebody else changes them all the time.
        """
        for _ in range(ROUNDS):
            wanted = _ledger_aliases(ledger, use_case)
            current = self.aliases(use_case)
            if {name: release.id for name, release in wanted.items()} == current:
                self._mirror_chain(ledger, use_case)
                return current
            for alias in ALIASES:
                self._set_alias(use_case, alias, wanted.get(alias), current.get(alias))
        raise ConflictError(f"{use_case}: the aliases in {self.uri} don't stay as in the ledger: {current}")

    def aliases(self, use_case: str) -> dict[str, str]:
        """Release id by alias, for our three aliases; `version N` for a version that isn't ours."""
        if (model := self._find_model(use_case)) is None:
            return {}
        found = {alias: str(version) for alias, version in model.aliases.items() if alias in ALIASES}
        versions = {version: self.client.get_model_version(use_case, version) for version in set(found.values())}
        return {alias: versions[version].tags.get(TAG, f"version {version}") for alias, version in found.items()}

    # runs ------------------------------------------------------------------------------------------------------------

    def _find_or_create_experiment(self, name: str) -> str:
        """The experiment of a use case. Its files lie in a folder beside a local database; a server has its own place."""
        client = self.client
        if (found := client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        place = None
        if self.uri.startswith("sqlite:///"):
            folder = os.path.dirname(os.path.abspath(self.uri.removeprefix("sqlite:///")))
            place = f"file://{folder}/mlartifacts/{name}"
        return str(client.create_experiment(name, artifact_location=place))

    def _create_run(self, experiment: str, release: Release, report: EvaluationReport) -> Any:
        tags = {TAG: release.id, "evermodel.verdict": report.verdict.word, "evermodel.parent": release.parent or ""}
        return self.client.create_run(
            experiment, start_time=_milliseconds(release), tags=tags, run_name=f"release {release.id}"
        )

    def _log_run(
        self,
        run_id: str,
        use_case: UseCase,
        release: Release,
        manifests: Sequence[TrainingManifest],
        report: EvaluationReport,
    ) -> None:
        from mlflow.entities import Metric, Param

        at = _milliseconds(release)
        params = [Param(key, value) for key, value in _params(use_case, release, manifests).items()]
        metrics = [Metric(key, value, at, 0) for key, value in _metrics(manifests, report)]
        self.client.log_batch(run_id, metrics=metrics, params=params)
        files = RunFolder(release.home)
        texts = {
            storage.Uri.parse(files.release).name: release.to_json(),
            storage.Uri.parse(files.report).name: report.to_json(),
        }
        texts |= {f"manifests/{manifest.objective}.json": manifest.to_json() for manifest in manifests}
        for uri in (files.card, files.report_page):  # written by the evaluation
            if storage.exists(uri):
                texts[storage.Uri.parse(uri).name] = storage.read_text(uri)
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)

    # versions and aliases --------------------------------------------------------------------------------------------

    def _find_model(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _find_or_create_version(self, release: Release, *, run_id: str | None) -> ModelVersion:
        """The model version of a release; it is created if there is none."""
        client, name = self.client, release.use_case
        found = client.search_model_versions(f"name = '{name}' and tag.`{TAG}` = '{release.id}'", max_results=1)
        if found:
            return found[0]
        if self._find_model(name) is None:
            client.create_registered_model(name)
        source = release.bundles[0].uri if len(release.bundles) == 1 else release.home
        tags = {TAG: release.id} | {f"bundle.{part.objective}": part.digest for part in release.bundles}
        version = client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)
        failpoint("registry.version")
        return version

    def _set_alias(self, use_case: str, alias: str, wanted: Release | None, current: str | None) -> None:
        if wanted is None:
            if current is not None:
                self.client.delete_registered_model_alias(use_case, alias)
        elif wanted.id != current:
            # A release that was never logged gets a version too, because the ledger has the last word.
            version = self._find_or_create_version(wanted, run_id=None)
            self.client.set_registered_model_alias(use_case, alias, str(version.version))
        failpoint(f"registry.alias.{alias}")

    def _mirror_chain(self, ledger: Ledger, use_case: str) -> None:
        """Store the newest chain in the registry too: it shows if rows are cut off the ledger's end."""
        if history := ledger.promotions(use_case):
            self.client.set_registered_model_tag(use_case, CHAIN, f"{history[-1].version} {history[-1].chain}")


def connect(uri: str) -> MlflowClient:
    """A silent client: no telemetry, no migration log on stderr at the first start."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*noload.*")  # MLflow's mapping under SQLAlchemy 2.1
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if uri.startswith("sqlite:///"):
            storage.make_folder(os.path.dirname(os.path.abspath(uri.removeprefix("sqlite:///"))))
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _ledger_aliases(ledger: Ledger, use_case: str) -> dict[str, Release]:
    releases = {
        "champion": ledger.champion(use_case),
        "challenger": ledger.challenger(use_case),
        "previous": ledger.previous(use_case),
    }
    return {alias: release for alias, release in releases.items() if release is not None}


def _milliseconds(release: Release) -> int:
    return micros(release.created) // 1000


def _params(use_case: UseCase, release: Release, manifests: Sequence[TrainingManifest]) -> Mapping[str, str]:
    """Parameters of the training, the same each time that the same release is logged."""
    params = {
        "config": use_case.digest(),
        "release": release.id,
        "parent": release.parent or "none",
        "cursor": release.cursor.isoformat(),
        "weights": canonical_json(release.weights),
    }
    for manifest in manifests:
        values = manifest.model_dump(mode="json", exclude={"use_case", "objective", "seconds"})
        for key, value in values.items():
            text = value if isinstance(value, str) else canonical_json(value)
            params[f"{manifest.objective}.{key}"] = text[:6000]  # MLflow's limit; the manifest has the full text
    return params


def _metrics(manifests: Sequence[TrainingManifest], report: EvaluationReport) -> Iterator[tuple[str, float]]:
    """Every known figure, because MLflow takes no null."""
    groups: dict[str, Mapping[str, float | None]] = {
        "": report.metrics,
        "champion.": report.champion_metrics,
        "baseline.": report.baselines,
        "model.": {"bytes": report.model_bytes, "milliseconds_per_row": report.milliseconds_per_row},
    }
    if report.verdict.difference is not None:
        groups["difference."] = report.verdict.difference.model_dump(exclude={"level"})
    for manifest in manifests:
        figures = {"rows", "rows_trained", "rehearsal_rows", "seconds", "step0_loss", "parent_loss", "final_loss"}
        groups[f"{manifest.objective}."] = manifest.model_dump(include=figures)
    for prefix, group in groups.items():
        for key, value in group.items():
            if value is not None:
                yield prefix + key, float(value)
