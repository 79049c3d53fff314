"""The ledger on a real PostgreSQL: its migrations, its password, and what happens when the database goes away.

What the ledger itself promises is tested on both engines in `unit/test_ledger.py`.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import evermodel
from evermodel.errors import EvermodelError, InputError
from evermodel.ledger import Ledger
from evermodel.ledger.engine import make_engine, read_revision, reading, writing
from evermodel.ledger.migrate import HEAD, migrate
from evermodel.ledger.tables import metadata
from tests.support.servers import Server, database_url, postgresql_server

NOW = datetime(2026, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql_server() as found:
        yield found


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """Of an empty database."""
    found = database_url(server)
    yield found
    make_engine(found).dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("url"))


def differences(url: str) -> list[object]:
    with make_engine(url).connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    return list(found)


def test_the_revisions_end_at_the_tables_as_they_are_declared(either: str) -> None:
    assert migrate(either) == (None, HEAD)
    assert differences(either) == []
    assert migrate(either) == (HEAD, HEAD), "there is nothing left to do"
    assert Ledger(either).champion("shop") is None


def test_the_revisions_are_numbered_in_order() -> None:
    script = ScriptDirectory(str(Path(evermodel.__file__).parent / "ledger" / "migrations"))
    numbers = [revision.revision for revision in script.walk_revisions()][::-1]
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]
    assert numbers[-1] == HEAD


def test_a_file_of_an_older_schema_is_brought_up_by_whoever_opens_it(tmp_path: Path) -> None:
    """Its revision is behind (here: none was ever applied), and its tables are made by the migrations."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    engine = make_engine(url)
    with writing(engine, "test") as connection:
        connection.execute(text("create table alembic_version (version_num varchar(32) not null)"))
        connection.execute(text("insert into alembic_version values ('0000')"))
    with pytest.raises(Exception, match="0000"):
        Ledger(url)  # no revision of that number: nothing is guessed
    with writing(engine, "test") as connection:
        connection.execute(text("delete from alembic_version"))
    Ledger(url).record_error("shop", "here", "why", NOW)
    assert read_revision(engine) == HEAD and differences(url) == []


def test_a_database_that_was_never_migrated_says_what_to_do(url: str) -> None:
    with pytest.raises(InputError, match=r"schema none, not .*: run `evermodel ledger migrate`"):
        Ledger(url)
    assert read_revision(make_engine(url)) is None, "nothing was made on the way"


def test_migrations_at_once_are_one(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert [after for _, after in pool.map(migrate, [url] * 4)] == [HEAD] * 4
    assert differences(url) == []


def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evermodel.ledger.migrate.HEAD", "0002-not-there")
    with pytest.raises(Exception, match="0002-not-there"):
        migrate(url)
    assert read_revision(make_engine(url)) is None


def test_the_next_call_after_a_restart_of_the_database_works(server: Server, url: str) -> None:
    migrate(url)
    ledger = Ledger(url)
    ledger.record_error("shop", "here", "before", NOW)
    server.stop()
    with pytest.raises(EvermodelError, match="can't be reached") as caught:
        ledger.errors("shop")
    server.start()
    assert server.password not in str(caught.value)
    ledger.record_error("shop", "here", "after", NOW)
    assert [error.message for error in ledger.errors("shop")] == ["before", "after"]


def test_a_connection_cut_between_two_calls_is_not_seen(url: str) -> None:
    migrate(url)
    ledger = Ledger(url)
    ledger.errors("shop")
    cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
    other = make_engine(url.replace("?", "?application_name=other&"))  # a pool of its own
    with reading(other) as connection:
        assert connection.scalar(text(cut)) >= 1
    other.dispose()
    assert ledger.errors("shop") == []


def test_a_statement_that_hangs_is_ended(url: str) -> None:
    migrate(url)
    with reading(make_engine(url)) as connection:
        assert connection.scalar(text("show statement_timeout")) == "30s"
        assert connection.scalar(text("show idle_in_transaction_session_timeout")) == "1min"


def test_a_changed_password_is_read_again_and_is_in_no_message(server: Server, tmp_path: Path, url: str) -> None:
    migrate(url)
    file = tmp_path / "password"
    file.write_text("canary-of-a-password")
    elsewhere = url.partition("?")[0] + f"?password_file={file}"
    with pytest.raises(EvermodelError, match="authentication failed") as caught:
        Ledger(elsewhere)
    said = "".join(str(error) for error in (caught.value, caught.value.__cause__, make_engine(elsewhere)))
    assert "canary" not in said and server.password not in said
    file.write_text(server.password)
    assert Ledger(elsewhere).errors("shop") == []
    make_engine(elsewhere).dispose()


def test_the_command_migrates_and_shows_no_password(server: Server, url: str, tmp_path: Path) -> None:
    profile = {"ledger": url.partition("?")[0], "ledger_password_file": str(server.password_file)}
    (tmp_path / "evermodel.yaml").write_text(yaml.safe_dump(profile))

    def evermodel(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evermodel.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    before = evermodel("status")
    assert before.returncode == 2 and "run `evermodel ledger migrate`" in before.stderr
    done = evermodel("ledger", "migrate", "--output", "json")
    assert yaml.safe_load(done.stdout) == {"before": "none", "now": HEAD}
    after, shown = evermodel("status"), evermodel("config", "show")
    assert after.returncode == shown.returncode == 0
    assert yaml.safe_load(shown.stdout)["ledger_password_file"] == str(server.password_file)
    for said in (before, done, after, shown):
        assert server.password not in said.stdout + said.stderr
