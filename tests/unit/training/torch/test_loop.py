"""The loop: schedules, patience, reproducibility, and ranks that add up to the same steps."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evermodel.errors import StateError
from evermodel.training.torch.loop import EncodedRows, Learner, Schedule, make_learner, mean_loss, run


def squared(outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return ((outputs[:, 0] - targets) ** 2 * weights).mean()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        answer: Tensor = self.layers(dense)
        return answer


def data(rows: int, seed: int = 0) -> EncodedRows:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn((rows, 3), generator=generator)
    targets = dense[:, 0] * 2 - dense[:, 1]
    return EncodedRows(dense, torch.zeros((rows, 0), dtype=torch.int64), targets, torch.ones(rows))


def learner(rate: float = 0.01, seed: int = 0, kind: Any = "constant") -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Small()
    return make_learner(module, optimizer="adamw", weight_decay=0.0, schedule=Schedule(kind, rate, 20), seed=seed)


def weights(one: Learner) -> Tensor:
    return torch.cat([value.detach().flatten() for value in one.module.parameters()])


def test_it_learns_counts_and_repeats() -> None:
    one, other = learner(), learner()
    outcome = run(one, data(200), squared, epochs=5, batch_size=32)
    assert (outcome.epochs, outcome.rows_trained, one.step) == (5, 1000, 35)
    assert outcome.losses[-1] < outcome.losses[0] and outcome.seconds > 0
    run(other, data(200), squared, epochs=5, batch_size=32)
    assert torch.equal(weights(one), weights(other))
    third = learner()
    third.shuffle_rng = torch.Generator().manual_seed(5).get_state()
    run(third, data(200), squared, epochs=5, batch_size=32)
    assert not torch.equal(weights(one), weights(third))


def test_it_leaves_the_global_generator_and_threads_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(learner(), data(40), squared, epochs=1, batch_size=8)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("kind", "rates"),
    [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.525, 0.05, 0.05]), ("step", [1, 1 / 3, 1 / 9, 1 / 9])],
)
def test_schedules(kind: Any, rates: list[float]) -> None:
    schedule = Schedule(kind, 1.0, 20)
    assert [schedule.rate(step) for step in (0, 10, 20, 99)] == pytest.approx(rates)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_steps_are_torchs_own_at_each_steps_rate(kind: Any) -> None:
    """Against torch.optim, fed the same batches."""
    part, schedule = data(64), Schedule("cosine", 0.05, 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    one = make_learner(ours, optimizer=kind, weight_decay=0.1, schedule=schedule, seed=0)
    run(one, part, squared, epochs=6, batch_size=64)
    classes = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}
    stock = classes[kind](theirs.parameters(), lr=1.0, weight_decay=0.1)
    for step in range(6):
        stock.param_groups[0]["lr"] = schedule.rate(step)
        stock.zero_grad()
        squared(theirs(part.dense, part.ids), part.targets, part.weights).backward()
        stock.step()
    expected = torch.cat([value.detach().flatten() for value in theirs.parameters()])
    torch.testing.assert_close(weights(one), expected, rtol=1e-5, atol=1e-6)


def test_patience_stops_and_goes_back_to_the_best() -> None:
    one, held = learner(rate=0.3), data(50, seed=9)
    outcome = run(one, data(60), squared, epochs=200, batch_size=60, validation=held, patience=3)
    best = int(np.argmin(outcome.validation))
    assert outcome.epochs == best + 1 + 3 < 200
    assert mean_loss(one.module, held, squared) == pytest.approx(outcome.validation[best], abs=1e-12)
    assert one.epoch == best + 1
    run(one, data(60), squared, epochs=1, batch_size=60)  # the optimizer still belongs to the module
    assert mean_loss(one.module, held, squared) != outcome.validation[best]


def test_mean_loss_is_in_eval_mode_and_over_rows() -> None:
    module = nn.Sequential(nn.Dropout(0.5))
    part = data(10_000)
    loss: Callable[..., Tensor] = lambda outputs, targets, weights: outputs.sum(dim=1).mean()  # noqa: E731
    wrapped = Dropped(module)
    assert mean_loss(wrapped, part, loss) == pytest.approx(float(part.dense.double().sum(dim=1).mean()), abs=1e-6)
    assert wrapped.training


class Dropped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        answer: Tensor = self.inner(dense)
        return answer


def test_no_rows_and_a_diverged_loss_are_errors() -> None:
    with pytest.raises(StateError, match="needs rows"):
        run(learner(), data(0), squared, epochs=1, batch_size=8)
    with pytest.raises(StateError, match="no rows"):
        mean_loss(learner().module, data(0), squared)
    bad = data(16)
    bad.targets[3] = float("inf")
    with pytest.raises(StateError, match="loss is"):
        run(learner(), bad, squared, epochs=1, batch_size=8)


class Threads:
    """Ranks as threads of one process: the exchange is a barrier and a sum."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier, self.parts = world, threading.Barrier(world), [torch.zeros(0)] * world

    def rank(self, rank: int) -> "Rank":
        return Rank(self, rank)


class Rank:
    def __init__(self, group: Threads, rank: int) -> None:
        self.group, self.rank, self.world = group, rank, group.world

    def all_reduce(self, values: Tensor) -> None:
        self.group.parts[self.rank] = values.clone()
        self.group.barrier.wait()
        values.copy_(torch.stack(self.group.parts).sum(dim=0))
        self.group.barrier.wait()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_take_the_same_steps_as_one(world: int) -> None:
    """101 rows by 20: a last batch of one row, so that some rank has none of it."""
    single = learner()
    run(single, data(101), squared, epochs=3, batch_size=20)
    group, ranks = Threads(world), [learner() for _ in range(world)]

    def work(rank: int) -> None:
        run(ranks[rank], data(101), squared, epochs=3, batch_size=20, all_reduce=group.rank(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in ranks:
        torch.testing.assert_close(weights(one), weights(single), rtol=0, atol=1e-5)
        assert torch.equal(weights(one), weights(ranks[0]))


def test_a_world_of_one_gives_the_same_bits() -> None:
    alone, one = learner(), learner()
    run(alone, data(101), squared, epochs=3, batch_size=20)
    run(one, data(101), squared, epochs=3, batch_size=20, all_reduce=Threads(1).rank(0))
    assert torch.equal(weights(alone), weights(one))
