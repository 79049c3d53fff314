"""How and where a job runs: in a subprocess, as a Kubernetes Job, as a RayJob, or on Kubeflow Pipelines."""
