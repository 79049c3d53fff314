"""The Feast repository, built from the use-case files: the only module that imports Feast.

Feast holds the definitions, for users who already have Feast. The hot paths are `features.online_store` and
`features.point_in_time`, on the same stores with the same values. `PackedOnlineStore` and `PackedRedisOnlineStore` are
Feast plugins that any Feast project can name in its `feature_store.yaml`:

    online_store: {type: evermodel.features.repository.PackedOnlineStore, path: data/online.db}
    online_store: {type: evermodel.features.repository.PackedRedisOnlineStore, uri: "redis://…", password_file: …}
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import parse_qs

import numpy as np
import pyarrow as pa
import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import Bool, Float32, Float64, Int32, Int64, String

from evermodel import storage
from evermodel.clock import from_micros, micros
from evermodel.errors import FeatureStoreError
from evermodel.features.online_store import View, empty_snapshot, open_store, views
from evermodel.features.packed_store import KeyValueStore, PackedStore
from evermodel.pgpass import write_passfile
from evermodel.records import canonical_json
from evermodel.use_case import UseCase

_FIELDS = {Float64: "double_val", Float32: "float_val", Int64: "int64_val", Int32: "int32_val", Bool: "bool_val"}


def definitions(use_cases: Iterable[UseCase], offline_root: str) -> dict[str, Any]:
    """Every Feast object of the use cases by name: entities, sources, push sources, feature views and services."""
    found: dict[str, Any] = {}
    for case in use_cases:
        own: list[Any] = []
        for view in views(case):
            entity, source, pushed, feature_view = _view(case, view, offline_root)
            found.update({entity.name: entity, source.name: source, pushed.name: pushed, view.name: feature_view})
            own.append(feature_view)
        if own:
            found[case.name] = FeatureService(name=case.name, features=own, description=case.description)
    return found


def _view(case: UseCase, view: View, offline_root: str) -> tuple[Entity, FileSource, PushSource, FeatureView]:
    text_key = view.key_type == pa.string()
    entity = Entity(
        name=f"{view.name}_id",
        join_keys=[view.key],
        value_type=ValueType.STRING if text_key else ValueType.INT64,
        description=case.entity(view.entity).description,
    )
    folder = storage.join(offline_root, view.name)
    if not storage.list_files(folder):  # Feast reads the columns from existing files
        storage.write_table(storage.join(folder, "schema.parquet"), empty_snapshot(view))
    location = storage.Uri.parse(folder)  # Feast takes the endpoint of S3 as a setting of its own
    source = FileSource(
        name=f"{view.name}_files",
        path=location.path,
        s3_endpoint_override=parse_qs(location.query).get("endpoint_override", [None])[0],
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    pushed = PushSource(name=f"{view.name}_push", batch_source=source)
    schema = [Field(name=view.key, dtype=String if text_key else Int64)]
    schema += [Field(name=name, dtype=Float64) for name in view.numbers]
    schema += [Field(name=name, dtype=String) for name in view.texts]
    ttl = timedelta(microseconds=case.serving.ttl) if case.serving.ttl else timedelta(0)
    return (
        entity,
        source,
        pushed,
        FeatureView(name=view.name, entities=[entity], ttl=ttl, schema=schema, source=pushed, online=True),
    )


def apply(
    repo: str | Path,
    use_cases: Iterable[UseCase],
    offline_root: str,
    *,
    file: str = "feature_store.yaml",
    places: Mapping[str, str] | None = None,
) -> list[str]:
    """Registers the definitions with the repository's registry; returns their names, sorted.

    file: the file in `repo` that names the stores; `places` fills in its `${NAME}`. A PostgreSQL URL among them may
    name a `password_file`.
    """
    found = definitions(use_cases, offline_root)
    with (
        chdir(repo),
        TemporaryDirectory() as folder,
    ):  # the registry's SQLite path is relative, as for the feast command
        filled = {name: _with_passfile(place, folder) for name, place in (places or {}).items()}
        store = open_feast(".", file=file, places=filled)
        try:
            store.apply(list(found.values()))
        finally:
            for engine in ("write_engine", "read_engine"):  # Feast never closes them
                if hasattr(store.registry, engine):
                    getattr(store.registry, engine).dispose()
    return sorted(found)


def open_feast(
    repo: str | Path, *, file: str = "feature_store.yaml", places: Mapping[str, str] | None = None
) -> FeatureStore:
    """Feast's own store of a repository."""
    text = Template(storage.read_text(Path(repo) / file)).safe_substitute({**os.environ, **(places or {})})
    return FeatureStore(config=RepoConfig(**yaml.safe_load(text), repo_path=Path(repo).absolute()))


