"""What learns, and how: the models, one objective each, and the recipe of the first champion and of every later turn.

An *objective* is one model of one label; the score of a row is Σ weight × objective's score.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field as Setting
from pydantic import model_validator

from evermodel.records import Time, Window
from evermodel.use_case.types import Duration, Name, Section, Share


class Model(Section):
    """A torch module: one of ours, or an import path."""

    kind: str = Setting("mlp", description="mlp, linear, two_tower, or an import path")
    hidden: tuple[int, ...] = (64, 32)
    activation: Literal["relu", "tanh", "silu"] = "relu"
    dropout: float = Setting(0.0, ge=0, lt=1)
    dim: int = Setting(32, ge=1, description="of the towers")
    options: dict[str, Any] = Setting({})


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
    """How a retraining turn goes on from the champion."""

    epochs: int = Setting(1, ge=1)
    learning_rate: float | None = Setting(None, gt=0, description="absent: the champion's scheduler goes on")
    batch_size: int | None = Setting(None, ge=1)
    rehearsal_share: float = Setting(
        0.2, ge=0, lt=1, description="of the rows trained, older ones drawn against forgetting"
    )
    rehearsal_span: Duration | None = Setting(
        None, description="how far back they are drawn from; absent: to the beginning"
    )
    restandardise: bool = True


class Training(Section):
    first: Window | None = Setting(None, description="what the first champion is trained on")
    live: Time | None = Setting(
        None,
        description="when a replay's first champion is trained and goes live: later than the end of `first` where labels take long; absent: at that end",
    )
    epochs: int = Setting(10, ge=1)
    batch_size: int = Setting(256, ge=1)
    learning_rate: float = Setting(1e-3, gt=0)
    weight_decay: float = Setting(0.0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    scheduler: Literal["constant", "cosine", "step"] = "constant"
    patience: int | None = Setting(None, ge=1, description="epochs without a better validation loss")
    seed: int = 0
    sample: int | None = Setting(None, ge=1, description="at most so many rows a fit, drawn by `sampling`")
    sampling: Literal["simple", "stratified"] = "simple"
    stateful: Stateful = Stateful()

    @model_validator(mode="after")
    def _live_after_first(self) -> Self:
        if self.live is not None and (self.first is None or self.live < self.first.end):
            raise ValueError(f"live = {self.live.isoformat()} is before the first champion's window, first, is over")
        return self
