"""Do two backtests give the same result? Compares two result files key by key, and prints each key that differs.

    python -m benchmarks.compare_backtests OLD.json NEW.json [--tolerance 0]

Left out: seconds and reason texts. Release ids depend on the code's digest, so they are compared by order of appearance.
Keys that version 0.1 named otherwise are mapped (`replay_*` → `rehearsal_*`). The alerts of a policy are compared in the
order of their windows and kinds. Exit code 1 if anything differs.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IGNORED = {"seconds", "seconds_trained", "reasons"}
IDS = {"champion", "parent", "release"}


def normalised(tree: Any, ids: dict[str, str]) -> Any:
    """The result with today's key names, without what may differ, and with ids numbered in order of appearance."""
    if isinstance(tree, list):
        return [normalised(item, ids) for item in tree]
    if not isinstance(tree, dict):
        return tree
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = key.replace("replay_", "rehearsal_")
        if name in IDS and isinstance(value, str):
            found[name] = ids.setdefault(value, f"release {len(ids)}")
        elif name not in IGNORED:
            found[name] = normalised(value, ids)
    return found


def read(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text())
    for policy in result["policies"]:
        policy["alerts"].sort(key=lambda alert: (alert["end"], alert["start"], alert["kind"]))
        ordered = {"windows": policy["windows"], "retrains": policy["retrains"], "alerts": policy["alerts"]}
        policy.update(normalised(ordered, {}))
    return dict(normalised(result, {}))


def differences(old: Any, new: Any, where: str, tolerance: float) -> Iterator[str]:
    """A line for each place that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                yield f"{where}.{key}: only in {'new' if key not in old else 'old'}"
            else:
                yield from differences(old[key], new[key], f"{where}.{key}", tolerance)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} items, now {len(new)}"
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, after, f"{where}[{index}]", tolerance)
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {old} → {new}"
    elif old != new:
        yield f"{where}: {old!r} → {new!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative, of numbers; 0: equal to the last bit")
    arguments = parser.parse_args()
    old, new = read(arguments.old), read(arguments.new)
    found = list(differences(old, new, old["use_case"], arguments.tolerance))
    for line in found[:50]:
        print(line)
    windows = sum(len(policy["windows"]) for policy in new["policies"])
    runs = sum(len(policy["retrains"]) for policy in new["policies"])
    print(f"{old['use_case']}: {windows} windows, {runs} training runs, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