def _with_passfile(place: str, folder: str) -> str:
    if not place.startswith("postgresql"):
        return place
    url, passfile = write_passfile(place, folder)
    return url if passfile is None else f"{url}{'&' if '?' in url else '?'}passfile={passfile}"


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """`type: evermodel.features.repository.PackedOnlineStore` and the path of its file."""

    type: Literal["evermodel.features.repository.PackedOnlineStore"] = "evermodel.features.repository.PackedOnlineStore"
    path: str = "data/online.db"


class PackedOnlineStore(OnlineStore):
    """The Feast plugin of `features.packed_store`: one blob per entity instead of one row per feature."""

    _store: KeyValueStore | None = None

    def _open(self, config: RepoConfig) -> KeyValueStore:
        if self._store is None:
            path = Path(config.online_store.path)
            self._store = PackedStore(path if path.is_absolute() else Path(config.repo_path or ".") / path)
        return self._store

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Upserts rows; a row that is older than the stored one is skipped."""
        numbers, texts = _names(table)
        store = self._open(config)
        store.define(table.name, numbers=numbers, texts=texts)
        store.write(
            table.name,
            [_key(key) for key, *_ in data],
            np.array([micros(_aware(time)) for _, _, time, _ in data], dtype=np.int64),
            np.array([[_number(values.get(name)) for name in numbers] for _, values, *_ in data]).reshape(
                len(data), len(numbers)
            ),
            [[_text(values.get(name)) for name in texts] for _, values, *_ in data],
        )
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Values in the keys' order; (None, None) if an entity is unknown."""
        packed = self._open(config).read(table.name, [_key(key) for key in entity_keys])
        types = {field.name: field.dtype for field in table.features}
        wanted = requested_features or list(types)
        columns = {name: packed.column(name) for name in wanted}
        return [
            (from_micros(time), {name: _value(columns[name][row], types[name]) for name in wanted})
            if time >= 0
            else (None, None)
            for row, time in enumerate(packed.event_times)
        ]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Defines the views to keep, and drops the views to delete."""
        store = self._open(config)
        for table in tables_to_delete:
            store.drop(table.name)
        for table in tables_to_keep:
            numbers, texts = _names(table)
            store.define(table.name, numbers=numbers, texts=texts)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        for table in tables:
            self._open(config).drop(table.name)


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):
    """`type: evermodel.features.repository.PackedRedisOnlineStore`, its URI, and the file of its password."""

    type: Literal["evermodel.features.repository.PackedRedisOnlineStore"] = (
        "evermodel.features.repository.PackedRedisOnlineStore"
    )
    uri: str = "redis://127.0.0.1:6379/0"
    password_file: str | None = None
    timeout_s: float = 5.0


class PackedRedisOnlineStore(PackedOnlineStore):
    """The Feast plugin of `features.redis_store`."""

    def _open(self, config: RepoConfig) -> KeyValueStore:
        if self._store is None:
            place = config.online_store
            password_file = place.password_file or None  # an empty text if the place has no value
            self._store = open_store(place.uri, password_file=password_file, timeout_s=place.timeout_s)
        return self._store


def _names(table: FeatureView) -> tuple[list[str], list[str]]:
    numbers = [field.name for field in table.features if field.dtype in _FIELDS]
    texts = [field.name for field in table.features if field.dtype == String]
    if other := [field.name for field in table.features if field.name not in {*numbers, *texts}]:
        raise FeatureStoreError(f"view {table.name!r}: {', '.join(other)} is neither a number nor a text")
    return numbers, texts


def _key(key: EntityKey) -> str:
    values = {name: _plain(value) for name, value in zip(key.join_keys, key.entity_values, strict=True)}
    return str(next(iter(values.values()))) if len(values) == 1 else canonical_json(values)


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def _number(value: Value | None) -> float:
    plain = None if value is None else _plain(value)
    return float("nan") if plain is None else float(plain)


def _text(value: Value | None) -> str | None:
    plain = None if value is None else _plain(value)
    return None if plain is None else str(plain)


def _value(plain: Any, dtype: Any) -> Value:
    if plain is None:
        return Value()
    if dtype == String:
        return Value(string_val=plain)
    value, field = Value(), _FIELDS[dtype]
    kind = float if field in ("double_val", "float_val") else bool if field == "bool_val" else int
    setattr(value, field, kind(plain))
    return value


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
