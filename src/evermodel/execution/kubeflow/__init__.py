"""Pipelines on Kubeflow Pipelines. The only package that imports kfp."""
