"""The training loop: slices of tensors instead of a per-row DataLoader; seeded, resumable at any step.

A `Learner` is all that training changes. Running k steps, saving, restoring and running k more gives the same bits as 2k
steps: the order of an epoch comes from the generator state at its start, which is kept with the position. With an
`AllReduce` each rank takes a slice of every batch and gradients are summed, so that all ranks take the same step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from evermodel.errors import StateError
from evermodel.training.torch.optimizer import Kind, Optimizer

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
EVALUATION_ROWS = 4096
FLOOR = 0.05  # a cosine ends at this share of its learning rate, so that later rounds still learn


@dataclass(frozen=True)
class EncodedRows:
    """Encoded labelled rows: dense float32[n, d], ids int64[n, c], targets[n], weights float32[n]."""

    dense: Tensor
    ids: Tensor
    targets: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.dense)

    def part(self, rows: Tensor | slice) -> EncodedRows:
        return EncodedRows(self.dense[rows], self.ids[rows], self.targets[rows], self.weights[rows])


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step. After `total_steps`, cosine and step keep their last rate."""

    kind: Literal["constant", "cosine", "step"]
    learning_rate: float
    total_steps: int

    def rate(self, step: int) -> float:
        done = min(step / max(self.total_steps, 1), 1.0)
        if self.kind == "cosine":  # Loshchilov and Hutter 2017, one cycle
            return self.learning_rate * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
        if self.kind == "step":  # a third of the rate after each third of the steps
            return self.learning_rate / 3.0 ** min(int(3 * done), 2)
        return self.learning_rate


@dataclass
class Learner:
    """All that training changes: this and the transforms are enough to continue."""

    module: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    shuffle_rng: Tensor  # uint8: the order generator's state at the start of this epoch
    dropout_rng: Tensor  # uint8: dropout's generator state
    epoch: int = 0  # since the first round
    step: int = 0
    position: int = 0  # batches done in this epoch


@dataclass(frozen=True)
class FitResult:
    """The result of a run. `seconds`: of optimisation alone; `losses`: mean training loss of each whole epoch."""

    epochs: int
    rows_trained: int
    seconds: float
    losses: tuple[float, ...] = ()
    validation: tuple[float, ...] = field(default=())


class AllReduce(Protocol):
    """Sums a flat tensor over all ranks, in place."""

    rank: int
    world: int

    def all_reduce(self, values: Tensor) -> None: ...


def make_learner(
    module: nn.Module,
    *,
    optimizer: Kind,
    weight_decay: float,
    schedule: Schedule,
    seed: int,
) -> Learner:
    """A learner at step 0; all of its randomness starts from `seed`."""
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        dropout_rng = torch.get_rng_state()
    return Learner(
        module, Optimizer(optimizer, weight_decay), schedule, shuffle_rng=order.get_state(), dropout_rng=dropout_rng
    )


def run(
    learner: Learner,
    data: EncodedRows,
    loss: LossFunction,
    *,
    epochs: int,
    batch_size: int,
    validation: EncodedRows | None = None,
    patience: int | None = None,
    all_reduce: AllReduce | None = None,
    steps: int | None = None,
    on_epoch: Callable[[Learner, float], None] | None = None,
) -> FitResult:
    """Train in place for `epochs` more epochs (or `steps` more steps, to save in the middle of an epoch).

    With `validation` and `patience` it stops after that many epochs without a lower loss there, and restores the best
    epoch. StateError if there are no rows, or if the loss isn't finite (the learner can't be used then).
    """
    if not len(data):
        raise StateError("training needs rows, and there are none")
    losses: list[float] = []
    checks: list[float] = []
    best: tuple[float, Learner] | None = None
    seconds, rows, left = 0.0, 0, steps
    target = learner.epoch + epochs
    with _pinned(learner):
        while learner.epoch < target and left != 0:
            began, before = perf_counter(), learner.step
            total, seen = _epoch(learner, data, loss, batch_size=batch_size, all_reduce=all_reduce, steps=left)
            seconds, rows = seconds + perf_counter() - began, rows + seen
            left = None if left is None else left - (learner.step - before)
            if learner.position:
                break
            losses.append(total / len(data))
            learner.dropout_rng = torch.get_rng_state()
            if not math.isfinite(losses[-1]):
                raise StateError(
                    f"the loss is {losses[-1]} after epoch {learner.epoch}: a smaller learning rate may help"
                )
            if validation is not None and patience is not None:
                checks.append(mean_loss(learner.module, validation, loss))
                if best is None or checks[-1] < best[0]:
                    best = (checks[-1], copy.deepcopy(learner))
                elif len(checks) - 1 - checks.index(best[0]) >= patience:
                    break
            if on_epoch is not None:
                on_epoch(learner, losses[-1])
    if best is not None:
        learner.__dict__.update(best[1].__dict__)
    return FitResult(len(losses), rows, seconds, tuple(losses), tuple(checks))


