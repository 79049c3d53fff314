"""The report and the card say what the evaluation found, escaped, with nothing outside the page."""

import re
from pathlib import Path

import numpy as np
import pytest

from evermodel.evaluation.evaluate import evaluate
from evermodel.records import EvaluationReport, TrainingManifest, Window
from evermodel.reports import evaluation as reports
from evermodel.reports.card import model_card
from evermodel.use_case import BehaviourTest, Gate, Slice, UseCase
from tests.unit.evaluation import small


def case() -> UseCase:
    return small.case(
        slices=(Slice(field="shop", minimum_rows=20, max_drop=0.1),),
        behaviour=(BehaviourTest(name="still", kind="invariance", feature="x", set=9.0),),
        gate=Gate(margin=0.05, calibration_error=0.001),
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    folder = tmp_path_factory.mktemp("releases")
    challenger = small.formula(folder, small.by_x)
    champion = small.formula(folder, lambda rows: np.sqrt(small.by_x(rows)), name="champion")
    turn = small.turn(small.table(600, seed=1), small.table(300, seed=2, first=600))
    return evaluate(case(), challenger, champion, turn, now=small.NOW)


def test_markdown_has_every_reason_figure_and_check(found: EvaluationReport) -> None:
    text = reports.markdown(found)
    assert f"**{found.verdict.word}**" in text
    for reason in found.verdict.reasons:
        assert f"- {reason}" in text
    for name in found.metrics:
        assert f"| {name}" in text
    for check in found.verdict.checks:
        assert f"| {check.name} | {check.level} |" in text
    assert "| shop | tiny | 6 | – | – |" in text
    columns = {line.count(" | ") for line in text.split("## Checks")[1].split("##")[0].splitlines() if line}
    assert len(columns) == 1, "every line of a table has as many cells"


def test_html_is_one_page_with_its_pictures_inside(found: EvaluationReport) -> None:
    page = reports.html(found)
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert len(sources) == len(reports.pictures(found)) == 5
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "<script" not in page
    assert found.challenger in page
    for reason in found.verdict.reasons:
        assert reason.split(" against")[0] in page


def test_html_escapes_what_comes_from_data(found: EvaluationReport) -> None:
    part = found.slices[0].model_copy(update={"value": "<img src=x onerror=alert(1)>"})
    page = reports.html(found.model_copy(update={"slices": (part,)}))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_markdown_cells_keep_their_bars(found: EvaluationReport) -> None:
    part = found.slices[0].model_copy(update={"value": "a|b"})
    assert "a\\|b" in reports.markdown(found.model_copy(update={"slices": (part,)}))


def test_the_same_report_draws_the_same_pictures(found: EvaluationReport) -> None:
    less = found.model_copy(update={"slices": (), "roc": ()})
    assert reports.pictures(less) == reports.pictures(less)


def test_where_less_is_better_the_difference_is_turned(found: EvaluationReport) -> None:
    rows = {row[0]: row for row in reports.metric_table(found)}
    _, ours, theirs, better = rows["brier (less is better)"]
    assert float(better) == pytest.approx(float(theirs) - float(ours), abs=1e-4)
    assert rows["auc"][3] == "+0.0000"


def test_a_report_of_nothing_measured_can_be_shown(found: EvaluationReport, tmp_path: Path) -> None:
    def broken(rows: object) -> np.ndarray:
        raise RuntimeError("gone")

    challenger = small.formula(tmp_path, broken)  # type: ignore[arg-type]
    turn = small.turn(small.table(600, seed=1), small.table(300, seed=2, first=600))
    empty = evaluate(case(), challenger, None, turn, now=small.NOW)
    assert reports.pictures(empty) == {}
    assert "raised RuntimeError: gone" in reports.html(empty)
    assert "| auc | – | – | – |" in reports.markdown(empty)


def test_the_card_says_where_it_came_from_and_what_is_not_known(found: EvaluationReport, tmp_path: Path) -> None:
    release = small.formula(tmp_path, small.by_x).release
    manifest = TrainingManifest(
        use_case="small",
        objective="sale",
        mode="stateful",
        windows=(Window(start=small.START, end=small.NOW),),
        rehearsal_rows=120,
        rows=600,
        epochs=2,
        rows_trained=1200,
        row_digest="a" * 64,
        data_version="d" * 64,
        config_digest="c" * 64,
        features=("x", "z"),
        code_version="0.1.0",
        parent="p" * 64,
        seed=7,
        seconds=1.25,
        final_loss=0.4,
        cursor=small.NOW,
    )
    card = model_card(case(), release, [manifest], found)
    for expected in (
        f"# small · {release.id}",
        "| sale | stateful | 2026-01-01T00:00:00Z..2026-03-02T00:00:00Z | 600 | 120 | 2 |",
        f"| sale | `model` | `{'p' * 16}` | `{'d' * 16}` | `{'a' * 16}` |",
        f"The gate said **{found.verdict.word}**",
        "- too few rows to judge: shop: tiny",
        "- calibration: expected calibration error",
        "- behaviour:still: x set 9.0",
    ):
        assert expected in card
