"""Removes the RayServices, RayJobs and pipeline Jobs of one release, and waits until their Ray clusters are gone.

They would outlive the release otherwise: RayJobs aren't Helm's, and a cluster with fault tolerance has a finalizer that
needs its Redis, which Helm would remove first. Run by the chart before an uninstall; ends when nothing is left.
"""

import argparse
import sys
import time

from kubernetes import client, config

RAY = ("ray.io", "v1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--instance", required=True)
    said = parser.parse_args()
    config.load_incluster_config()
    ray, batch = client.CustomObjectsApi(), client.BatchV1Api()
    ours = f"app.kubernetes.io/instance={said.instance}"
    pipelines = f"{ours},app.kubernetes.io/component=pipeline"
    roots: dict[str, set[str]] = {"RayService": set(), "RayJob": set()}
    while True:
        # pipelines first: one that still runs would start another RayJob
        jobs = batch.list_namespaced_job(said.namespace, label_selector=pipelines).items
        for job in jobs:
            gone(batch.delete_namespaced_job, job.metadata.name, said.namespace, propagation_policy="Background")
        left = [f"Job {job.metadata.name}" for job in jobs]
        for kind, plural in (("RayService", "rayservices"), ("RayJob", "rayjobs")):
            found = ray.list_namespaced_custom_object(*RAY, said.namespace, plural, label_selector=ours)["items"]
            for item in found:
                name = item["metadata"]["name"]
                roots[kind].add(name)
                left.append(f"{kind} {name}")
                if "deletionTimestamp" not in item["metadata"]:
                    gone(ray.delete_namespaced_custom_object, *RAY, said.namespace, plural, name)
        for item in ray.list_namespaced_custom_object(*RAY, said.namespace, "rayclusters")["items"]:
            labels = item["metadata"].get("labels", {})
            if labels.get("ray.io/originated-from-cr-name") in roots.get(
                labels.get("ray.io/originated-from-crd", ""), ()
            ):
                left.append(f"RayCluster {item['metadata']['name']}")
        if not left:
            return 0
        print("still there: " + ", ".join(left), flush=True)  # noqa: T201
        time.sleep(2)


def gone(delete, *args, **options) -> None:  # type: ignore[no-untyped-def]
    """Delete; that it is gone already is what was asked for."""
    try:
        delete(*args, **options)
    except client.ApiException as error:
        if error.status != 404:
            raise


if __name__ == "__main__":
    sys.exit(main())
