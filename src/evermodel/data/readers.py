"""Sources as tables of raw columns: csv, tsv, parquet, sessions, or a function named by import path.

A reader keeps text as text, so that a bad cell reaches `validation`, which rejects it with its value. A line with too
many or too few cells becomes a row whose only cell is in the column `MALFORMED`.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from evermodel import plugins, storage
from evermodel.data.tables import table_digest
from evermodel.errors import DataError, nearest
from evermodel.records import Window, sha256
from evermodel.use_case import Source, UseCase

MALFORMED = "_malformed"
Reader = Callable[[list[str], dict[str, Any]], pa.Table]


def read_source(use_case: UseCase, source: Source, data_dir: str | Path, *, window: Window | None = None) -> pa.Table:
    """The raw columns of every file of the source, in the order of the files' names.

    `window`: the time to simulate, if the source is simulated.
    """
    if source.reader == "simulator":
        if window is None:
            raise DataError(f"{use_case.name}.{source.name} is simulated: give the window to simulate")
        from evermodel.simulation import simulator

        return simulator.read(use_case, source.name, window)
    if ":" in source.reader:
        reader = plugins.load(source.reader, "source")
    elif source.reader in READERS:
        reader = READERS[source.reader]
    else:
        raise DataError(f"source {source.name}: no reader {source.reader!r}; {nearest(source.reader, READERS)}")
    paths = find_paths(source, data_dir)
    table = reader(paths, dict(source.options))
    if not isinstance(table, pa.Table):
        raise DataError(
            f"source {source.name}: reader {source.reader} gave {type(table).__name__}, not a pyarrow.Table"
        )
    return table


def source_digest(source: Source, raw: pa.Table, data_dir: str | Path) -> str:
    """The default name of a batch: the digest of the files' bytes, or of the raw table if there are no files."""
    paths = find_paths(source, data_dir)
    return sha256("".join(sha256(storage.read_bytes(path)) for path in paths).encode()) if paths else table_digest(raw)


def find_paths(source: Source, data_dir: str | Path) -> list[str]:
    """The files that `source.path` names below the data directory, sorted; DataError if there is none."""
    if source.path is None:
        return []
    parts = source.path.strip("/").split("/")
    wild = next((index for index, part in enumerate(parts) if "*" in part or "?" in part), None)
    if wild is None:
        path = storage.join(data_dir, source.path)
        if storage.exists(path):
            return [path]
    folder = storage.join(data_dir, *parts[: len(parts) - 1 if wild is None else wild])
    below = {storage.Uri.parse(uri).relative_to(folder): uri for uri in storage.list_files(folder)}
    rest = parts[len(parts) - 1 if wild is None else wild :]
    found = [uri for name, uri in below.items() if wild is not None and _matches(name.split("/"), rest)]
    if not found:
        near = nearest("/".join(rest), below) if below else "the folder is empty or not there"
        raise DataError(f"source {source.name}: no file {source.path} in {data_dir}; {near}")
    return sorted(found)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _read_unpacked(path: str) -> bytes:
    """A file's bytes, unpacked if they are gzip (by the first bytes, not by the name)."""
    data = storage.read_bytes(path)
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def read_parquet(paths: list[str], options: dict[str, Any]) -> pa.Table:
    """Columns as they are stored. No options."""
    _known_options("parquet", options, ())
    try:
        tables = [pq.read_table(pa.BufferReader(_read_unpacked(path))) for path in paths]
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{', '.join(paths)}: {error}") from None


def read_csv(paths: list[str], options: dict[str, Any]) -> pa.Table:
    """Text columns. Options: delimiter, quote, columns (names, for files without a header), nulls, skip_rows."""
    _known_options("csv", options, _CSV_OPTIONS)
    return _read_delimited(paths, {"delimiter": ",", "quote": '"', **options})


def read_tsv(paths: list[str], options: dict[str, Any]) -> pa.Table:
    """The same, separated by tabs and without quotes."""
    _known_options("tsv", options, _CSV_OPTIONS)
    return _read_delimited(paths, {"delimiter": "\t", "quote": False, **options})


_CSV_OPTIONS = ("delimiter", "quote", "columns", "nulls", "skip_rows", "encoding")


def _read_delimited(paths: list[str], options: dict[str, Any]) -> pa.Table:
    tables: list[pa.Table] = []
    for path in paths:
        data = _read_unpacked(path)
        names = options.get("columns") or _header(path, data, options)
        try:
            table = _parse_delimited(data, names, options)
        except pa.ArrowException as error:
            raise DataError(f"{path}: {error}") from None
        if tables and MALFORMED not in table.column_names and table.column_names != tables[0].column_names:
            raise DataError(f"{path} has columns {', '.join(names)}; {paths[0]} has others")
        tables.append(table)
    return pa.concat_tables(tables, promote_options="default")


