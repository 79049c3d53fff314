"""Losses of networks, and what turns a network's outputs into scores, for each kind of label (see `training.task`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from evermodel import plugins
from evermodel.scores import Scores
from evermodel.training.task import Task

FOCUS = 2.0  # γ of the focal loss
LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_function(task: Task) -> LossFunction:
    """(outputs[n, k], targets[n], weights[n]) → scalar, the mean over rows of weight × loss."""
    if ":" in task.loss:
        return plugins.load(task.loss, "loss")
    if task.loss == "bce":  # the same as below, in one operation
        return lambda outputs, targets, weights: functional.binary_cross_entropy_with_logits(
            outputs.squeeze(1), targets, weight=weights
        )
    elementwise = _ELEMENTWISE[task.loss]

    def mean_loss(outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return (elementwise(outputs if task.type == "category" else outputs.squeeze(1), targets) * weights).mean()

    return mean_loss


def to_scores(task: Task, outputs: Tensor) -> Scores:
    """Outputs [n, k] → sigmoid, value in the label's unit, or softmax over the classes, in float64."""
    wide = outputs.double()
    if task.type == "category":
        linked = torch.softmax(wide, dim=1)
    elif task.type == "binary":
        linked = torch.sigmoid(wide[:, 0])
    else:
        linked = wide[:, 0] * task.label_scale
    return Scores(task.type, linked.numpy(), task.classes)


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    surprise = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return (1 - torch.exp(-surprise)) ** FOCUS * surprise


_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": _focal,
    "mse": lambda outputs, targets: functional.mse_loss(outputs, targets, reduction="none"),
    "mae": lambda outputs, targets: functional.l1_loss(outputs, targets, reduction="none"),
    "huber": lambda outputs, targets: functional.huber_loss(outputs, targets, reduction="none"),
    "cross_entropy": lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"),
}
