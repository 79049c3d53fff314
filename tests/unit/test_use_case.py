"""An error of the use-case file states what is wrong, where, and what would be right."""

import gc
import re
import weakref
from pathlib import Path

import pytest

from evermodel import use_case
from evermodel.errors import UseCaseError
from tests.support import ROOT

ELECTRICITY = (ROOT / "use_cases" / "electricity.yaml").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "use_cases").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_use_case_reads_and_is_named_after_its_file(path: Path) -> None:
    assert use_case.load(path).name == path.stem


@pytest.mark.parametrize(
    ("right", "wrong", "path", "hint"),
    [
        ("hidden: [32", "hiden: [32", "objectives[0].model", "did you mean 'hidden'?"),
        ("share: 0.25", "share: 3", "gate.share = 3", "less than or equal to 1"),
        ("delay: 24h", "delay: 24x", "labels[0].delay = '24x'", "such as 7d"),
        ("field: class", "field: clas", "labels.up.field = 'clas'", "did you mean 'class'?"),
        ("kind: mlp", "kind: mpl", "objectives.up.model.kind = 'mpl'", "did you mean 'mlp'?"),
        (
            "name: transfer, kind",
            "name: transfr, kind",
            "features.transfr.field = 'transfr'",
            "did you mean 'transfer'?",
        ),
        ("metric: accuracy", "metric: acuracy", "evaluation.metric = 'acuracy'", "did you mean 'accuracy'?"),
        ("source: prices}", "source: price}", "predict.source = 'price'", "did you mean 'prices'?"),
        ("framing: binary", "framing: binry", "framing = 'binry'", "'binary'"),
        ("end: 1997-05-05T00:00:00Z", "end: 1995-05-05T00:00:00Z", "training.first", "is not before its end"),
        ("k: 1, n: 1", "k: 2, n: 1", "retraining", "k = 2 is more than n = 1"),
    ],
)
def test_an_error_names_the_line_the_path_the_value_and_the_nearest(
    right: str, wrong: str, path: str, hint: str
) -> None:
    assert right in ELECTRICITY
    text = ELECTRICITY.replace(right, wrong, 1)
    line = text[: text.index(wrong)].count("\n") + 1
    with pytest.raises(UseCaseError) as caught:
        use_case.parse(text, name="e.yaml")
    message = str(caught.value)
    assert re.match(rf"e\.yaml:{line}: ", message), message
    assert path in message and hint in message
    assert message.count("\n") == 0, "one mistake is one line"


@pytest.mark.parametrize(("old", "new"), [("replay_share", "rehearsal_share"), ("replay_span", "rehearsal_span")])
def test_a_renamed_key_names_the_new_one(old: str, new: str) -> None:
    text = ELECTRICITY.replace("  stateful: {", f"  stateful: {{\n    {old}: 0.3, ", 1)
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(UseCaseError, match=rf"^e\.yaml:{line}: training\.stateful: unknown key '{old}'; .*'{new}'"):
        use_case.parse(text, name="e.yaml")


def test_a_dump_has_the_keys_of_the_file() -> None:
    case = use_case.parse(ELECTRICITY)
    assert case.model_dump(mode="json")["monitoring"]["window"] == "7d"
    assert use_case.UseCase.model_validate_json(case.model_dump_json()) == case
    with pytest.raises(UseCaseError, match="unknown key 'window_length'"):
        use_case.parse(ELECTRICITY.replace("window: 7d", "window_length: 7d"))


def test_a_champion_does_not_go_live_before_its_window_is_over() -> None:
    early = ELECTRICITY.replace("  epochs: 10", "  live: 1997-05-04T23:30:00Z\n  epochs: 10", 1)
    with pytest.raises(UseCaseError, match=r"live = 1997-05-04T23:30:00.* is before the first champion's window"):
        use_case.parse(early)
    later = use_case.parse(early.replace("1997-05-04T23:30", "1997-05-06T00:00")).training
    assert later.first is not None and later.live is not None and later.live > later.first.end


def test_an_import_path_is_checked_when_the_file_is_read() -> None:
    with pytest.raises(UseCaseError, match="has no 'dump_al'; did you mean"):
        use_case.parse(ELECTRICITY.replace("kind: mlp", "kind: 'yaml:dump_al'"))
    with pytest.raises(UseCaseError, match=r"must be callable with \(inputs, outputs, options\)"):
        use_case.parse(ELECTRICITY.replace("kind: mlp", "kind: 'os:getpid'"))


def test_the_digest_is_of_the_content_not_of_the_text() -> None:
    case = use_case.parse(ELECTRICITY)
    assert use_case.parse("# another comment\n" + ELECTRICITY).digest() == case.digest()
    assert use_case.parse(ELECTRICITY.replace("margin: 0.1", "margin: 0.2")).digest() != case.digest()


@pytest.mark.parametrize("text", ["250ms", "30s", "5m", "36h", "7d", "2w", "0s"])
def test_durations_round_trip(text: str) -> None:
    micros = use_case.parse_duration(text)
    assert use_case.parse_duration(use_case.format_duration(micros)) == micros


def test_the_schema_for_editors_knows_every_key() -> None:
    schema = use_case.json_schema()
    assert set(schema["properties"]) == set(use_case.UseCase.model_fields)
    assert schema["additionalProperties"] is False


def test_a_text_that_is_no_mapping_is_an_error() -> None:
    for text in ("", "- a", "a: [", "just text"):
        with pytest.raises(UseCaseError):
            use_case.parse(text)
    with pytest.raises(UseCaseError, match="no such use-case file"):
        use_case.load("nowhere.yaml")


# derived values ---------------------------------------------------------------------------------------------------


def test_a_derived_value_is_computed_once_and_freed_with_its_use_case() -> None:
    made: list[str] = []

    @use_case.of_use_case
    def shout(case: use_case.UseCase) -> str:
        made.append(case.name)
        return case.name.upper()

    shop, twin = (use_case.load(ROOT / "use_cases" / "restaurants.yaml") for _ in range(2))
    assert shout(shop) == shout(shop) == "RESTAURANTS" and len(made) == 1
    assert shout(twin) == "RESTAURANTS" and len(made) == 2, "by identity: a comparison of two use cases costs more"
    known = weakref.ref(shop)
    del shop
    gc.collect()
    assert known() is None