def _header(path: str, data: bytes, options: dict[str, Any]) -> list[str]:
    quote = options["quote"]
    text = io.TextIOWrapper(io.BytesIO(data), encoding=options.get("encoding", "utf-8-sig"), newline="")
    rows = csv.reader(
        text,
        delimiter=options["delimiter"],
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        quotechar=quote or None,
    )
    for _ in range(int(options.get("skip_rows", 0))):
        next(rows, None)
    names = next(rows, None)
    if not names:
        raise DataError(f"{path} is empty: it needs a header, or options.columns")
    return [name.strip() for name in names]


def _parse_delimited(data: bytes, names: list[str], options: dict[str, Any]) -> pa.Table:
    """Every cell as text; a line with too many or too few cells becomes a malformed row in its place."""
    skipped: list[tuple[int, str]] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        skipped.append((row.number or 0, row.text))
        return "skip"

    header = not options.get("columns")
    before = int(options.get("skip_rows", 0)) + int(header)
    read_options = {"column_names": names, "skip_rows": before, "encoding": options.get("encoding", "utf8")}
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=[str(value) for value in options.get("nulls", [""])],
        strings_can_be_null=True,
    )
    parse = {"delimiter": options["delimiter"], "quote_char": options["quote"]}
    if not data[:1] or data.count(b"\n") < before:
        return pa.table({name: pa.array([], pa.string()) for name in names})
    try:
        return pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(**read_options),
            parse_options=pa_csv.ParseOptions(**parse),
            convert_options=convert,
        )
    except pa.ArrowInvalid:  # again with one thread, which counts lines, so that bad lines keep their place
        table = pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(**read_options, use_threads=False),
            parse_options=pa_csv.ParseOptions(**parse, invalid_row_handler=skip),
            convert_options=convert,
        )
    return _insert_malformed(table, [(number - before - 1, text) for number, text in skipped])


def _insert_malformed(table: pa.Table, malformed: list[tuple[int, str]]) -> pa.Table:
    """Puts malformed lines back in their places: `malformed` holds (row, text)."""
    total = table.num_rows + len(malformed)
    texts = dict(malformed)
    places: list[int | None] = []
    taken = 0
    for row in range(total):
        places.append(None if row in texts else taken)
        taken += row not in texts
    table = table.take(pa.array(places, pa.int64()))
    return table.append_column(MALFORMED, pa.array([texts.get(row) for row in range(total)], pa.string()))


_SESSION_OPTIONS = ("unknown", "unknown_entry", "step", "delimiter")


def read_sessions(paths: list[str], options: dict[str, Any]) -> pa.Table:
    """Ragged lines `time, user, entry point, item+operation …, last item`: one row per step.

    Columns, all text but two: session (`file:line`, from 1), time, user, entry, step (int, from 0), item, operation,
    next (the item of the next step; after the last step the item where the session ended; null if that is unknown),
    final (bool). Options: `unknown` (end, "-1"), `unknown_entry` ("0"), `step` (a pattern with the groups item and
    operation, digits and a letter), `delimiter` (tab).
    """
    _known_options("sessions", options, _SESSION_OPTIONS)
    pattern = re.compile(str(options.get("step", r"(?P<item>\d+)(?P<operation>[A-Za-z]?)")))
    unknown, unknown_entry = str(options.get("unknown", "-1")), str(options.get("unknown_entry", "0"))
    rows: list[tuple[Any, ...]] = []
    for path in paths:
        name = storage.Uri.parse(path).name
        for number, line in enumerate(_read_unpacked(path).decode().splitlines(), start=1):
            cells = [cell.strip() for cell in line.split(options.get("delimiter", "\t"))]
            steps = [pattern.fullmatch(cell) for cell in cells[3:-1]]
            if len(cells) < 5 or not all(steps):
                rows.append((None,) * 9 + (line,))
                continue
            time, user, entry, end = *cells[:3], cells[-1]
            seen = [(step["item"], step["operation"] or None) for step in steps if step]
            ends = [item for item, _ in seen[1:]] + [None if end == unknown else end]
            entry_or_null = None if entry == unknown_entry else entry
            for index, ((item, operation), following) in enumerate(zip(seen, ends, strict=True)):
                final = index == len(seen) - 1
                key = f"{name}:{number}"
                rows.append((key, time, user, entry_or_null, index, item, operation, following, final, None))
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_SESSION_SCHEMA)
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, _SESSION_SCHEMA, strict=True)],
        schema=_SESSION_SCHEMA,
    )
    return table if table.column(MALFORMED).null_count < table.num_rows else table.drop_columns([MALFORMED])


_SESSION_SCHEMA = pa.schema(
    [
        ("session", pa.string()),
        ("time", pa.string()),
        ("user", pa.string()),
        ("entry", pa.string()),
        ("step", pa.int64()),
        ("item", pa.string()),
        ("operation", pa.string()),
        ("next", pa.string()),
        ("final", pa.bool_()),
        (MALFORMED, pa.string()),
    ]
)


def _known_options(reader: str, options: dict[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise DataError(f"reader {reader} has no option {name!r}; {nearest(name, known)}")


READERS: dict[str, Reader] = {"csv": read_csv, "tsv": read_tsv, "parquet": read_parquet, "sessions": read_sessions}
