"""Asks each target once a second until it answers, for a minute: `http://…` with 200, `tcp://host:port` with a connection.

`--guarded URL` must answer 401 without the token of `--token-file`, and something else with it.
"""

import argparse
import socket
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PATIENCE = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--guarded")
    parser.add_argument("--token-file", type=Path)
    said = parser.parse_args()
    failed = [target for target in said.targets if not reached(target)]
    if said.guarded:
        token = said.token_file.read_text().strip()
        without, with_it = status(said.guarded, None), status(said.guarded, token)
        print(f"{said.guarded}: {without} without a token, {with_it} with it")  # noqa: T201
        if without != 401 or with_it in (401, 403):
            failed.append(said.guarded)
    return 1 if failed else 0


def reached(target: str) -> bool:
    end, why = time.monotonic() + PATIENCE, ""
    while time.monotonic() < end:
        try:
            where = urlsplit(target)
            if where.scheme == "tcp":
                socket.create_connection((where.hostname, where.port), timeout=5).close()
                print(f"{target}: reached")  # noqa: T201
                return True
            if (code := status(target, None)) == 200:
                print(f"{target}: 200")  # noqa: T201
                return True
            why = str(code)
        except OSError as error:
            why = str(error)
        time.sleep(1)
    print(f"{target}: not reached: {why}")  # noqa: T201
    return False


def status(url: str, token: str | None) -> int:
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


if __name__ == "__main__":
    sys.exit(main())
