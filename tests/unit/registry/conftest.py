"""Small releases with real bundles."""

from pathlib import Path

import pytest

from evermodel import storage
from evermodel.ledger import Ledger
from evermodel.records import Release
from tests.support.bundles import small_bundle
from tests.unit.registry.small_releases import GIVEN, WINDOW, MakeRelease


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def release(tmp_path: Path) -> MakeRelease:
    """`release("b", parent=a.id)`: a release with a real bundle, whose weights are drawn from its name."""

    def make(name: str, parent: str | None = None, objectives: tuple[str, ...] = ("up",)) -> Release:
        home = str(tmp_path / "releases" / name)
        parts = tuple(small_bundle(home, name, objective=objective, **GIVEN) for objective in objectives)
        storage.write_text(storage.join(home, "card.md"), f"# {name}\n")
        return Release(
            use_case="electricity",
            bundles=parts,
            weights=dict.fromkeys(objectives, 1.0),
            cursor=WINDOW.end,
            created=WINDOW.end,
            home=home,
            parent=parent,
        )

    return make
