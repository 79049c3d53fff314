"""Declares how Evermodel is served: `app` builds the Ray Serve graph; `config/*.yaml` are Serve configs."""
