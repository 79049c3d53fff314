"""Serving: answers over HTTP by the champion, or scores of a whole window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evermodel import storage
from evermodel.errors import InputError
from evermodel.features import training_set as training_sets
from evermodel.records import Window, canonical_json
from evermodel.run_folder import RunFolder
from evermodel.workflow.project import Project


def predict_batch(project: Project, reference: str, *, window: Window | None, now: datetime) -> str:
    """Score a window's rows with the champion; the URI of the Parquet folder. In this process, or on a Ray cluster of its own."""
    from evermodel.execution import entrypoint

    uri, case = project.find(reference)
    champion = project.ledger().champion(case.name)
    if champion is None or window is None:
        raise InputError(f"{case.name}: batch prediction needs a champion and a window (START..END)")
    rows = training_sets.build_rows(case, project.log(case), window=window, now=now, labelled=False)
    home = project.profile.place(case.name, "predictions", champion.id, str(window).replace(":", ""))
    rows_uri = storage.join(home, "rows.parquet")
    digest = storage.write_table(rows_uri, rows)
    batch = entrypoint.BatchRequest(
        use_case_uri=uri,
        use_case_digest=case.digest(),
        release=champion,
        rows_uri=rows_uri,
        rows_digest=digest,
        out_uri=storage.join(home, "scores"),
    )
    if project.profile.ray_job:
        from evermodel.execution.ray_job import run_ray_job

        storage.write_text(RunFolder(home).batch, batch.to_json())
        run_ray_job(project.profile, "predict-batch", home, key=batch.content_digest()[:16], use_case=case.name)
    else:
        profile = project.profile
        entrypoint.predict_batch(batch, num_actors=max(profile.num_workers, 1), num_gpus=profile.gpus_per_worker)
    return batch.out_uri


def serve(project: Project, names: Sequence[str], *, port: int, simulated_time: bool) -> int:
    """Answer over HTTP until interrupted, by the project's `serving` app and with the project's places; its exit status."""
    import subprocess
    import sys

    from evermodel.execution.launch import environment

    found = [project.find(name) for name in names]
    arguments = {
        "use_cases": {case.name: uri for uri, case in found},
        "state": project.profile.state_uri,
        "ledger": project.profile.ledger_url,
        "online_store": project.profile.online_features,
        "online_store_password_file": project.profile.online_store_password_file,
        "simulated_time": simulated_time,
        "flush_seconds": 1.0,
    }
    command = [sys.executable, "-m", "serving", "--port", str(port), "--args", canonical_json(arguments)]
    return subprocess.call(command, cwd=project.profile.root, env=environment(project.profile))
