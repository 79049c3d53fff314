"""How often, and how, should the electricity model be retrained? Three seeds, three policies, real data.

    python -m benchmarks.electricity [--data DIR] [--seeds 0 1 2]

Claims, on the mean of the seeds: stateful retraining is at least 8 points of accuracy above a static model and at least
from_scratch − 1 point, with at most a tenth of its rows × epochs. Takes some minutes: from_scratch refits on everything.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from evermodel import use_case
from evermodel.backtest.backtest import POLICIES, run_backtest

ROOT = Path(__file__).resolve().parents[1]


def live(seed: int, data: Path) -> dict[str, dict[str, Any]]:
    """One replay: the totals of each policy."""
    case = use_case.with_seed(use_case.load(ROOT / "use_cases" / "electricity.yaml"), seed)
    with tempfile.TemporaryDirectory() as out:
        result = run_backtest(case, data_dir=data, out=out)
    return {life["policy"]: life["totals"] for life in result["policies"]}


def main() -> int:
    """Print a line for each seed and policy, the means, and whether the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped: the real data is not here ({arguments.data})")
        return 0
    lives = []
    for seed in arguments.seeds:
        lives.append(live(seed, arguments.data))
        for name in POLICIES:
            totals = lives[-1][name]
            print(
                f"seed {seed} {name:<12} accuracy {totals['metric']:.4f}  retrains {totals['retrains']:>3}  "
                f"rows x epochs {totals['rows_trained']:>11,}  {totals['seconds_trained']:.1f} s",
                flush=True,
            )
    mean = {name: sum(life[name]["metric"] for life in lives) / len(lives) for name in POLICIES}
    rows = {name: sum(life[name]["rows_trained"] for life in lives) for name in POLICIES}
    share = rows["stateful"] / rows["from_scratch"]
    print(f"mean: {', '.join(f'{name} {value:.4f}' for name, value in mean.items())}")
    print(f"stateful - static {mean['stateful'] - mean['static']:+.4f} (at least +0.08)")
    print(f"stateful - from_scratch {mean['stateful'] - mean['from_scratch']:+.4f} (at least -0.01)")
    print(f"rows x epochs of stateful / from_scratch {share:.4f} (at most 0.1)")
    holds = mean["stateful"] >= mean["static"] + 0.08 and mean["stateful"] >= mean["from_scratch"] - 0.01
    return 0 if holds and share <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
