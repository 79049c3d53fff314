"""Does a bundle's model use a GPU well? Batched scores on `cuda` against `cpu`, and against plain torch on the same GPU.

    python -m benchmarks.gpu_inference [--rows 1000000]

Prints rows per second of the three, and the largest difference of a score between CPU and GPU. Encoding is timed apart:
it runs on the CPU for all. Without a GPU it says so and measures nothing.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from evermodel import use_case
from evermodel.bundle import Bundle, open_bundle
from evermodel.features.training_set import TrainingRows, row_digest
from evermodel.records import Window
from evermodel.scores import Scores
from evermodel.training.torch.model import NetworkModel
from evermodel.training.train import train

NUMBERS, TRAINED, REPEATS = 20, 20_000, 5
TOLERANCE = 1e-5
CASE = f"""
name: wide
framing: binary
entities: [{{name: user, key: user}}]
sources:
  - name: rows
    reader: csv
    event_time: {{field: at}}
    fields: [{{name: user, type: string}}, {{name: at, type: timestamp}}, {{name: item, type: string}}, {{name: y, type: int}},
             {", ".join(f"{{name: x{number}}}" for number in range(NUMBERS))}]
predict: {{source: rows}}
labels: [{{name: y, kind: column, delay: 1d}}]
features: [{{name: item, kind: column, encode: embed, dim: 16}},
           {", ".join(f"{{name: x{number}, kind: column}}" for number in range(NUMBERS))}]
objectives: [{{name: y, label: y, model: {{kind: mlp, hidden: [512, 256, 128]}}}}]
training: {{epochs: 1, batch_size: 1024}}
evaluation: {{metric: auc}}
monitoring: {{window: 1d}}
"""
START, END, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)


def make_rows(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = {f"x{number}": rng.normal(size=count) for number in range(NUMBERS)}
    items = pa.array([f"i{number}" for number in range(1000)]).take(pa.array(rng.integers(0, 1000, count)))
    label = (columns["x0"] + columns["x1"] * columns["x2"] + rng.normal(size=count) > 0).astype(float)
    times = pa.array([START] * count, pa.timestamp("us", tz="UTC"))
    return pa.table({"row_id": np.arange(count), "event_time": times, "item": items, **columns, "label:y": label})


def make_bundle(out: str) -> Bundle:
    """A network of about 180,000 weights, trained for one epoch."""
    rows = make_rows(TRAINED, 0)
    window = Window(start=START, end=END)
    round_rows = TrainingRows(
        train=rows,
        gate=rows.slice(0, 0),
        rehearsal=None,
        windows=(window,),
        gate_window=window,
        rehearsal_window=None,
        row_digest=row_digest(rows["row_id"].to_numpy()),
        cursor=END,
        data_version="",
    )
    case = use_case.parse(CASE)
    return open_bundle(
        train(case, "y", round_rows, mode="from_scratch", parent=None, trigger=None, now=NOW, out=out).ref
    )


def best_seconds(score: Callable[[], Any]) -> float:
    """The shortest of some runs, after one that warms up."""
    score()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        score()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def plain_torch(model: NetworkModel, dense: torch.Tensor, ids: torch.Tensor, batch: int = 65_536) -> torch.Tensor:
    """The peer: the same module on the same GPU, by an expert's own loop of large batches."""
    with torch.inference_mode():
        parts = [
            torch.sigmoid(model.module(dense[i : i + batch].cuda(), ids[i : i + batch].cuda()).double()).cpu()
            for i in range(0, len(dense), batch)
        ]
    return torch.cat(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        return 0
    with tempfile.TemporaryDirectory() as out:
        model = make_bundle(out).scorer
        assert isinstance(model, NetworkModel)
        table = make_rows(arguments.rows, 1)
        began = time.perf_counter()
        encoded = model.encode(table)
        print(f"{torch.cuda.get_device_name()}; {arguments.rows:,} rows; encoding {time.perf_counter() - began:.2f} s")
        found: dict[str, Scores] = {}
        seconds: dict[str, float] = {}
        for device in ("cpu", "cuda"):
            model.to(device)
            found[device] = model.score(encoded)
            seconds[device] = best_seconds(lambda: model.score(encoded))
        dense, ids = torch.from_numpy(encoded.dense), torch.from_numpy(encoded.ids)
        seconds["plain torch on cuda"] = best_seconds(lambda: plain_torch(model, dense, ids))
    for name, taken in seconds.items():
        print(f"{name:<20} {arguments.rows / taken:>12,.0f} rows/s")
    difference = float(np.abs(found["cpu"].values - found["cuda"].values).max())
    print(f"cuda / cpu {seconds['cpu'] / seconds['cuda']:.1f}x, cuda / plain torch "
          f"{seconds['plain torch on cuda'] / seconds['cuda']:.2f}x, largest difference {difference:.1e}")  # fmt: skip
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
