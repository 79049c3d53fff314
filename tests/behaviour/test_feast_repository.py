"""The Feast repository works: apply, plan, online and historical reads give the same values as Evermodel."""

import os
import shutil
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml

from evermodel import use_case
from evermodel.features.online_store import OnlineStore, materialize, views
from evermodel.features.packed_store import PackedStore
from evermodel.profile import load_profile
from tests.support import ROOT
from tests.support.online_shop import CASE, START, shop_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the use case of `online_shop`, two materialisations, and Feast's registry applied."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "feature_repo", root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "evermodel.yaml").write_text("")
    (root / "use_cases").mkdir()
    (root / "use_cases" / "shop.yaml").write_text(
        yaml.safe_dump(CASE.model_dump(mode="json", exclude_none=True), sort_keys=False)
    )
    profile = load_profile(root)
    log = shop_log(profile.place("shop", "events"))
    store = PackedStore(profile.online_features)
    for day in (3, 5):
        materialize(CASE, log, store, offline_root=profile.offline_features, now=START + timedelta(days=day))
    store.close()
    _feast(root, "apply")
    return root


def _feast(root: Path, *words: str) -> str:
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    command = [str(Path(sys.executable).with_name("feast")), *words]
    done = subprocess.run(
        command, cwd=root / "feature_repo", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_feast_has_every_definition_and_the_same_values(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "feature_repo")  # the registry's path is relative to it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of Feast's dependencies
        from feast import FeatureStore

        from evermodel.features.repository import definitions

        profile = load_profile(project)
        case = use_case.load(project / "use_cases" / "shop.yaml")
        store = FeatureStore(repo_path=str(project / "feature_repo"))
        wanted = set(definitions([case], profile.offline_features))
        found = {
            item.name for item in (*store.list_entities(), *store.list_feature_views(), *store.list_feature_services())
        }
        found |= {source.name for source in store.list_data_sources()}
        assert wanted <= found, f"Feast registered none of {wanted - found}"
        view = views(case)[0]
        keys = ["u1", "u5", "nobody"]
        columns = [f"{view.name}:{name}" for name in view.features]
        online = store.get_online_features(columns, [{"user": key} for key in keys]).to_dict()
        ours = OnlineStore(case, profile.online_features).read("user", keys, timeout_s=1)
        for name in view.features:
            assert online[name] == ours[name].to_pylist(), name
        entities = pd.DataFrame({"user": ["u1", "u1"], "event_timestamp": [START + timedelta(days=d) for d in (4, 6)]})
        history = store.get_historical_features(entities, columns).to_df().sort_values("event_timestamp")
    assert history["visits_3d"].tolist()[1] == ours["visits_3d"][0].as_py(), "the newest materialisation"
    assert history["visits_3d"].notna().all()


def test_a_second_plan_finds_nothing_to_change(project: Path) -> None:
    assert "No changes to registry" in _feast(project, "plan")
