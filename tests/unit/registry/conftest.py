"""Releases with real bundles, small ones."""

from pathlib import Path

import numpy as np
import pytest
from small_releases import WINDOW, MakeRelease, manifest

from evermodel import bundle, storage
from evermodel.artifacts import Release
from evermodel.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def release(tmp_path: Path) -> MakeRelease:
    """`release("b", parent=a.id)`: a release with a real bundle, named by what its weights are drawn from."""

    def make(name: str, parent: str | None = None, objectives: tuple[str, ...] = ("up",)) -> Release:
        home = str(tmp_path / "releases" / name)
        parts = tuple(
            bundle.pack(
                storage.join(home, objective),
                objective=objective,
                model={"objective": objective, "scorer": "nothing:opens_it"},
                weights={"w": np.frombuffer(name.encode().ljust(8), np.uint8).astype(np.float32)},
                state={},
                moments={"m": np.zeros(1, np.float32)},
                manifest=manifest(name, objective),
            )
            for objective in objectives
        )
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
