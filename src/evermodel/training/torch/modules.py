"""Torch modules for tables. Each is called as `module(dense[n, d], ids[n, c])` and returns `[n, outputs]`.

A module that implements the `WarmStartable` protocol can continue in a stateful round when its transforms are updated: it
names the layers that take the dense inputs, the tables of each id column, and the parameters with one slice per class. A
custom module (an import path in the use case) may omit the protocol; its transforms then stay as they were fitted.

Row 0 of every table belongs to the unknown value and starts at zero. A value that is first seen in a later round starts
as a copy of row 0, so that the function doesn't change when a vocabulary grows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from evermodel import plugins
from evermodel.errors import InputError, nearest
from evermodel.features.transforms import InputSpec
from evermodel.use_case import Model

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


@runtime_checkable
class WarmStartable(Protocol):
    """What `training.torch.state` needs to transfer a module's weights and moments to updated transforms."""

    def input_layers(self) -> list[nn.Linear]:
        """The linear layers (with bias) whose first d input columns are the dense inputs."""
        ...

    def id_tables(self) -> dict[str, list[nn.Embedding]]:
        """Id column → the tables whose rows are that column's ids."""
        ...

    def class_axes(self) -> list[tuple[Tensor, int]]:
        """The parameters with one slice per class, with the axis of the classes. Those of one dimension are biases."""
        ...


class SignedEmbedding(nn.Module):
    """An embedding of hashed ids, 1..B with sign + and B+1..2B with sign −: one row per bucket, times the sign.

    Two values that share a bucket have opposite signs half of the time, so collisions cancel in expectation
    (Weinberger et al. 2009).
    """

    def __init__(self, buckets: int, dim: int) -> None:
        super().__init__()
        self.size = (buckets - 1) // 2
        self.table = _table(self.size + 1, dim)

    def forward(self, ids: Tensor) -> Tensor:
        negative = ids > self.size
        rows: Tensor = self.table(torch.where(negative, ids - self.size, ids))
        return torch.where(negative.unsqueeze(-1), -rows, rows)


class IdTables(nn.Module):
    """Looks up every id column in its own table and joins the results: ids[n, c] → [n, Σ dim]."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.names = [name for name, _, _ in spec.ids]
        self.dims = [dim for _, _, dim in spec.ids]
        self.tables = nn.ModuleList(
            SignedEmbedding(buckets, dim) if name in spec.signed else _table(buckets, dim)
            for name, buckets, dim in spec.ids
        )

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cat([table(ids[:, index]) for index, table in enumerate(self.tables)], dim=1)

    def by_name(self) -> dict[str, list[nn.Embedding]]:
        return {
            name: [table.table if isinstance(table, SignedEmbedding) else _embedding(table)]
            for name, table in zip(self.names, self.tables, strict=True)
        }


class Wide(nn.Module):
    """Id columns directly to the outputs: one learned number for each (value, output), zero at first.

    From the last item to the next this is a table of transitions (the wide part of Cheng et al. 2016).
    """

    def __init__(self, spec: InputSpec, names: Sequence[str], outputs: int) -> None:
        super().__init__()
        position = {name: index for index, (name, _, _) in enumerate(spec.ids)}
        for name in names:
            if name not in position:
                raise InputError(f"model option wide = {name!r} isn't an id feature; {nearest(name, position)}")
        self.names = list(names)
        self.positions = [position[name] for name in names]
        self.tables = nn.ModuleList(
            SignedEmbedding(spec.ids[index][1], outputs) if name in spec.signed else _table(spec.ids[index][1], outputs)
            for name, index in zip(self.names, self.positions, strict=True)
        )
        for table in self.tables:
            nn.init.zeros_((table.table if isinstance(table, SignedEmbedding) else _embedding(table)).weight)

    def forward(self, ids: Tensor) -> Tensor:
        found = [table(ids[:, position]) for position, table in zip(self.positions, self.tables, strict=True)]
        return torch.stack(found).sum(dim=0) if len(found) > 1 else found[0]

    def by_name(self) -> dict[str, list[nn.Embedding]]:
        return {
            name: [table.table if isinstance(table, SignedEmbedding) else _embedding(table)]
            for name, table in zip(self.names, self.tables, strict=True)
        }


class Tower(nn.Module):
    """Dense inputs and embeddings side by side → hidden layers → `outputs`, with a wide part if `options.wide` names columns."""

    def __init__(self, spec: InputSpec, outputs: int, model: Model, *, head: bool = True) -> None:
        super().__init__()
        self.ids = IdTables(spec) if spec.ids else None
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        width = len(spec.dense) + (sum(self.ids.dims) if self.ids else 0)
        layers: list[nn.Module] = []
        for size in model.hidden:
            layers += [nn.Linear(width, size), ACTIVATIONS[model.activation]()]
            layers += [nn.Dropout(model.dropout)] if model.dropout else []
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))
        names = model.options.get("wide", []) if head else []
        self.wide = Wide(spec, names, outputs) if names else None

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        deep = self.deep(dense, self.embed(ids))
        return deep + self.wide(ids) if self.wide else deep

    def embed(self, ids: Tensor) -> Tensor | None:
        """ids[n, c] → their embeddings [n, Σ dim], with the model's dropout; None if there are no ids."""
        return self.dropout(self.ids(ids)) if self.ids else None

    def deep(self, dense: Tensor, embedded: Tensor | None) -> Tensor:
        """The hidden layers' outputs [n, outputs]."""
        answer: Tensor = self.layers(dense if embedded is None else torch.cat([dense, embedded], dim=1))
        return answer

    def input_layers(self) -> list[nn.Linear]:
        return [next(layer for layer in self.layers if isinstance(layer, nn.Linear))]

    def id_tables(self) -> dict[str, list[nn.Embedding]]:
        return _merged([part.by_name() for part in (self.ids, self.wide) if part is not None])

    def class_axes(self) -> list[tuple[Tensor, int]]:
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        wide = [(table.weight, 1) for tables in (self.wide.by_name() if self.wide else {}).values() for table in tables]
        return [(last.weight, 0), (last.bias, 0), *wide]


