"""Kubeflow Pipelines components: one verb a file. Each imports, calls and records; the logic is in `evermodel`.

Only the body of a component travels to the pod, so it imports what it needs inside. Values between components are
canonical JSON strings of `evermodel.artifacts` (a dict parameter would turn ints into floats); data goes by reference.
An output that a condition looks at is named `Output`: kfp.local 2.17 finds no other in a condition, and takes it as false.
"""

import os
from functools import partial

from kfp import dsl

#: Set EVERMODEL_IMAGE to `name@sha256:…` when compiling for a cluster.
IMAGE = os.environ.get("EVERMODEL_IMAGE", "evermodel-python:local")

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
