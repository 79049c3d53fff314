"""Kubeflow Pipelines components: one verb a file. Each imports, calls and records; the logic is in `evermodel`.

Only the body of a component travels to the pod, so it imports what it needs inside. Values between components are
canonical JSON strings of `evermodel.records` (a dict parameter would turn ints into floats); data goes by reference.
An output that a condition looks at is named `Output`: kfp.local 2.17 finds no other in a condition, and takes it as false.
"""

import os
from functools import partial

from kfp import dsl

#: Set both to `name@sha256:…` when compiling for a cluster: an image without torch, and one with it.
IMAGE = os.environ.get("EVERMODEL_IMAGE", "evermodel-python:local")
RAY_IMAGE = os.environ.get("EVERMODEL_RAY_IMAGE", IMAGE)
#: Where training has a Ray cluster of its own (the profile's `ray_job`), the step only waits for it.
TRAIN_IMAGE = IMAGE if os.environ.get("EVERMODEL_RAY_JOB") else RAY_IMAGE

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
scoring_component = partial(dsl.component, base_image=RAY_IMAGE, install_kfp_package=False)
training_component = partial(dsl.component, base_image=TRAIN_IMAGE, install_kfp_package=False)
