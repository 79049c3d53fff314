"""Real bundles, as small as possible: no model can open them. Bundles of different words differ."""

from typing import Any

import numpy as np

from evermodel import bundle, storage
from evermodel.records import BundleRef, TrainingManifest


def training_manifest(word: str, **given: Any) -> TrainingManifest:
    """`given`: at least the use case, objective, mode, windows and cursor."""
    defaults = {
        "rows": 10,
        "epochs": 2,
        "rows_trained": 20,
        "row_digest": word,
        "data_version": "1",
        "config_digest": "2",
        "features": ("a", "b"),
        "code_version": "3",
        "seed": 0,
        "seconds": 0.5,
        "final_loss": 0.6,
    }
    return TrainingManifest(**defaults | given)


def small_bundle(home: str, word: str, *, objective: str, **given: Any) -> BundleRef:
    """A bundle below a release's folder; `given`: see `training_manifest`."""
    return bundle.pack(
        storage.join(home, objective),
        objective=objective,
        model={"objective": objective, "scorer": "nothing:opens_it"},
        weights={"w": np.frombuffer(word.encode().ljust(16)[:16], np.uint8).astype(np.float32)},
        state={},
        moments={"m": np.zeros(1, np.float32)},
        manifest=training_manifest(word, objective=objective, **given),
    )