def mean_loss(module: nn.Module, data: EncodedRows, loss: LossFunction) -> float:
    """Mean loss in eval mode, summed in float64 over fixed slices. StateError if there are no rows."""
    if not len(data):
        raise StateError("the mean loss of no rows isn't a number")
    training = module.training
    module.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(data), EVALUATION_ROWS):
            part = data.part(slice(start, start + EVALUATION_ROWS))
            total += float(loss(module(part.dense, part.ids), part.targets, part.weights)) * len(part)
    module.train(training)
    return total / len(data)


def _epoch(
    learner: Learner,
    data: EncodedRows,
    loss: LossFunction,
    *,
    batch_size: int,
    all_reduce: AllReduce | None,
    steps: int | None,
) -> tuple[float, int]:
    """Train the rest of this epoch, or `steps` of it; (Σ loss × rows, rows seen over all ranks)."""
    generator = torch.Generator()
    generator.set_state(learner.shuffle_rng)
    shuffled = data.part(torch.randperm(len(data), generator=generator))  # one gather an epoch, then views
    batches = range(learner.position * batch_size, len(data), batch_size)[:steps]
    parameters = {name: value for name, value in learner.module.named_parameters() if value.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    seen = 0
    learner.module.train()
    for start in batches:
        batch = shuffled.part(slice(start, start + batch_size))
        total += _step(learner, batch, loss, parameters, all_reduce)
        seen += len(batch)
        learner.position += 1
    if learner.position * batch_size >= len(data):
        learner.epoch, learner.position, learner.shuffle_rng = learner.epoch + 1, 0, generator.get_state()
    if all_reduce is not None:
        all_reduce.all_reduce(total)
    return float(total), seen


def _step(
    learner: Learner,
    batch: EncodedRows,
    loss: LossFunction,
    parameters: Mapping[str, Tensor],
    all_reduce: AllReduce | None,
) -> Tensor:
    """Take one step on one (global) batch; this rank's Σ loss × rows."""
    for parameter in parameters.values():
        parameter.grad = None
    mine = batch if all_reduce is None else batch.part(slice(all_reduce.rank, None, all_reduce.world))
    value = torch.zeros(())
    if len(mine):
        value = loss(learner.module(mine.dense, mine.ids), mine.targets, mine.weights)
        (value if len(mine) == len(batch) else value * (len(mine) / len(batch))).backward()  # type: ignore[no-untyped-call]
    if all_reduce is not None:
        _sum_gradients(list(parameters.values()), all_reduce)
    learner.optimizer.step(parameters, learner.schedule.rate(learner.step))
    learner.step += 1
    return value.detach().double() * len(mine)


def _sum_gradients(parameters: Sequence[Tensor], all_reduce: AllReduce) -> None:
    """Add up every rank's gradients as one flat tensor: one message per step."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    all_reduce.all_reduce(flat)
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


@contextmanager
def _pinned(learner: Learner) -> Iterator[None]:
    """One thread (sums in one order) and the learner's own dropout generator; both are restored afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(learner.dropout_rng)
            yield
            learner.dropout_rng = torch.get_rng_state()
    finally:
        torch.set_num_threads(threads)
