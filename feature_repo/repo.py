"""The Feast objects of every use case of this project. Feast registers module globals only, so each object is one."""

import os
from pathlib import Path

from evermodel import storage, use_case
from evermodel.features.repository import definitions
from evermodel.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
PROFILE = load_profile(None if os.environ.get("EVERMODEL_PROJECT") else ROOT)
CASES = [use_case.load(path) for path in storage.list_files(PROFILE.root / "use_cases", suffix=".yaml")]

globals().update(definitions(CASES, PROFILE.offline_features))
