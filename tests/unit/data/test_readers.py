"""Readers of each format, and the real data sets against known facts about them."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evermodel import use_case
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest
from evermodel.data.readers import find_paths, read_csv, read_parquet, read_sessions, read_source, read_tsv
from evermodel.data.validation import validate
from evermodel.errors import DataError
from tests.support import ROOT
from tests.unit.data.shop import NOW, shop


def test_csv_is_text_with_nulls_for_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,"x, ""y"""\n,?\n')
    assert read_csv([str(tmp_path / "a.csv")], {}).to_pydict() == {"a": ["1", None], "b": ['x, "y"', "?"]}
    assert read_csv([str(tmp_path / "a.csv")], {"nulls": ["", "?"]}).to_pydict()["b"] == ['x, "y"', None]


def test_csv_without_a_header_gzipped_and_with_another_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"# made by hand\n1;2\n3;4\n"))
    table = read_csv([str(path)], {"columns": ["a", "b"], "delimiter": ";", "skip_rows": 1})
    assert table.to_pydict() == {"a": ["1", "3"], "b": ["2", "4"]}


def test_a_malformed_line_is_rejected_with_its_row_number(tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text(
        "id,who,spent,stars,kind,at,written\n"
        "1,ann,1,,walk,2024-05-01,2024-05-01\n"
        "2,ann,1,,walk\n"
        "3,ann,1,,walk,2024-05-01,2024-05-01\n"
        "4,ann,1,,walk,2024-05-01,2024-05-01,more\n"
    )
    log = EventLog(str(tmp_path / "log"))
    report = ingest(shop(), "visits", log, data_dir=tmp_path, now=NOW)
    assert (report.rows_in, report.applied, report.rejected) == (4, 2, 2)
    assert sorted(log.read("visits").column("visit").to_pylist()) == [1, 3]
    source = shop().source("visits")
    _, rejects = validate(shop(), source, read_source(shop(), source, tmp_path))
    assert rejects.to_pylist() == [
        {"row": 1, "field": "row", "reason": "not as many cells as columns", "value": "2,ann,1,,walk"},
        {
            "row": 3,
            "field": "row",
            "reason": "not as many cells as columns",
            "value": "4,ann,1,,walk,2024-05-01,2024-05-01,more",
        },
    ]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('a\tb\n"1\t2\n')
    assert read_tsv([str(tmp_path / "a.tsv")], {}).to_pydict() == {"a": ['"1'], "b": ["2"]}


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, value in (("visits2.csv", "2"), ("visits10.csv", "10"), ("visits1.csv", "1"), ("other.csv", "0")):
        (tmp_path / name).write_text(f"a\n{value}\n")
    assert [Path(path).name for path in find_paths(shop().source("visits"), tmp_path)] == [
        "visits1.csv",
        "visits10.csv",
        "visits2.csv",
    ]
    with pytest.raises(DataError, match=r"no file orders.csv in .*; did you mean 'other.csv'\?"):
        find_paths(shop().source("orders"), tmp_path)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("")
    with pytest.raises(DataError, match=r"visits.csv is empty"):
        read_source(shop(), shop().source("visits"), tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a.parquet"):
        read_parquet([str(tmp_path / "a.parquet")], {})
    with pytest.raises(DataError, match=r"no option 'delimeter'; did you mean 'delimiter'\?"):
        read_csv([str(tmp_path / "visits.csv")], {"delimeter": ";"})


def test_parquet_files_are_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([2], pa.int64())}), tmp_path / "2.parquet")
    assert read_parquet([str(tmp_path / f"{n}.parquet") for n in (1, 2)], {}).to_pydict() == {"a": [1, 2]}


def rows_of_options(paths: list[str], options: dict[str, Any]) -> pa.Table:
    return pa.table({"id": [str(options["start"])]})


def test_a_reader_by_import_path(tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("")
    source = (
        shop().source("visits").model_copy(update={"reader": f"{__name__}:rows_of_options", "options": {"start": 7}})
    )
    assert read_source(shop(), source, tmp_path).to_pydict() == {"id": ["7"]}
    unknown = source.model_copy(update={"reader": "cvs"})
    with pytest.raises(DataError, match=r"no reader 'cvs'; did you mean 'csv'\?"):
        read_source(shop(), unknown, tmp_path)


def test_sessions_are_steps(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text("t1 \tu1\t0\t633N\t159P\t475\nt2\tu2\t12F\t7L\t-1\nt3\tu3\t0\tL7\t8\n")
    table = read_sessions([str(tmp_path / "s.tsv")], {})
    assert table.slice(0, 3).drop_columns(["_malformed"]).to_pylist() == [
        dict(zip(table.column_names, row, strict=False))
        for row in [
            ("s.tsv:1", "t1", "u1", None, 0, "633", "N", "159", False),
            ("s.tsv:1", "t1", "u1", None, 1, "159", "P", "475", True),
            ("s.tsv:2", "t2", "u2", "12F", 0, "7", "L", None, True),
        ]
    ]
    assert table.column("_malformed").to_pylist()[3] == "t3\tu3\t0\tL7\t8"


def test_all_of_entree(shared_data: Path, tmp_path: Path) -> None:
    case = use_case.load(ROOT / "use_cases" / "entree.yaml")
    log = EventLog(str(tmp_path))
    report = ingest(case, "steps", log, data_dir=shared_data, now=NOW)
    assert report.applied == report.rows_in == 129_235
    table = log.read("steps")
    final = table.filter(table.column("final"))
    assert final.num_rows == 34_579
    assert round(final.column("next").null_count / final.num_rows, 3) == 0.117
    assert min(filter(lambda item: item is not None, table.column("next").to_pylist())) >= 0
    assert "0" not in set(table.column("entry").to_pylist())
    assert str(table.column("event_time")[-1])[:7] == "1998-09"
    assert ingest(case, "restaurants", log, data_dir=shared_data, now=NOW).applied == 676


def test_all_of_electricity(shared_data: Path, electricity: use_case.UseCase, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    report = ingest(electricity, "prices", log, data_dir=shared_data, now=NOW)
    assert report.applied == report.rows_in == 45_312
    table = log.read("prices", columns=["class", "event_time", "ingest_seq", "vicprice"])
    assert table.column("ingest_seq").to_pylist() == list(range(45_312))
    assert str(table.column("event_time")[17_424])[:16] == "1997-05-05 00:00"
    assert len(set(table.column("vicprice").to_pylist()[:17_424])) == 1
