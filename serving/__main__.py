"""`python -m serving --args JSON`: the graph of `serving.app` in the foreground, until SIGTERM, Ctrl-C or its parent's end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from threading import Event

from serving.app import AppArgs, start


def main() -> int:
    """Serve what the arguments say; 0 once stopped, with the request log written."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--args", required=True, help="AppArgs as JSON")
    parser.add_argument("--user-config", default="{}", help="LiveConfig as JSON: releases, weights, arms")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    said = parser.parse_args()
    end, parent = Event(), os.getppid()
    args = AppArgs.model_validate_json(said.args)
    start(args, host=said.host, port=said.port, user_config=json.loads(said.user_config))
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which sets its own and would end without a word
        signal.signal(number, lambda *_: end.set())
    names = ", ".join(args.use_cases)
    sys.stderr.write(f"serving {names} on http://{said.host}:{said.port}; see /docs, /readyz, /metrics\n")
    # a parent that is killed can't pass the signal on: its end is the same as one
    while not end.wait(1.0) and os.getppid() == parent:
        pass
    stop()
    return 0


def stop() -> None:
    """Let requests finish and logs be written, then end."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
