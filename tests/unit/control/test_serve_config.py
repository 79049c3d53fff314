"""Reading and setting releases in a Serve config."""

import pytest
import yaml

from evermodel.control.rollout.serve_config import configured_releases, with_releases
from evermodel.errors import EvermodelError

CONFIG = """
proxy_location: EveryNode
applications:
  - name: evermodel
    import_path: serving.app:build
    args:
      use_cases: {shop: s3://b/shop.yaml, guide: s3://b/guide.yaml}
      model_replicas: 2
    deployments:
      - {name: Ingress, num_replicas: 2}
      - name: Models
        num_replicas: 2
        user_config:
          use_cases:
            shop: {weights: {buy: 2.0}, arms: {canary: {release: s3://b/c.json, share: 0.1}}}
"""
A, B = "s3://b/a/release.json", "s3://b/b/release.json"


def test_setting_a_release_changes_nothing_else() -> None:
    changed = yaml.safe_load(with_releases(CONFIG, {"shop": A, "guide": B}))
    before = yaml.safe_load(CONFIG)
    models = changed["applications"][0]["deployments"][1]
    assert models["user_config"]["use_cases"] == {
        "shop": {
            "weights": {"buy": 2.0},
            "arms": {"canary": {"release": "s3://b/c.json", "share": 0.1}},
            "release": A,
        },
        "guide": {"release": B},
    }
    models["user_config"] = before["applications"][0]["deployments"][1]["user_config"]
    assert changed == before


def test_a_config_with_the_same_releases_keeps_its_text() -> None:
    once = with_releases(CONFIG, {"shop": A})
    assert with_releases(once, {"shop": A}) == once
    assert with_releases(CONFIG, {}) == CONFIG
    assert configured_releases(once) == {"shop": A, "guide": None}


def test_a_use_case_that_is_not_served_is_not_added() -> None:
    """Serving rejects a `user_config` with an unknown name as a whole."""
    assert with_releases(CONFIG, {"elsewhere": A}) == CONFIG
    assert "elsewhere" not in with_releases(CONFIG, {"elsewhere": A, "shop": A})


def test_a_missing_models_deployment_is_added() -> None:
    bare = "applications: [{name: evermodel, args: {use_cases: {shop: x}}}]"
    assert configured_releases(with_releases(bare, {"shop": A})) == {"shop": A}


@pytest.mark.parametrize("text", ["", "[", "- a", "applications"])
def test_an_invalid_config_is_refused(text: str) -> None:
    with pytest.raises(EvermodelError, match="serveConfigV2"):
        configured_releases(text)
