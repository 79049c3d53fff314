"""Detectors give river's published results, and find the known drifts of synthetic streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evermodel.errors import DataError
from evermodel.monitoring import detectors


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> dict[str, Any]:
    return dict(json.loads((shared_data / "drift" / "reference_vectors.json").read_text()))


@pytest.mark.parametrize(
    ("name", "parameters", "key"),
    [
        ("adwin", {"delta": 0.002, "clock": 32}, "ADWIN(delta=.002,clock=32)"),
        ("page_hinkley", {}, "PageHinkley(default)"),
        ("kswin", {"alpha": 0.0001, "seed": 42}, "KSWIN(alpha=.0001,seed=42)"),
    ],
)
def test_detectors_of_numbers(vectors: dict[str, Any], name: str, parameters: dict[str, Any], key: str) -> None:
    given = vectors["river_stream_A"]
    assert detectors.detect(name, given["stream"], **parameters) == given[key]


@pytest.mark.parametrize(
    ("name", "parameters", "key"),
    [
        ("ddm", {}, "DDM_drift,first_warning"),
        ("eddm", {"alpha": 0.8, "beta": 0.75}, "EDDM(.8,.75)"),
        ("hddm_a", {}, "HDDM_A"),
        ("hddm_w", {}, "HDDM_W"),
    ],
)
def test_detectors_of_errors(vectors: dict[str, Any], name: str, parameters: dict[str, Any], key: str) -> None:
    given = vectors["river_stream_B"]
    drifts, first_warning = given[key]
    assert detectors.detect(name, given["stream"], **parameters) == drifts
    assert detectors.warnings(name, given["stream"], **parameters)[0] == first_warning


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("sine_0123_abrupto", {10_000, 20_000, 30_000}),
        # With 20 % noise the frozen tree loses 3, −2 and 5 points at the three drifts: only the last is clear.
        ("sea_0123_abrupto_noise_0.2", {30_000}),
    ],
)
def test_adwin_finds_known_drifts_in_a_models_errors(shared_data: Path, stream: str, expected: set[int]) -> None:
    """A model of the first 8,000 rows; the concept changes at rows 10,000, 20,000 and 30,000."""
    from sklearn.tree import DecisionTreeClassifier

    table = pd.read_csv(shared_data / "drift" / f"{stream}.csv.gz")
    values, labels = table.drop(columns="class").to_numpy(), table["class"].to_numpy()
    model = DecisionTreeClassifier(max_depth=8, random_state=0).fit(values[:8000], labels[:8000])
    errors = (model.predict(values[8000:]) != labels[8000:]).astype(int)
    found = np.array(detectors.detect("adwin", errors)) + 8000
    assert {drift for drift in expected if ((found >= drift) & (found < drift + 1500)).any()} == expected
    assert not (found < 10_000).any()


def test_an_error_names_the_nearest_detector_or_the_wrong_parameter() -> None:
    with pytest.raises(DataError, match="did you mean 'adwin'"):
        detectors.detect("adwinn", [0, 1])
    with pytest.raises(DataError, match="delte"):
        detectors.detect("adwin", [0, 1], delte=0.1)
    with pytest.raises(DataError, match=r"position 1 holds 0\.5"):
        detectors.detect("ddm", [0, 0.5])
    with pytest.raises(DataError, match="no warning zone"):
        detectors.warnings("adwin", [0, 1])
