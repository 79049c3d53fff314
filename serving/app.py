"""The Ray Serve app. The graph is in `evermodel.serving.deployments`.

serve run serving/config/local.yaml          # or, with a project's own places: python -m serving
"""

# No `from __future__ import annotations`: Serve reads the class of `build`'s argument from its annotation.
from ray import serve

from evermodel.serving.deployments import AppArgs, graph


def build(args: AppArgs) -> serve.Application:
    """The graph: Ingress → Models. Serve calls it with the `args` of its config file."""
    return graph(args)
