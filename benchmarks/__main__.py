"""`python -m benchmarks [NAME …]`: run the claims one after another, each in a process of its own; 1 if one doesn't hold."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run what is named, or everything; each prints its own figures."""
    known = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    wanted = sys.argv[1:] or known
    if unknown := set(wanted) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    print(f"do not hold: {', '.join(failed)}" if failed else f"all {len(wanted)} hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
