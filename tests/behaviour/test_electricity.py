"""The loop on real drift: the alert's window reaches the run that it triggers, and the run makes a better live model.

`benchmarks/electricity.py` has the whole comparison (three seeds, from_scratch too); this is one seed of it.
"""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evermodel import bundle, storage, use_case
from evermodel.backtest.backtest import run_backtest
from evermodel.records import Release, Window
from tests.support import ROOT

pytestmark = pytest.mark.slow
ROW = timedelta(minutes=30)


@pytest.fixture(scope="module")
def lived(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("backtest")
    case = use_case.load(ROOT / "use_cases" / "electricity.yaml")
    result = run_backtest(case, data_dir=shared_data, out=out, policies=("stateful", "static"))
    for life in result["policies"]:
        print(life["policy"], life["totals"])
    return out, {life["policy"]: life for life in result["policies"]}


def _window(span: dict[str, str]) -> Window:
    return Window(start=datetime.fromisoformat(span["start"]), end=datetime.fromisoformat(span["end"]))


def test_stateful_retraining_beats_standing_still_by_eight_points(lived: tuple[Path, dict[str, Any]]) -> None:
    lives = lived[1]
    stateful, static = lives["stateful"]["totals"], lives["static"]["totals"]
    assert stateful["metric"] >= static["metric"] + 0.08
    assert static["retrains"] == 0 and static["rows_trained"] == 0
    assert {window["rows"] for window in lives["stateful"]["windows"]} <= {336}


def test_the_first_alert_is_the_drift_and_its_run_trains_on_it_alone(
    lived: tuple[Path, dict[str, Any]], electricity: use_case.UseCase
) -> None:
    life = lived[1]["stateful"]
    first = electricity.training.first
    assert first is not None
    drift = first.end  # row 17,424: three columns that stood still begin to vary
    alert = next(alert for alert in life["alerts"] if alert["kind"] == "feature_drift")
    assert drift <= _window(alert).start < drift + 1440 * ROW
    assert alert["diagnosis"] == "covariate_shift"
    assert {"vicprice", "vicdemand", "transfer"} <= set(alert["evidence"]["columns"])
    run = next(run for run in life["retrains"] if run["trigger"] == {"start": alert["start"], "end": alert["end"]})
    assert all(_window(span).start >= drift for span in run["trained_on"])
    assert _window(run["trained_on"][0]).start <= _window(alert).start < _window(run["trained_on"][-1]).end
    assert run["rehearsal_rows"] > 0 and _window(run["rehearsal_window"]).end <= drift, "older rows only as rehearsal"


def test_the_manifest_in_the_bundle_proves_the_windows(lived: tuple[Path, dict[str, Any]]) -> None:
    out, lives = lived
    for run in lives["stateful"]["retrains"][:3]:
        homes = [path for path in storage.list_files(out / "stateful" / "runs", suffix="release.json")]
        releases = [Release.from_json(storage.read_text(path)) for path in homes]
        release = next(release for release in releases if release.id == run["release"])
        manifest = bundle.open_bundle(release.bundles[0]).manifest
        assert manifest.trigger == _window(run["trigger"])
        assert manifest.windows == tuple(_window(span) for span in run["trained_on"])
        assert manifest.gate_window is not None and manifest.gate_window.start == manifest.windows[-1].end
        assert manifest.parent is not None and manifest.mode == "stateful"


def test_every_stateful_run_starts_where_the_champion_stands(lived: tuple[Path, dict[str, Any]]) -> None:
    for run in lived[1]["stateful"]["retrains"]:
        assert run["step0_loss"] == pytest.approx(run["parent_loss"], abs=1e-5)


def test_a_held_or_rejected_run_moves_neither_champion_nor_cursor(lived: tuple[Path, dict[str, Any]]) -> None:
    runs = lived[1]["stateful"]["retrains"]
    assert {"promote", "hold"} <= {run["verdict"] for run in runs}
    for run, after in pairwise(runs):
        promoted = run["verdict"] == "promote"
        assert after["parent"] == (run["release"] if promoted else run["parent"])
        if promoted:
            assert after["trained_on"][0]["start"] == run["gate_window"]["start"], "the gate's rows come next"
        else:
            assert after["trained_on"][0]["start"] == run["trained_on"][0]["start"]


def test_every_window_was_served_by_the_champion_of_its_moment(lived: tuple[Path, dict[str, Any]]) -> None:
    life = lived[1]["stateful"]
    promoted = {run["at"]: run["release"] for run in life["retrains"] if run["verdict"] == "promote"}
    champion = life["windows"][0]["champion"]
    for window in life["windows"]:
        champion = promoted.get(window["start"], champion)
        assert window["champion"] == champion
