"""Feast's view of every use case of this project. Feast registers module globals only, so each object becomes one."""

from pathlib import Path

from evermodel import use_case
from evermodel.features.repository import definitions
from evermodel.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
CASES = [use_case.load(path) for path in sorted((ROOT / "use_cases").glob("*.yaml"))]

globals().update(definitions(CASES, load_profile(ROOT).offline_features))
