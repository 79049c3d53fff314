"""State: a saved learner goes on bit for bit, and a moved one is the same function with the right moments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from evermodel.errors import StateError
from evermodel.features.transforms import Transforms, fit
from evermodel.training.task import Task, resolve
from evermodel.training.torch import loop, state
from evermodel.training.torch.loop import Learner, Schedule, make_learner, mean_loss, run
from evermodel.training.torch.losses import loss_function
from evermodel.training.torch.model import encode
from evermodel.training.torch.modules import build
from evermodel.use_case import UseCase

Make = Callable[..., Any]
STEPS = 7  # of batches of 32 from 150 rows: the save falls into the middle of an epoch


def begin(case: UseCase, objective: str, rows: Any, *, optimizer: str = "adamw") -> tuple[Learner, Task, Transforms]:
    task, transforms = resolve(case, objective, rows), fit(case, objective, rows)
    module = build(case.objective(objective).model, transforms.spec, task.outputs, seed=3)
    schedule = Schedule("cosine", 0.01, 40)
    learner = make_learner(module, optimizer=optimizer, weight_decay=0.01, schedule=schedule, seed=3)  # type: ignore[arg-type]
    return learner, task, transforms


def take(learner: Learner, data: loop.EncodedRows, task: Task, steps: int) -> None:
    run(learner, data, loss_function(task), epochs=100, batch_size=32, steps=steps)


def weights(learner: Learner) -> dict[str, np.ndarray[Any, Any]]:
    return state.weights_of(learner.module)


@pytest.fixture
def dropped(shop: UseCase, vary: Make) -> UseCase:
    """With dropout, whose masks come from a generator that must be restored as well."""
    case: UseCase = vary(shop, objective="bought", model={"dropout": 0.3})
    return case


def halves(case: UseCase, rows: Make, optimizer: str, spoil: str | None) -> tuple[Learner, Learner]:
    """(2k steps at once, k and k with everything written and read between them, but for what `spoil` names)."""
    table = rows(0, 150)
    whole, task, transforms = begin(case, "bought", table, optimizer=optimizer)
    data = encode(transforms, task, table)
    take(whole, data, task, 2 * STEPS)
    half, _, _ = begin(case, "bought", table, optimizer=optimizer)
    take(half, data, task, STEPS)
    arrays, scalars = state.save(half)
    read = safetensors.numpy.load(safetensors.numpy.save(arrays))
    fresh, _, _ = begin(case, "bought", table, optimizer=optimizer)
    if spoil == "optimizer":
        read |= {name: np.zeros_like(value) for name, value in read.items() if name.startswith("optimizer.")}
    elif spoil == "schedule":
        scalars["schedule"] |= {"kind": "constant"}
    elif spoil == "step":
        scalars["step"] = 0
    elif spoil in ("shuffle", "noise"):
        read[f"random.{spoil}"] = torch.Generator().manual_seed(99).get_state().numpy()
    elif spoil == "position":
        scalars["position"] = 0
    elif spoil == "weights":
        half = fresh
    module = build(case.objective("bought").model, transforms.spec, task.outputs, seed=8)
    restored = state.restore(module, weights(half), read, scalars)
    take(restored, data, task, STEPS)
    return whole, restored


def same(one: Learner, other: Learner) -> bool:
    return all(np.array_equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_k_and_k_steps_with_a_save_between_are_2k_steps(dropped: UseCase, rows: Make, optimizer: str) -> None:
    whole, restored = halves(dropped, rows, optimizer, None)
    assert same(whole, restored)
    assert (whole.epoch, whole.step, whole.position) == (restored.epoch, restored.step, restored.position) == (2, 14, 4)
    for one, other in zip(*(state.save(learner)[0].items() for learner in (whole, restored)), strict=True):
        assert one[0] == other[0] and np.array_equal(one[1], other[1])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("spoil", ["optimizer", "schedule", "step", "shuffle", "noise", "position", "weights"])
def test_they_arent_when_any_part_isnt_restored(dropped: UseCase, rows: Make, optimizer: str, spoil: str) -> None:
    whole, restored = halves(dropped, rows, optimizer, spoil)
    assert not same(whole, restored)


@pytest.mark.parametrize("objective", ["bought", "spent", "next"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_moved_model_is_the_same_function(shop: UseCase, rows: Make, objective: str, optimizer: str) -> None:
    old, new = rows(0, 300), rows(300, 200, drifted=True)
    learner, task, transforms = begin(shop, objective, old, optimizer=optimizer)
    take(learner, encode(transforms, task, old), task, 20)
    moved, move = transforms.update(new)
    assert {column.name for column in move.columns} >= {"amount", "late"} and move.changes_shape
    grown = build(shop.objective(objective).model, moved.spec, task.outputs, seed=4)
    carried = state.transfer_state(learner, grown, move)
    for table in (old, new):
        before, after = (
            mean_loss(one.module, encode(fitted, task, table), loss_function(task))
            for one, fitted in ((learner, transforms), (carried, moved))
        )
        assert after == pytest.approx(before, rel=1e-5, abs=1e-6)


def gradients(learner: Learner, data: loop.EncodedRows, task: Task) -> dict[str, torch.Tensor]:
    learner.module.zero_grad()
    loss_function(task)(learner.module(data.dense, data.ids), data.targets, data.weights).backward()
    return {name: value.grad.clone() for name, value in learner.module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("optimizer", "moment"), [("adamw", "exp_avg"), ("sgd", "momentum_buffer")])
def test_the_first_moment_is_carried_as_the_gradient_changes(
    shop: UseCase, rows: Make, optimizer: str, moment: str
) -> None:
    """Put a gradient where the moment is, carry it, and compare with the moved model's own gradient."""
    old, new = rows(0, 300), rows(300, 200, drifted=True)
    learner, task, transforms = begin(shop, "bought", old, optimizer=optimizer)
    take(learner, encode(transforms, task, old), task, 20)
    for name, gradient in gradients(learner, encode(transforms, task, new), task).items():
        learner.optimizer.moments[name][moment].copy_(gradient)
    moved, move = transforms.update(new)
    carried = state.transfer_state(learner, build(shop.objective("bought").model, moved.spec, 1, seed=4), move)
    found = gradients(carried, encode(moved, task, new), task)
    moments, _ = state.save(carried)
    layer = next(name for name in found if found[name].shape[-1:] == (len(moved.spec.dense) + 7,))
    alive = [index for index, name in enumerate(moved.spec.dense) if name not in ("late", "age:missing")]
    wanted, got = found[layer][:, alive].numpy(), moments[f"optimizer.{layer}.{moment}"][:, alive]
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-6)
    dead = [index for index in range(len(moved.spec.dense)) if index not in alive]
    assert not moments[f"optimizer.{layer}.{moment}"][:, dead].any()


