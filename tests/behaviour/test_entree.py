"""Entree: a model must beat counting transitions, or it isn't worth serving; and a stateful turn must not forget.

The stages are the real ones: ingest → rows with lags in the session → turn → two-tower → bundle → scores of 1998-Q3.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from evermodel import bundle, use_case
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest
from evermodel.evaluation.baselines import Baseline, baselines
from evermodel.evaluation.bootstrap import paired
from evermodel.evaluation.evaluate import gate_rows
from evermodel.evaluation.metrics import Sample, figure, sample_of
from evermodel.features.training_set import TrainingRows, rows, training_rows
from evermodel.records import Interval, Window
from evermodel.retraining.rounds import run_round
from evermodel.serving.online_features import GivenFeatures, stored_columns
from evermodel.serving.predictor import Predictor
from evermodel.training.release import TrainedRelease, train_release
from evermodel.training.torch.model import NetworkModel
from evermodel.use_case import UseCase
from tests.support import ROOT

pytestmark = pytest.mark.slow

KNOWN = datetime(1998, 10, 5, tzinfo=UTC)  # after the last session, and its label's day
SPRING = datetime(1998, 4, 1, tzinfo=UTC)
SUMMER = datetime(1998, 7, 1, tzinfo=UTC)
AUTUMN = datetime(1998, 10, 1, tzinfo=UTC)
LEAST_HIT_RATE = 0.78


@pytest.fixture(scope="module")
def entree() -> UseCase:
    return use_case.load(ROOT / "use_cases" / "entree.yaml")


@pytest.fixture(scope="module")
def log(entree: UseCase, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    made = EventLog(str(tmp_path_factory.mktemp("entree")))
    report = ingest(entree, "steps", made, data_dir=shared_data, now=KNOWN)
    assert (report.applied, report.rejected) == (129_235, 0)
    return made


@pytest.fixture(scope="module")
def history(entree: UseCase, log: EventLog) -> pa.Table:
    return rows(entree, log, window=None, now=KNOWN)


@pytest.fixture(scope="module")
def test(entree: UseCase, history: pa.Table) -> pa.Table:
    """The last steps of the sessions of 1998-Q3 whose end is known."""
    judged = gate_rows(entree, between(history, SUMMER, AUTUMN))
    assert judged.num_rows == 4_103
    return judged


@pytest.fixture(scope="module")
def summer(
    entree: UseCase, log: EventLog, history: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingRows, TrainedRelease]:
    """The first champion of the file: of every session before July 1998."""
    return trained_until(entree, log, history, SUMMER, tmp_path_factory.mktemp("summer"))


def between(table: pa.Table, start: datetime, end: datetime) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table["event_time"], start), pc.less(table["event_time"], end)))


def trained_until(
    case: UseCase, log: EventLog, history: pa.Table, end: datetime, out: Path
) -> tuple[TrainingRows, TrainedRelease]:
    """The first champion, of the sessions before `end`."""
    first = case.training.first
    assert first is not None
    turn = training_rows(
        case,
        log,
        windows=[Window(start=first.start, end=end)],
        now=KNOWN,
        champion_cursor=None,
        mode="from_scratch",
        seed=case.training.seed,
        rows=history,
    )
    made = train_release(case, turn, parent=None, mode="from_scratch", trigger=None, now=KNOWN, out=str(out))
    return turn, made


def hit_rate(case: UseCase, known: Sample) -> float:
    found = figure("hr", known, k=case.evaluation.k)
    assert found is not None
    return found


def judged_release(case: UseCase, release: bundle.OpenRelease, test: pa.Table) -> Sample:
    return sample_of(case, test, release.score(test), classes=release.classes)


def by_item_and_operation(train: pa.Table, test: pa.Table, by_item: Baseline) -> NDArray[np.float64]:
    """Transitions counted by (item, operation), with back-off: the item's own transitions break ties and fill gaps."""
    assert by_item.scores is not None
    place = {name: index for index, name in enumerate(by_item.classes)}
    seen: dict[str, Counter[str]] = {}
    for key, following in zip(train["item_operation"].to_pylist(), train["label:next"].to_pylist(), strict=True):
        seen.setdefault(key, Counter())[following] += 1
    scores = by_item.scores.copy()  # below 1 each: one transition of the same item and operation counts for more
    for row, key in zip(scores, test["item_operation"].to_pylist(), strict=True):
        for following, count in seen.get(key, {}).items():
            row[place[following]] += count
    return scores