class LinearModel(nn.Module):
    """Σ weight × dense + Σ one learned number for each (id value, output) + bias: logistic or linear regression."""

    def __init__(self, spec: InputSpec, outputs: int) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch warns if there are no dense inputs
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.dense = nn.Linear(len(spec.dense), outputs)
        nn.init.zeros_(self.dense.bias)
        if spec.dense:
            nn.init.normal_(self.dense.weight, std=0.01)
        self.wide = Wide(spec, [name for name, _, _ in spec.ids], outputs) if spec.ids else None

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        total: Tensor = self.dense(dense)
        return total + self.wide(ids) if self.wide else total

    def input_layers(self) -> list[nn.Linear]:
        return [self.dense]

    def id_tables(self) -> dict[str, list[nn.Embedding]]:
        return self.wide.by_name() if self.wide else {}

    def class_axes(self) -> list[tuple[Tensor, int]]:
        wide = [(table.weight, 1) for tables in self.id_tables().values() for table in tables]
        return [(self.dense.weight, 0), (self.dense.bias, 0), *wide]


class TwoTower(nn.Module):
    """A query tower and one vector per class (the item tower): score = query · item + item's bias + wide part.

    With `sum` the query is the tower's output plus the sum of the embeddings that are as wide as the items': a value and
    the items that follow it are then close together, and the tower learns only the error of the sum.
    """

    def __init__(self, spec: InputSpec, classes: int, model: Model) -> None:
        super().__init__()
        self.query = Tower(spec, model.dim, model, head=False)
        self.items = nn.Embedding(classes, model.dim)
        nn.init.normal_(self.items.weight, std=model.dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(classes))
        names = model.options.get("wide", [])
        self.wide = Wide(spec, names, classes) if names else None
        self.summed = [index for index, (_, _, dim) in enumerate(spec.ids) if dim == model.dim]
        if not model.options.get("sum", False):
            self.summed = []
        elif not self.summed:
            raise InputError(f"model option sum needs an embedded feature of dim {model.dim}, the model's dim")

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        embedded = self.query.embed(ids)
        query = self.query.deep(dense, embedded)
        if self.summed and embedded is not None:
            query = query + self._sum(embedded)
        scores: Tensor = query @ self.items.weight.T + self.bias
        return scores + self.wide(ids) if self.wide else scores

    def start_at(self, counts: Tensor) -> None:
        """Set the items' biases to the log of each class's count (counts[classes]), so that the model starts at popularity."""
        with torch.no_grad():
            logs = torch.log(counts.float() + 1)
            self.bias.copy_(logs - logs.mean())

    def _sum(self, embedded: Tensor) -> Tensor:
        assert self.query.ids is not None
        parts = torch.split(embedded, self.query.ids.dims, dim=1)
        return torch.stack([parts[index] for index in self.summed]).sum(dim=0)

    def input_layers(self) -> list[nn.Linear]:
        return self.query.input_layers()

    def id_tables(self) -> dict[str, list[nn.Embedding]]:
        return _merged([self.query.id_tables(), *([self.wide.by_name()] if self.wide else [])])

    def class_axes(self) -> list[tuple[Tensor, int]]:
        wide = [(table.weight, 1) for tables in (self.wide.by_name() if self.wide else {}).values() for table in tables]
        return [(self.items.weight, 0), (self.bias, 0), *wide]


def build(model: Model, spec: InputSpec, outputs: int, *, seed: int) -> nn.Module:
    """A fresh module with seeded weights; the global generator is left as it was.

    InputError if the kind doesn't fit the label: a two-tower ranks classes, so it needs a category label.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ":" in model.kind:
            made = plugins.load(model.kind, "model")(spec, outputs, dict(model.options))
            if not isinstance(made, nn.Module):
                raise InputError(f"model {model.kind!r} made a {type(made).__name__}, not a torch.nn.Module")
            return made
        if model.kind == "mlp":
            return Tower(spec, outputs, model)
        if model.kind == "linear":
            return LinearModel(spec, outputs)
        if model.kind == "two_tower":
            if outputs < 2:
                raise InputError("a two_tower ranks classes: its objective needs a label of type category")
            return TwoTower(spec, outputs, model)
    raise InputError(f"model kind {model.kind!r}; {nearest(model.kind, ('mlp', 'linear', 'two_tower'))}")


def _table(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim)
    _spread(table, dim**-0.5)
    return table


def _spread(table: nn.Embedding, deviation: float) -> None:
    nn.init.normal_(table.weight, std=deviation)
    with torch.no_grad():
        table.weight[0] = 0


def _embedding(module: nn.Module) -> nn.Embedding:
    assert isinstance(module, nn.Embedding)
    return module


def _merged(parts: Sequence[dict[str, list[nn.Embedding]]]) -> dict[str, list[nn.Embedding]]:
    merged: dict[str, list[nn.Embedding]] = {}
    for part in parts:
        for name, tables in part.items():
            merged.setdefault(name, []).extend(tables)
    return merged
