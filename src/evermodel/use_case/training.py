"""The models, and the recipes that train the first champion and every later round.

An *objective* is one model of one label. The score of a row is Σ weight × objective's score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field as Setting
from pydantic import ValidationError, model_validator

from evermodel.errors import nearest
from evermodel.records import Time, Window
from evermodel.use_case.types import Duration, Name, Section, Share

MODEL_KINDS = ("mlp", "linear", "two_tower", "gbt")
#: Label type → the losses that fit it; the first is the default.
LOSSES: dict[str, tuple[str, ...]] = {
    "binary": ("bce", "focal"),
    "number": ("mse", "huber", "mae"),
    "category": ("cross_entropy",),
}
TREE_LOSSES = ("bce", "mse", "huber", "mae", "cross_entropy")


class TreeOptions(Section):
    """The `options` of a model of kind `gbt`: gradient-boosted trees by LightGBM."""

    trees: int = Setting(200, ge=1, description="boosting rounds of a model from scratch")
    added_trees: int = Setting(20, ge=1, description="boosting rounds that a stateful round adds to its parent's")
    leaves: int = Setting(31, ge=2, description="of a tree, at most")
    learning_rate: float = Setting(0.1, gt=0, le=1, description="the weight of each tree")
    min_rows: int = Setting(20, ge=1, description="in a leaf, at least")
    l2: float = Setting(0.0, ge=0, description="L2 penalty of a leaf's value")


class Model(Section):
    """A network (one of ours, or an import path that makes a torch module) or gradient-boosted trees."""

    kind: str = Setting("mlp", description="mlp, linear, two_tower, gbt, or an import path")
    hidden: tuple[int, ...] = (64, 32)
    activation: Literal["relu", "tanh", "silu"] = "relu"
    dropout: float = Setting(0.0, ge=0, lt=1)
    dim: int = Setting(32, ge=1, description="of the towers")
    options: dict[str, Any] = Setting(
        {}, description="of a gbt: trees, added_trees, leaves, learning_rate, min_rows, l2"
    )

    @property
    def is_trees(self) -> bool:
        return self.kind == "gbt"

    @property
    def tree_options(self) -> TreeOptions:
        """The options of a `gbt` with their defaults."""
        return TreeOptions.model_validate(self.options)

    @model_validator(mode="after")
    def _known_to_the_kind(self) -> Self:
        if not self.is_trees:
            return self
        for name in ("hidden", "activation", "dropout", "dim"):
            if getattr(self, name) != Model.model_fields[name].default:  # a default may come from a dump
                raise ValueError(f"{name} has no effect on a gbt; remove it, or use a network")
        for name in self.options:
            if name not in TreeOptions.model_fields:
                raise ValueError(f"options.{name} is no option of a gbt; {nearest(name, TreeOptions.model_fields)}")
        try:
            _ = self.tree_options
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"options.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return self


class Objective(Section):
    """One model of one label."""

    name: Name
    label: str
    weight: float = 1.0
    model: Model = Model()
    loss: str = Setting(
        "default",
        description="default (by the label's type), bce, focal, mse, huber, mae, cross_entropy, or an import path",
    )
    class_weight: float | Literal["balanced"] | None = Setting(None, description="weight of the positive class")
    label_scale: float = Setting(1.0, gt=0, description="a number label is divided by this for training")


class Split(Section):
    """By time: the newest share of the training rows validates; nothing is fitted on it."""

    validation: Share = 0.1


class Stateful(Section):
    """The recipe of a stateful retraining round, which continues from the champion."""

    renamed: ClassVar[Mapping[str, str]] = {"replay_share": "rehearsal_share", "replay_span": "rehearsal_span"}

    epochs: int = Setting(1, ge=1)
    learning_rate: float | None = Setting(None, gt=0, description="absent: the champion's schedule continues")
    batch_size: int | None = Setting(None, ge=1)
    rehearsal_share: float = Setting(
        0.2, ge=0, lt=1, description="share of old rows among the rows trained, drawn at random against forgetting"
    )
    rehearsal_span: Duration | None = Setting(
        None, description="how far back old rows are drawn; absent: from all history"
    )
    restandardise: bool = True


class Training(Section):
    first: Window | None = Setting(None, description="the window that the first champion is trained on")
    live: Time | None = Setting(
        None,
        description="when a backtest's first champion is trained and goes live: after the end of `first` if labels arrive late; absent: at that end",
    )
    epochs: int = Setting(10, ge=1)
    batch_size: int = Setting(256, ge=1)
    learning_rate: float = Setting(1e-3, gt=0)
    weight_decay: float = Setting(0.0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    scheduler: Literal["constant", "cosine", "step"] = "constant"
    patience: int | None = Setting(
        None, ge=1, description="training stops after so many epochs without a better validation loss"
    )
    seed: int = 0
    sample: int | None = Setting(None, ge=1, description="the most rows of one fit, drawn by `sampling`")
    sampling: Literal["simple", "stratified"] = "simple"
    stateful: Stateful = Stateful()

    @model_validator(mode="after")
    def _live_after_first(self) -> Self:
        if self.live is not None and (self.first is None or self.live < self.first.end):
            raise ValueError(f"live = {self.live.isoformat()} is before the first champion's window, `first`, ends")
        return self
