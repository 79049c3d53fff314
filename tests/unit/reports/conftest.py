"""The evaluation report, computed once for each test module."""

import pytest

from evermodel.records import EvaluationReport
from tests.unit.reports import evaluated


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    return evaluated.report(tmp_path_factory.mktemp("releases"))
