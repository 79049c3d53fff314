"""Save and restore a whole learner, and transfer it to updated transforms. State that can't be restored is a StateError.

A learner is saved as named arrays (weights; optimizer moments; generator states) and a small tree of scalars (optimizer
settings, schedule, epoch, step, position). `transfer_state` re-expresses weights and moments for updated transforms, so
that the model remains the same function. With z = (x − m)/s and z' = (x − m')/s':

    W' = W s'/s        b' = b + Σ W (m' − m)/s
    the gradient is g' = (s g_W + (m − m') g_b)/s', and a first moment (and SGD's momentum) is transferred the same way;
    a second moment, its mean square without the cross term, as (s/s')² v_W + ((m − m')/s')² v_b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evermodel.errors import StateError
from evermodel.features.transforms import TransformUpdate
from evermodel.training.torch.loop import Learner, Schedule
from evermodel.training.torch.modules import WarmStartable
from evermodel.training.torch.optimizer import STEP, Optimizer
from evermodel.use_case import Training

Arrays = Mapping[str, NDArray[Any]]
Tensors = dict[str, Tensor]
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
SECOND_MOMENTS = ("exp_avg_sq",)
MOMENTS = FIRST_MOMENTS + SECOND_MOMENTS


def weights_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """The module's parameters and buffers as arrays, by name."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def save(learner: Learner) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(arrays, scalars) of all state but the weights."""
    arrays = {f"optimizer.{name}": value.numpy().copy() for name, value in _optimizer_tensors(learner).items()}
    arrays |= {"random.shuffle": learner.shuffle_rng.numpy().copy(), "random.noise": learner.dropout_rng.numpy().copy()}
    scalars = {
        "optimizer": {
            "kind": learner.optimizer.kind,
            "weight_decay": learner.optimizer.weight_decay,
            "parameters": sorted(learner.optimizer.moments),
        },
        "schedule": asdict(learner.schedule),
        "epoch": learner.epoch,
        "step": learner.step,
        "position": learner.position,
    }
    return arrays, scalars


def restore(module: nn.Module, weights: Arrays, arrays: Arrays, scalars: Mapping[str, Any]) -> Learner:
    """A learner as it was saved, in `module`. StateError if a tensor is missing, unknown or of another shape."""
    load_weights(module, weights)
    try:
        settings, schedule = scalars["optimizer"], _schedule(scalars["schedule"])
        learner = Learner(
            module,
            Optimizer(settings["kind"], settings["weight_decay"]),
            schedule,
            shuffle_rng=_tensor(arrays["random.shuffle"]),
            dropout_rng=_tensor(arrays["random.noise"]),
            epoch=scalars["epoch"],
            step=scalars["step"],
            position=scalars["position"],
        )
    except (KeyError, TypeError) as error:
        raise StateError(f"training state can't be restored: {error!r} is missing or of the wrong kind") from None
    prefix = "optimizer."
    tensors = {name.removeprefix(prefix): _tensor(value) for name, value in arrays.items() if name.startswith(prefix)}
    _restore_optimizer(learner, tensors, settings["parameters"])
    return learner


def _schedule(tree: Mapping[str, Any]) -> Schedule:
    """The schedule as it was saved; version 0.1 called `total_steps` `horizon`."""
    names = {"horizon": "total_steps"}
    return Schedule(**{names.get(name, name): value for name, value in tree.items()})


def load_weights(module: nn.Module, weights: Arrays) -> None:
    """Put `weights` into `module`; StateError unless names and shapes are exactly the module's."""
    wanted = module.state_dict()
    _same_names("weights", set(weights), set(wanted))
    for name, value in wanted.items():
        if tuple(weights[name].shape) != tuple(value.shape):
            raise StateError(
                f"weights {name!r} have shape {tuple(weights[name].shape)}, the model wants {tuple(value.shape)}"
            )
    module.load_state_dict({name: _tensor(weights[name]) for name in wanted})


def check_settings(learner: Learner, training: Training) -> None:
    """StateError if the use case asks for another optimizer than the one whose moments were saved."""
    if (saved := learner.optimizer.kind) != training.optimizer:
        raise StateError(f"the parent was trained by {saved}; {training.optimizer} can't use its moments")


def transfer_state(learner: Learner, grown: nn.Module, update: TransformUpdate) -> Learner:
    """The learner in `grown` (built for the updated transforms): the same function, with moments re-expressed.

    New dense columns start with weight 0, new values as copies of the unknown value's row. Both have moments 0, and both
    learn from the first step on. StateError if the module isn't `modules.WarmStartable`.
    """
    if update.is_identity:
        return learner
    old = learner.module
    if not isinstance(old, WarmStartable) or not isinstance(grown, WarmStartable):
        raise StateError(
            f"{type(old).__name__} doesn't define input_layers, id_tables and class_axes: its state can't be transferred"
        )
    weights = {name: value.detach().clone() for name, value in old.state_dict().items()}
    moments = _optimizer_tensors(learner)
    names: dict[Tensor, str] = {parameter: name for name, parameter in old.named_parameters()}
    for layer in old.input_layers():
        _rescale(weights, moments, names[layer.weight], names[layer.bias], update)
    for tables in ((table, size) for name, _, size in update.tables for table in old.id_tables()[name]):
        _append_rows(weights, moments, names[tables[0].weight], tables[1])
    return _rebuild(learner, grown, weights, moments)


