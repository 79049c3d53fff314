"""`python -m serving --args JSON`: the graph of `serving.app` in the foreground, until SIGTERM, Ctrl-C or its parent's end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from threading import Event

from evermodel.serving.deployments import AppArgs, start, stop


def main() -> int:
    """Serve with the given arguments; 0 once stopped, with the request log written."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--args", required=True, help="AppArgs as JSON")
    parser.add_argument("--user-config", default="{}", help="ServingConfig as JSON: releases, weights, arms")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    end, parent = Event(), os.getppid()
    args = AppArgs.model_validate_json(options.args)
    start(args, host=options.host, port=options.port, user_config=json.loads(options.user_config))
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, whose own handlers end the process at once
        signal.signal(number, lambda *_: end.set())
    names = ", ".join(args.use_cases)
    sys.stderr.write(f"serving {names} on http://{options.host}:{options.port}; see /docs, /readyz, /metrics\n")
    # a killed parent can't pass a signal on, so its end counts as one
    while not end.wait(1.0) and os.getppid() == parent:
        pass
    stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
