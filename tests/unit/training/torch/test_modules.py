"""Models: shapes, seeds, what each says of its inputs, and an import path."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evermodel.errors import InputError
from evermodel.features.transforms import InputSpec
from evermodel.training.torch.modules import SignedEmbedding, TwoTower, WarmStartable, build
from evermodel.use_case import Model

SPEC = InputSpec(dense=("a", "b"), ids=(("c", 5, 3), ("h", 9, 2)), signed=frozenset({"h"}))


def inputs(rows: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 2), torch.randint(0, 5, (rows, 2))


def custom(inputs: InputSpec, outputs: int, options: dict[str, Any]) -> nn.Module:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(len(inputs.dense), outputs)

        def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
            answer: Tensor = self.layer(dense) * options["times"]
            return answer

    return Flat()


@pytest.mark.parametrize("kind", ["mlp", "linear", "two_tower"])
@pytest.mark.parametrize("wide", [[], ["c", "h"]])
def test_shapes_seeds_and_protocol(kind: str, wide: list[str]) -> None:
    model = Model(kind=kind, hidden=(6,), dim=4, options={"wide": wide} if kind != "linear" else {})
    one, same, other = (build(model, SPEC, 7, seed=seed) for seed in (1, 1, 2))
    dense, ids = inputs()
    assert one(dense, ids).shape == (4, 7)
    assert torch.equal(one(dense, ids), same(dense, ids)) and not torch.equal(one(dense, ids), other(dense, ids))
    assert isinstance(one, WarmStartable)
    assert all(layer.weight.shape[1] >= 2 and layer.bias is not None for layer in one.input_layers())
    assert set(one.id_tables()) == {"c", "h"}
    assert all(parameter.shape[axis] == 7 for parameter, axis in one.class_axes())
    known = {id(value) for value in one.parameters()}
    assert all(id(table.weight) in known for tables in one.id_tables().values() for table in tables)
    assert all(not table.weight[0].any() for tables in one.id_tables().values() for table in tables)


def test_every_dense_input_goes_through_an_input_layer_alone() -> None:
    for kind in ("mlp", "linear", "two_tower"):
        module = build(Model(kind=kind, hidden=(6,)), SPEC, 3, seed=0)
        assert isinstance(module, WarmStartable)
        with torch.no_grad():
            for layer in module.input_layers():
                layer.weight[:, 1] = 0
            dense, ids = inputs()
            moved = dense.clone()
            moved[:, 1] += 100
            assert torch.equal(module(dense, ids), module(moved, ids))


def test_a_signed_embedding_shares_rows_and_flips_them() -> None:
    table = SignedEmbedding(9, 2)
    rows = table(torch.arange(9))
    assert not rows[0].any() and torch.equal(rows[1:5], -rows[5:9])
    assert table.table.num_embeddings == 5


def test_wide_is_a_table_of_transitions_that_starts_at_zero() -> None:
    spec = InputSpec(dense=(), ids=(("last", 4, 2),))
    module = build(Model(kind="linear"), spec, 3, seed=0)
    ids = torch.tensor([[1], [2]])
    assert not module(torch.zeros(2, 0), ids).any()
    assert isinstance(module, WarmStartable)
    with torch.no_grad():
        module.id_tables()["last"][0].weight[2, 1] = 5
    assert module(torch.zeros(2, 0), ids).tolist() == [[0, 0, 0], [0, 5, 0]]


def test_a_two_tower_can_sum_embeddings_and_start_at_popularity() -> None:
    spec = InputSpec(dense=("a",), ids=(("c", 5, 4), ("narrow", 5, 2)))
    plain, summed = (
        build(Model(kind="two_tower", hidden=(6,), dim=4, options={"sum": on}), spec, 3, seed=0) for on in (0, 1)
    )
    dense, ids = torch.zeros(2, 1), torch.tensor([[1, 1], [2, 2]])
    assert isinstance(summed, TwoTower)
    extra = summed(dense, ids) - plain(dense, ids)
    torch.testing.assert_close(extra, summed.id_tables()["c"][0](ids[:, 0]) @ summed.items.weight.T)
    summed.start_at(torch.tensor([1, 3, 3]))
    assert summed.bias.tolist() == pytest.approx([-2 * math.log(2) / 3, math.log(2) / 3, math.log(2) / 3])
    with pytest.raises(InputError, match="of dim 9"):
        build(Model(kind="two_tower", dim=9, options={"sum": True}), spec, 3, seed=0)


def test_an_import_path_is_a_model_and_others_are_named() -> None:
    module = build(Model(kind=f"{__name__}:custom", options={"times": 2.0}), SPEC, 1, seed=0)
    assert module(*inputs()).shape == (4, 1) and not isinstance(module, WarmStartable)
    with pytest.raises(InputError, match="ranks classes"):
        build(Model(kind="two_tower"), SPEC, 1, seed=0)
    with pytest.raises(InputError, match=r"'ctiy'.*did you mean 'city'"):
        build(Model(options={"wide": ["ctiy"]}), InputSpec(dense=("a",), ids=(("city", 3, 2),)), 1, seed=0)
