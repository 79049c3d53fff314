from evermodel.serving.fallback import Fallback, FallbackScore
from evermodel.use_case import UseCase
from tests.unit.serving.serving_cases import shop, view


def fallback_score(score: float) -> FallbackScore:
    return FallbackScore(score, {"buy": score, "earn": 0.0})


def with_heuristic(path: str | None) -> UseCase:
    case = shop()
    return case.model_copy(update={"evaluation": case.evaluation.model_copy(update={"heuristic": path})})


def first_price(columns: dict[str, object]) -> list[float]:
    return [float(columns["price"][0]) * 2]  # type: ignore[index]


def broken(columns: dict[str, object]) -> list[float]:
    raise RuntimeError("a bug in the user's heuristic")


def test_the_last_known_score_of_the_same_entities_comes_first() -> None:
    fallback = Fallback(shop())
    fallback.remember(view(), fallback_score(0.9))
    assert (fallback.find(view(price=99.0)).score, fallback.find(view()).source) == (0.9, "last_known")
    assert fallback.find(view(user_id="u2")).source == "constant"


def test_the_heuristic_comes_next_and_then_the_constant() -> None:
    fallback = Fallback(shop())
    assert (fallback.find(view(stars=4.5)).score, fallback.find(view(stars=4.5)).source) == (4.5, "heuristic")
    for nothing in (None, float("nan")):
        found = fallback.find(view(stars=nothing))
        assert (found.score, found.source) == (0.25, "constant")


def test_a_heuristic_by_import_path_may_fail() -> None:
    assert Fallback(with_heuristic("tests.unit.serving.test_fallback:first_price")).find(view(price=3.0)).score == 6.0
    assert Fallback(with_heuristic("tests.unit.serving.test_fallback:broken")).find(view()).source == "constant"


def test_the_least_recently_used_score_is_forgotten() -> None:
    fallback = Fallback(shop(), capacity=2)
    for user in ("u1", "u2"):
        fallback.remember(view(user_id=user), fallback_score(0.5))
    fallback.find(view(user_id="u1"))
    fallback.remember(view(user_id="u3"), fallback_score(0.5))
    assert len(fallback) == 2
    assert [fallback.find(view(user_id=user)).source for user in ("u1", "u2", "u3")] == [
        "last_known",
        "constant",
        "last_known",
    ]
