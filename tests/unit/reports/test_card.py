"""The model card names where a release comes from and what isn't known of it."""

from pathlib import Path

from evermodel.records import EvaluationReport, TrainingManifest, Window
from evermodel.reports.card import render_card
from tests.unit.evaluation import small
from tests.unit.reports import evaluated


def test_the_card_says_where_it_came_from_and_what_is_not_known(report: EvaluationReport, tmp_path: Path) -> None:
    release = small.release(tmp_path, small.by_x).release
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
    card = render_card(evaluated.use_case(), release, [manifest], report)
    for expected in (
        f"# small · {release.id}",
        "| sale | stateful | 2026-01-01T00:00:00Z..2026-03-02T00:00:00Z | 600 | 120 | 2 |",
        f"| sale | `model` | `{'p' * 16}` | `{'d' * 16}` | `{'a' * 16}` |",
        f"The gate's verdict is **{report.verdict.word}**",
        "- too few rows to judge: shop: tiny",
        "- calibration: expected calibration error",
        "- behaviour:still: x set 9.0",
    ):
        assert expected in card
