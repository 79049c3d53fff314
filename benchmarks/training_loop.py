"""The claim: our loop, which slices tensors, is at least 8 times a stock per-row DataLoader on the same model, in one run.

The peer is torch's own recipe: TensorDataset, DataLoader (its default collate), AdamW. Both train the same module from the
same weights on the same rows in the same order (the peer is handed our permutation as its sampler), one thread each;
they take turns, the ratio is of their medians, and their final weights must agree.

    python -m benchmarks.training_loop [--small]
"""

import argparse
import time
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from evermodel.features.transforms import InputSpec
from evermodel.training.task import Task
from evermodel.training.torch.loop import EncodedRows, Schedule, make_learner, run
from evermodel.training.torch.modules import build
from evermodel.use_case import Model

BOUND = 8.0
BATCH, SMALL_BATCH = 1024, 256  # judged; and the default of a use case, where the model's own overhead weighs more
RATE = 1e-3
SPEC = InputSpec(dense=tuple(f"x{number}" for number in range(15)), ids=())  # as many features as fraud has
MODEL = Model(hidden=(64, 32))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a twentieth of the rows; the ratio isn't judged")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = make_data(5_000 if options.small else 100_000)
    print(f"training loop: {len(data):,} rows, {len(SPEC.dense)} features, MLP {MODEL.hidden}, one thread")
    ratio = compare(data, BATCH, options.repeats)
    compare(data, SMALL_BATCH, max(options.repeats // 2, 1))
    print(f"ratio {ratio:.1f} at batches of {BATCH} (bound {BOUND:.0f})")
    return 0 if options.small or ratio >= BOUND else 1


def compare(data: EncodedRows, batch_size: int, repeats: int) -> float:
    """How many times as fast ours is, by the medians of turns taken; the final weights must agree."""
    for train in (ours, theirs):  # imports and first allocations are nobody's time
        train(data.part(slice(0, 2000)), batch_size)
    mine, other = [], []
    for _ in range(repeats):
        mine.append(ours(data, batch_size))
        other.append(theirs(data, batch_size))
    difference = float((mine[0][1] - other[0][1]).abs().max())
    assert difference < 1e-4, f"the two loops didn't train the same model: a weight differs by {difference}"
    seconds, peer = (median(took for took, _ in turns) for turns in (mine, other))
    print(
        f"batches of {batch_size}: evermodel {seconds:.3f} s ({len(data) / seconds:,.0f} rows/s), DataLoader {peer:.3f} s "
        f"({len(data) / peer:,.0f} rows/s), ratio {peer / seconds:.1f}, weights differ by {difference:.0e} at most"
    )
    return peer / seconds


def make_data(rows: int) -> EncodedRows:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(rows, len(SPEC.dense))).astype(np.float32)
    ids = np.zeros((rows, 0), dtype=np.int64)
    targets = (dense[:, 0] + rng.normal(size=rows) > 0).astype(np.float32)
    return EncodedRows(
        torch.from_numpy(dense), torch.from_numpy(ids), torch.from_numpy(targets), torch.ones(rows, dtype=torch.float32)
    )


def task() -> Task:
    return Task("y", "binary", "bce", 1.0, None, (1.0, 1.0))


def ours(data: EncodedRows, batch_size: int) -> tuple[float, Tensor]:
    """(seconds, final weights) of one epoch."""
    learner = make_learner(
        build(MODEL, SPEC, 1, seed=0),
        optimizer="adamw",
        weight_decay=0.0,
        schedule=Schedule("constant", RATE, 1),
        seed=0,
    )
    began = time.perf_counter()
    run(learner, data, task().losses(), epochs=1, batch_size=batch_size)
    return time.perf_counter() - began, flat(learner.module)


def theirs(data: EncodedRows, batch_size: int) -> tuple[float, Tensor]:
    """The same by torch's recipe, in the order that our generator gives."""
    module = build(MODEL, SPEC, 1, seed=0).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.0)
    dataset = TensorDataset(data.dense, data.ids, data.targets, data.weights)
    began = time.perf_counter()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    for dense, ids, targets, weights in DataLoader(dataset, batch_size=batch_size, sampler=order):
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(module(dense, ids)[:, 0], targets, weight=weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - began, flat(module)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


if __name__ == "__main__":
    raise SystemExit(main())