def test_the_two_tower_beats_transitions(
    entree: UseCase, test: pa.Table, summer: tuple[TrainingRows, TrainedRelease]
) -> None:
    turn, made = summer
    release = bundle.open_release(made.release)
    model = judged_release(entree, release, test)
    every_step = pa.concat_tables([turn.train, turn.gate])  # the baselines see the gate's rows too: all before July
    assert every_step.num_rows == 108_942 and pc.sum(every_step["final"]).as_py() == 26_427
    rng = np.random.default_rng(0)
    named = {one.name: one for one in baselines(entree, every_step, test, metric="hr", fitted=False, rng=rng)}
    transition = named["transition"]
    finer = Baseline("(item, operation)", by_item_and_operation(every_step, test, transition), transition.classes)
    rivals = {
        name: sample_of(entree, test, one.scores, classes=one.classes)
        for name, one in {**named, finer.name: finer}.items()
        if one.scores is not None
    }
    intervals: dict[str, Interval | None] = {
        name: paired("hr", model, rivals[name], k=10, threshold=0.5, resamples=2000, confidence=0.95, rng=rng)
        for name in ("transition", finer.name)
    }
    print(
        f"\n{turn.train.num_rows} steps trained on in {made.seconds:.1f} s; HR@10 of {test.num_rows} last steps of 1998-Q3:"
    )
    print(f"  two_tower {hit_rate(entree, model):.4f}")
    for name, known in rivals.items():
        low_high = f"; paired difference [{one.low:+.4f}, {one.high:+.4f}]" if (one := intervals.get(name)) else ""
        print(f"  {name} {hit_rate(entree, known):.4f}{low_high}")
    assert hit_rate(entree, rivals["popularity"]) == pytest.approx(0.12, abs=0.01)
    assert hit_rate(entree, rivals["transition"]) == pytest.approx(0.70, abs=0.005)
    assert hit_rate(entree, rivals[finer.name]) == pytest.approx(0.744, abs=0.005)
    assert all(one is not None and one.low > 0 for one in intervals.values())
    assert hit_rate(entree, model) >= LEAST_HIT_RATE
    assert "-1" not in release.classes and "0" in release.classes, "an unknown end is no class, restaurant 0 is one"
    assert set(release.classes) == set(turn.train["label:next"].to_pylist())


def test_serving_ranks_the_catalogue_as_the_offline_path_does(
    entree: UseCase, test: pa.Table, summer: tuple[TrainingRows, TrainedRelease]
) -> None:
    release = bundle.open_release(summer[1].release)
    patient = entree.model_copy(update={"serving": entree.serving.model_copy(update={"deadline": 10_000_000})})
    asked = test.slice(0, 50)
    offline = release.score(asked)
    (lags,) = stored_columns(entree).values()
    hits = 0
    for row, scores in zip(asked.to_pylist(), offline, strict=True):
        known = {**{name: row[name] for name in lags}, "event_time": row["event_time"]}
        live = Predictor(patient, release, GivenFeatures(entree, {"session": {row["session"]: known}}))
        request = {name: row[name] for name in ("session", "user", "entry", "step", "item", "operation")}
        (answer,) = live.rank(request, None, now=row["event_time"], k=10)
        assert not answer.fallback and answer.classes is not None and answer.class_scores is not None
        assert answer.classes == tuple(release.classes[place] for place in np.argsort(-scores, kind="stable")[:10])
        assert answer.class_scores == pytest.approx(np.sort(scores)[::-1][:10])
        hits += row["label:next"] in answer.classes
    print(f"\nserved top ten of {asked.num_rows} rows: {hits} hold the restaurant where the session ended")
    assert hits / asked.num_rows > 0.6


def test_a_quarter_later_it_goes_on_from_where_it_was(
    entree: UseCase, log: EventLog, history: pa.Table, test: pa.Table, tmp_path: Path
) -> None:
    _, made = trained_until(entree, log, history, SPRING, tmp_path / "first")
    parent = bundle.open_release(made.release)
    spring = Window(start=SPRING, end=SUMMER)
    fresh = training_rows(
        entree,
        log,
        windows=[spring],
        now=KNOWN,
        champion_cursor=made.release.cursor,
        mode="stateful",
        seed=entree.training.seed,
        rows=history,
    )
    turn = run_round(
        entree, fresh, champion=parent, mode="stateful", trigger=spring, now=KNOWN, out=str(tmp_path / "second")
    )
    (manifest,) = turn.trained.manifests
    assert manifest.step0_loss == pytest.approx(manifest.parent_loss, abs=1e-5)
    assert manifest.parent_loss == pytest.approx(parent.bundles["next"].loss(fresh.train), abs=1e-5)
    before, after = (vocabulary(one, "item_operation") for one in (parent, turn.challenger))
    assert after[: len(before)] == before and len(after) > len(before), "old ids stay, new values get new ones"
    old, new = (hit_rate(entree, judged_release(entree, one, test)) for one in (parent, turn.challenger))
    print(
        f"\nstep 0 loss {manifest.step0_loss:.6f}, parent's {manifest.parent_loss:.6f} on {fresh.train.num_rows} new rows; "
        f"{manifest.rehearsal_rows} replayed; {len(after) - len(before)} new (item, operation), "
        f"{len(turn.challenger.classes) - len(parent.classes)} new classes; HR@10 on 1998-Q3: parent {old:.4f}, "
        f"after the turn {new:.4f}; rows trained {manifest.rows_trained} against {made.rows_trained}; "
        f"verdict {turn.report.verdict.word}"
    )
    assert new >= old - 0.01
    assert manifest.rows_trained <= made.rows_trained / 4


def vocabulary(release: bundle.OpenRelease, column: str) -> tuple[object, ...]:
    scorer = release.bundles["next"].scorer
    assert isinstance(scorer, NetworkModel)
    (found,) = (encoder for encoder in scorer.transforms.ids if encoder.name == column)
    return tuple(found.values)
