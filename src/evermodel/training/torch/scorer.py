"""What a bundle's `model.json` names as its scorer: transforms, module and task, put together to answer rows.

The forward pass always runs on blocks of one size (the last one padded), so that a row's score doesn't depend on how
many others are asked about with it. A GPU takes larger ones; its scores are a processor's but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evermodel.errors import StateError
from evermodel.features.transforms import Inputs, Transforms
from evermodel.training.torch import state
from evermodel.training.torch.loop import EncodedRows, mean_loss
from evermodel.training.torch.modules import build
from evermodel.training.torch.objectives import Task
from evermodel.use_case import Model

PATH = "evermodel.training.torch.scorer:Scorer"
BLOCK = {"cpu": 64, "cuda": 4096}


class Scorer:
    """Rows → scores, by the tree of `model.json` and the arrays of `weights.safetensors`."""

    def __init__(self, tree: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
        self.transforms = Transforms.from_dict(tree["transforms"])
        self.task = Task.from_dict(dict(tree["task"]))
        self.module = build(Model(**tree["model"]), self.transforms.spec, self.task.outputs, seed=0)
        state.load_weights(self.module, weights)
        self.module.eval()
        self._device = torch.device("cpu")

    def to(self, device: str) -> None:
        """Answer on `cpu` or `cuda` from now on. StateError where there is no such device."""
        if device not in BLOCK:
            raise StateError(f"the model can't be put on {device!r}; valid: {', '.join(BLOCK)}")
        try:
            self.module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise StateError(f"the model can't be put on {device!r}: {error}") from None
        self._device = torch.device(device)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.classes

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """float64[n], or float64[n, classes] of a category label; the same for a row in any company."""
        return self.answer(self.encode(rows))

    def encode(self, rows: pa.Table) -> Inputs:
        """The model's inputs: the same of every scorer with these transforms."""
        return self.transforms.apply(rows)

    def answer(self, encoded: Inputs) -> NDArray[np.float64]:
        """The scores of encoded rows."""
        return self.task.score(outputs_of(self.module, encoded, self.task.outputs, self._device))

    def loss(self, rows: pa.Table) -> float:
        """Mean loss in eval mode on the labelled rows. StateError where there are none."""
        return mean_loss(self.module, encode(self.transforms, self.task, rows), self.task.losses())


def encode(transforms: Transforms, task: Task, rows: pa.Table) -> EncodedRows:
    """The labelled rows as tensors."""
    targets = task.targets(rows)
    inputs = transforms.apply(rows if len(targets.rows) == len(rows) else rows.take(pa.array(targets.rows)))
    return EncodedRows(
        torch.from_numpy(inputs.dense),
        torch.from_numpy(inputs.ids),
        torch.from_numpy(targets.values),
        torch.from_numpy(targets.weights),
    )


def outputs_of(module: nn.Module, inputs: Inputs, outputs: int, device: torch.device) -> Tensor:
    """The module's outputs [n, outputs] in eval mode, in blocks of one size; the module is on `device`, they are not."""
    rows, size = len(inputs.dense), BLOCK[device.type]
    found = torch.empty((rows, outputs))
    with torch.inference_mode():
        for start in range(0, rows, size):
            dense, ids = (_block(part[start : start + size], size).to(device) for part in (inputs.dense, inputs.ids))
            answer = module(dense, ids)
            if tuple(answer.shape) != (size, outputs):
                raise StateError(f"the model answers {tuple(answer.shape)} to {size} rows, not ({size}, {outputs})")
            found[start : start + size] = answer[: rows - start]
    return found


def _block(part: NDArray[Any], size: int) -> Tensor:
    if len(part) == size:
        return torch.from_numpy(part)
    padded = np.zeros((size, part.shape[1]), dtype=part.dtype)
    padded[: len(part)] = part
    return torch.from_numpy(padded)
