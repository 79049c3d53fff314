"""A client of the HTTP API that has the champion rank the candidates of simulated requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.errors import EvermodelError
from evermodel.records import canonical_json
from evermodel.simulation.config import simulation
from evermodel.use_case import UseCase

CLIENTS = 4
TIMEOUT_SECONDS = 10


def rank_candidates(case: UseCase, candidates: pa.Table, url: str, *, token: str | None = None) -> NDArray[np.float64]:
    """The score that the API at `url` gives to each candidate, float64[n]; -inf if an answer doesn't name it."""
    group, item = case.predict.group, case.predict.item
    assert group is not None and item is not None
    shown = simulation(case).traffic.shown
    rows = candidates.to_pylist()
    requests: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        requests.setdefault(row[group], []).append(index)
    bodies = [build_rank_request(case, [rows[index] for index in indexes], k=shown) for indexes in requests.values()]
    scores = np.full(len(rows), -np.inf)
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    with httpx.Client(timeout=TIMEOUT_SECONDS, headers=headers) as client, ThreadPoolExecutor(CLIENTS) as pool:
        answers = pool.map(lambda body: _post(client, f"{url}/v1/{case.name}/rank", body), bodies)
        for indexes, answer in zip(requests.values(), answers, strict=True):
            index_of = {rows[index][item]: index for index in indexes}
            for ranked in answer["ranking"]:
                scores[index_of[ranked["item"]]] = ranked["score"]
    return scores


def build_rank_request(case: UseCase, rows: Sequence[Mapping[str, Any]], *, k: int) -> str:
    """The JSON of a `/rank` request for the candidates of one request.

    Fields that are equal in every row are sent once, as the context.
    """
    group = case.predict.group or ""
    fields = {field.name for field in case.prediction_source.fields} - {case.predict.position, group}
    shared = {name for name in fields if len({row.get(name) for row in rows}) == 1 and name != case.predict.item}
    context = {name: rows[0][name] for name in sorted(shared) if rows[0].get(name) is not None}
    own = sorted(fields - shared)
    return canonical_json(
        {
            "request_id": rows[0][group],
            "at": rows[0]["event_time"].isoformat(),
            "k": k,
            "context": {**context, group: rows[0][group]},
            "candidates": [{name: row[name] for name in own if row.get(name) is not None} for row in rows],
        }
    )


def _post(client: httpx.Client, url: str, body: str) -> dict[str, Any]:
    response = client.post(url, content=body)
    if response.status_code != 200:
        raise EvermodelError(f"{url}: {response.status_code} {response.text}")
    answer: dict[str, Any] = response.json()
    return answer