def add_classes(learner: Learner, grown: nn.Module, added: int) -> Learner:
    """The learner in `grown`, which has `added` more classes at the end: weights 0, the lowest bias.

    The outputs of the old classes don't change; their probabilities become slightly smaller.
    """
    old = learner.module
    if not isinstance(old, WarmStartable):
        raise StateError(f"{type(old).__name__} doesn't define class_axes: {added} new classes can't be added")
    weights = {name: value.detach().clone() for name, value in old.state_dict().items()}
    moments = _optimizer_tensors(learner)
    names: dict[Tensor, str] = {parameter: name for name, parameter in old.named_parameters()}
    for parameter, axis in old.class_axes():
        name = names[parameter]
        fill = float(weights[name].min()) if weights[name].dim() == 1 else 0.0
        weights[name] = _padded(weights[name], axis, added, fill)
        for key in (f"{name}.{moment}" for moment in MOMENTS):
            if key in moments:
                moments[key] = _padded(moments[key], axis, added, 0.0)
    return _rebuild(learner, grown, weights, moments)


def _rescale(weights: Tensors, moments: Tensors, weight: str, bias: str, update: TransformUpdate) -> None:
    """The formulas above on one layer, in float64; then zero columns for new dense inputs."""
    columns = [column.index for column in update.columns]
    was = np.array([column.scale_from for column in update.columns])
    now = torch.from_numpy(np.array([column.scale_to for column in update.columns]))
    shift = torch.from_numpy(np.array([column.mean_to - column.mean_from for column in update.columns]))
    scale = torch.from_numpy(was)
    varied = scale > 0  # a column that was constant contributed 0: weight and moments start at 0
    safe = torch.where(varied, scale, torch.ones_like(scale))
    matrix, offset = weights[weight].double(), weights[bias].double()
    part = torch.where(varied, matrix[:, columns], 0.0)
    weights[bias] = (offset + (part * (shift / safe)).sum(dim=1)).float()
    matrix[:, columns] = part * (now / safe)
    weights[weight] = _with_new_columns(matrix.float(), update)
    for key in MOMENTS:
        if f"{weight}.{key}" not in moments:
            continue
        of_weight, of_bias = moments[f"{weight}.{key}"].double(), moments[f"{bias}.{key}"].double()[:, None]
        if key in FIRST_MOMENTS:
            transferred = (scale * of_weight[:, columns] - shift * of_bias) / now
        else:
            transferred = (scale / now) ** 2 * of_weight[:, columns] + (shift / now) ** 2 * of_bias
        of_weight[:, columns] = torch.where(varied, transferred, 0.0)
        moments[f"{weight}.{key}"] = _with_new_columns(of_weight.float(), update)


def _with_new_columns(matrix: Tensor, update: TransformUpdate) -> Tensor:
    """[out, in] with zero columns for the new dense inputs, which come after the old ones and before the embeddings."""
    zeros = torch.zeros((len(matrix), update.dense_to - update.dense_from), dtype=matrix.dtype)
    return torch.cat([matrix[:, : update.dense_from], zeros, matrix[:, update.dense_from :]], dim=1)


def _append_rows(weights: Tensors, moments: Tensors, name: str, size: int) -> None:
    table = weights[name]
    weights[name] = torch.cat([table, table[:1].expand(size - len(table), -1)])
    for key in (f"{name}.{moment}" for moment in MOMENTS):
        if key in moments:
            moments[key] = _padded(moments[key], 0, size - len(moments[key]), 0.0)


def _padded(values: Tensor, axis: int, added: int, fill: float) -> Tensor:
    shape = list(values.shape)
    shape[axis] = added
    return torch.cat([values, torch.full(shape, fill, dtype=values.dtype)], dim=axis)


def _rebuild(learner: Learner, module: nn.Module, weights: Tensors, moments: Tensors) -> Learner:
    """The same learner in another module, with these weights and moments."""
    arrays, scalars = save(learner)
    kept = {name: value for name, value in arrays.items() if name.startswith("random.")}
    state = {f"optimizer.{name}": value.numpy() for name, value in moments.items()}
    return restore(module, {name: value.numpy() for name, value in weights.items()}, {**kept, **state}, scalars)


def _optimizer_tensors(learner: Learner) -> Tensors:
    """`<parameter>.<moment>` → a copy."""
    return {
        f"{name}.{key}": value.clone()
        for name, moments in sorted(learner.optimizer.moments.items())
        for key, value in sorted(moments.items())
    }


def _restore_optimizer(learner: Learner, tensors: Tensors, parameters: Sequence[str]) -> None:
    """Put back the moments of exactly these parameters."""
    keys, shapes = learner.optimizer.keys, {name: value.shape for name, value in learner.module.named_parameters()}
    _same_names("optimizer state", set(tensors), {f"{name}.{key}" for name in parameters for key in keys})
    for name in parameters:
        if name not in shapes:
            raise StateError(f"optimizer state: {name!r} isn't a parameter of the model")
        moments = {key: tensors[f"{name}.{key}"] for key in keys}
        for key, value in moments.items():
            if value.shape != (wanted := torch.Size([]) if key == STEP else shapes[name]):
                raise StateError(f"optimizer state {name}.{key} has shape {tuple(value.shape)}, not {tuple(wanted)}")
        learner.optimizer.moments[name] = moments


def _same_names(what: str, found: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - found):
        raise StateError(f"{what}: {missing[0]!r} is missing ({len(missing)} of {len(wanted)})")
    if extra := sorted(found - wanted):
        raise StateError(f"{what}: {extra[0]!r} isn't the model's ({len(extra)} such)")


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: what is trained is never the bundle's own
