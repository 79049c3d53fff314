"""Kubeflow Pipelines components, one verb a file: each imports, calls and records. The logic is in `evermodel`.

Only the body of a component is sent to the pod, so its imports are inside. Values between components are canonical JSON
strings of `evermodel.records` (a dict parameter would turn ints into floats); data goes by reference. An output that a
condition reads is named `Output`: kfp.local 2.17 finds no other in a condition, and takes the condition as false.
"""

import os
from functools import partial

from kfp import dsl

#: An image without torch, and one with it. For a cluster, set both variables to `name@sha256:…` before compiling.
IMAGE = os.environ.get("EVERMODEL_IMAGE", "evermodel-python:local")
RAY_IMAGE = os.environ.get("EVERMODEL_RAY_IMAGE", IMAGE)
#: If training runs as a RayJob (the profile's `ray_job`), the step only waits for it, and needs no torch.
TRAIN_IMAGE = IMAGE if os.environ.get("EVERMODEL_RAY_JOB") else RAY_IMAGE

component = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)
scoring_component = partial(dsl.component, base_image=RAY_IMAGE, install_kfp_package=False)
training_component = partial(dsl.component, base_image=TRAIN_IMAGE, install_kfp_package=False)
