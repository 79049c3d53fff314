"""Compile pipelines to the IR YAML of Kubeflow Pipelines."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from evermodel import storage

Pipeline: TypeAlias = BaseComponent


def compile_pipeline(pipeline: Pipeline, package: Path) -> None:
    """Write one pipeline's IR YAML to `package`."""
    compiler.Compiler().compile(pipeline, str(package))


def compile_pipelines(pipelines: Mapping[str, Pipeline], out: Path) -> Iterator[Path]:
    """Write each pipeline's IR YAML into the folder `out`; yields the path of each."""
    storage.make_folder(out)
    for name, pipeline in pipelines.items():
        package = out / f"{name}.yaml"
        compile_pipeline(pipeline, package)
        yield package