def test_the_second_moment_is_carried_by_the_squares(shop: UseCase, rows: Make) -> None:
    old, new = rows(0, 300), rows(300, 200, drifted=True)
    learner, task, transforms = begin(shop, "spent", old)
    take(learner, encode(transforms, task, old), task, 20)
    moved, move = transforms.update(new)
    before, _ = state.save(learner)
    after, _ = state.save(
        state.transfer_state(learner, build(shop.objective("spent").model, moved.spec, 1, seed=4), move)
    )
    column = next(one for one in move.columns if one.name == "amount")
    of_weight = before["optimizer.dense.weight.exp_avg_sq"][:, column.index]
    of_bias = before["optimizer.dense.bias.exp_avg_sq"]
    shift = (column.mean_to - column.mean_from) / column.scale_to
    wanted = (column.scale_from / column.scale_to) ** 2 * of_weight + shift**2 * of_bias
    np.testing.assert_allclose(after["optimizer.dense.weight.exp_avg_sq"][:, column.index], wanted, rtol=1e-5)


def test_a_constant_column_becomes_learnable(shop: UseCase, rows: Make) -> None:
    old, new = rows(0, 300), rows(300, 400, drifted=True)
    learner, task, transforms = begin(shop, "bought", old)
    take(learner, encode(transforms, task, old), task, 20)
    moved, move = transforms.update(new)
    carried = state.transfer_state(learner, build(shop.objective("bought").model, moved.spec, 1, seed=4), move)
    data = encode(moved, task, new)
    late = moved.spec.dense.index("late")
    layer = carried.module.input_layers()[0]  # type: ignore[operator]
    assert not layer.weight[:, late].any()
    gradient = gradients(carried, data, task)["layers.0.weight"][:, late]
    assert float(gradient.abs().max()) > 1e-3
    carried.schedule = Schedule("constant", 0.01, 1)
    take(carried, data, task, 200)
    flat = loop.EncodedRows(data.dense.clone(), data.ids, data.targets, data.weights)
    flat.dense[:, late] = 0
    with_it, without = (mean_loss(carried.module, part, loss_function(task)) for part in (data, flat))
    assert with_it < without - 0.1  # late is most of what decides in the drifted rows


def test_new_classes_leave_the_scores_of_the_old_ones(shop: UseCase, rows: Make) -> None:
    old = rows(0, 300)
    learner, task, transforms = begin(shop, "next", old)
    data = encode(transforms, task, old)
    take(learner, data, task, 20)
    grown = build(shop.objective("next").model, transforms.spec, task.outputs + 2, seed=4)
    carried = state.add_classes(learner, grown, 2)
    with torch.no_grad():
        before, after = (one.module.eval()(data.dense, data.ids) for one in (learner, carried))
    assert torch.equal(before, after[:, :-2])
    take(carried, data, task, 1)


def test_what_cant_be_restored_is_an_error(shop: UseCase, rows: Make) -> None:
    table = rows(0, 150)
    learner, task, transforms = begin(shop, "bought", table)
    take(learner, encode(transforms, task, table), task, 3)
    arrays, scalars = state.save(learner)
    held = weights(learner)

    def attempt(
        held: Any = held, arrays: Any = arrays, scalars: Any = scalars, hidden: tuple[int, ...] = (8, 4)
    ) -> None:
        model = shop.objective("bought").model.model_copy(update={"hidden": hidden})
        state.restore(build(model, transforms.spec, 1, seed=0), held, arrays, scalars)

    attempt()
    first = next(iter(held))
    moment = next(name for name in arrays if name.endswith("exp_avg"))
    with pytest.raises(StateError, match=f"'{first}' is missing"):
        attempt(held={name: value for name, value in held.items() if name != first})
    with pytest.raises(StateError, match="isn't the model's"):
        attempt(held=held | {"extra": held[first]})
    with pytest.raises(StateError, match="shape"):
        attempt(hidden=(9, 4))
    with pytest.raises(StateError, match=r"optimizer state.*is missing"):
        attempt(arrays={name: value for name, value in arrays.items() if name != moment})
    with pytest.raises(StateError, match="shape"):
        attempt(arrays=arrays | {moment: arrays[moment][:1]})
    for name in ("random.shuffle", "random.noise"):
        with pytest.raises(StateError, match=name):
            attempt(arrays={key: value for key, value in arrays.items() if key != name})
    for key in ("schedule", "optimizer", "step", "epoch", "position"):
        with pytest.raises(StateError, match=key):
            attempt(scalars={name: value for name, value in scalars.items() if name != key})
