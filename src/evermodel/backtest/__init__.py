"""Run a history as if it were happening, once for each retraining policy: how often should I retrain, and how?"""

from evermodel.backtest.backtest import POLICIES, PolicyName, run_backtest

__all__ = ["POLICIES", "PolicyName", "run_backtest"]
