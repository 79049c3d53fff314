import numpy as np
import pytest

from evermodel.evaluation import calibration


def test_bins_are_half_open_from_below_and_hold_both_ends() -> None:
    scores = np.array([0.0, 0.1, 0.100001, 0.5, 1.0])
    assert calibration.bin_of(scores, bins=10).tolist() == [0, 0, 1, 4, 9]


def test_reliability_leaves_out_empty_bins_and_loses_no_row() -> None:
    points = calibration.reliability(np.array([0.05, 0.95, 0.85, 0.95]), np.array([0.0, 1, 1, 0]))
    assert points == ((0.05, 0.0, 1), (0.85, 1.0, 1), (0.95, 0.5, 2))


def test_a_calibrated_score_has_a_small_error_and_a_shifted_one_its_shift() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 0.8, 100_000)
    outcomes = (rng.random(100_000) < truth).astype(float)
    assert calibration.expected_calibration_error(truth, outcomes) < 0.01
    assert calibration.expected_calibration_error(truth + 0.2, outcomes) == pytest.approx(0.2, abs=0.01)


def test_the_top_class_counts_for_many_classes() -> None:
    confidence, right = calibration.top_class(np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0]))
    assert (confidence.tolist(), right.tolist()) == ([0.7, 0.6], [1.0, 0.0])
