"""A network that answers rows: transforms, module and task, put together from a bundle.

The forward pass always runs on blocks of fixed sizes (the last one padded with zeros). The same rows in the same order get
the same bits on one machine. A row that is scored with other rows, on another machine or on a GPU gets the same score to
rounding: within 1e-6, relative if the score is above 1 (a matrix product may add up in another order at another place
of the block, on some processors).
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
from evermodel.scores import Scores
from evermodel.training.tabular_model import TabularModel
from evermodel.training.task import Task
from evermodel.training.torch import state
from evermodel.training.torch.loop import EncodedRows, mean_loss
from evermodel.training.torch.losses import loss_function, to_scores
from evermodel.training.torch.modules import build
from evermodel.use_case import Model

BLOCKS = {"cpu": (64,), "cuda": (65_536, 4096)}  # rows of one forward pass: large ones first, the rest padded


class NetworkModel(TabularModel):
    """Rows → scores, by the tree of `model.json` and the arrays of `weights.safetensors`."""

    def __init__(self, tree: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> None:
        super().__init__(tree)
        self.module = build(Model(**tree["model"]), self.transforms.spec, self.task.outputs, seed=0)
        state.load_weights(self.module, weights)
        self.module.eval()
        self._device = torch.device("cpu")

    def to(self, device: str) -> None:
        """Answer on `cpu` or `cuda` from now on. StateError if there is no such device."""
        if device not in BLOCKS:
            raise StateError(f"the model can't be put on {device!r}; valid: {', '.join(BLOCKS)}")
        try:
            self.module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise StateError(f"the model can't be put on {device!r}: {error}") from None
        self._device = torch.device(device)

    def score(self, encoded: Inputs) -> Scores:
        return to_scores(self.task, outputs_of(self.module, encoded, self.task.outputs, self._device))

    def loss(self, rows: pa.Table) -> float:
        """Mean loss in eval mode on the labelled rows. StateError if there are none."""
        return mean_loss(self.module, encode(self.transforms, self.task, rows), loss_function(self.task))


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
    """The module's outputs [n, outputs] in eval mode, in blocks of fixed sizes; the module is on `device`, they are not."""
    rows, start = len(inputs.dense), 0
    found = torch.empty((rows, outputs))
    with torch.inference_mode():
        while start < rows:
            size = next((size for size in BLOCKS[device.type] if size <= rows - start), BLOCKS[device.type][-1])
            dense, ids = (_block(part[start : start + size], size).to(device) for part in (inputs.dense, inputs.ids))
            answer = module(dense, ids)
            if tuple(answer.shape) != (size, outputs):
                raise StateError(f"the model answers {tuple(answer.shape)} to {size} rows, not ({size}, {outputs})")
            found[start : start + size] = answer[: rows - start]
            start += size
    return found


def _block(part: NDArray[Any], size: int) -> Tensor:
    if len(part) == size:
        return torch.from_numpy(part)
    padded = np.zeros((size, part.shape[1]), dtype=part.dtype)
    padded[: len(part)] = part
    return torch.from_numpy(padded)
