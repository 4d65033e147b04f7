"F7: an SQLite file is cut short, one of its pages is zeroed, the -wal file beside it is deleted. It is noticed when the database is opened or verified, and a snapshot brings back what was."
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from conftest import llmops
from harness import chain, draw, times, told

from llmops_nb.ground.audit import open_audit
from llmops_nb.ground.core import LlmopsError
from llmops_nb.ground.ledger import Ledger, feedback, now
from llmops_nb.ground.settings import Workspace
from llmops_nb.operate.backup import take_snapshot
from llmops_nb.operate.drill import read_tables
from llmops_nb.operate.restore import check_audit, check_databases, check_entered, open_snapshot, restore_snapshot

CASES = times(12, 200)
FAULTS = ["cut short", "page zeroed", "-wal deleted"]
BOOKS = ["ledger.sqlite", "audit.sqlite"]


@pytest.fixture
def crashed(tmp_path: Path, workspace: Path, home: Path, monkeypatch) -> Path:
    "A workspace as a power cut leaves it: after a run, with work that is still in the -wal files; and, beside it, a snapshot of that moment."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    chain(workspace, ["90_one"])
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    living = Workspace(workspace)
    Ledger(living.address("ledger")).add(feedback, *(dict(time=now(), request=str(n), rating="up", correction="x" * 500) for n in range(200)))
    for number in range(60):
        open_audit(living).append("test.act", "tester", details={"number": number})
    with closing(sqlite3.connect(living.private / "ledger.sqlite")) as ledger, closing(sqlite3.connect(living.private / "audit.sqlite")) as audit:
        for connection in (ledger, audit):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        chain(workspace, ["90_one", "91_two"])
        assert llmops(workspace, "run", "two", home=home).returncode == 0
        open_audit(living).append("person.test", "tester")
        take_snapshot(living, tmp_path / "place", "before")
        shutil.copytree(workspace, tmp_path / "crashed")
    assert all((tmp_path / "crashed" / ".llmops" / f"{name}-wal").stat().st_size > 1000 for name in BOOKS)
    return tmp_path / "crashed"


def spoil(path: Path, fault: str, random: Random) -> str:
    "Do it to a database; where it was done."
    for database in BOOKS if fault != "-wal deleted" else []:
        with closing(sqlite3.connect(path.with_name(database))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    if fault == "-wal deleted":
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        return "beside it"
    place = random.randrange(size) if fault == "cut short" else random.randrange(size // 4096) * 4096
    with open(path, "rb+") as file:
        if fault == "cut short":
            file.truncate(place)
        else:
            file.seek(place)
            file.write(b"\0" * 4096)
    return f"at byte {place} of {size}"


def notice(workspace: Workspace) -> str:
    "What is said when the books are verified, the databases named; '' where nothing is noticed."
    said = []
    for check in (check_databases, check_audit, check_entered):
        try:
            said += check(workspace)
        except (LlmopsError, sqlite3.Error) as error:
            said.append(str(error))
    return "; ".join(said)


def tables_of(workspace: Workspace) -> dict[str, dict[str, list[str]]]:
    "All rows of both books, by digest."
    return {name: read_tables(workspace.private / name) for name in BOOKS}


def test_f7_books_are_damaged(tmp_path: Path, crashed: Path, record_property):
    random, noticed, harmless = draw("F7"), 0, 0
    shutil.copytree(crashed, tmp_path / "reference")
    assert notice(Workspace(tmp_path / "reference")) == ""
    before = tables_of(Workspace(tmp_path / "reference"))
    for number in range(CASES):
        book, fault = BOOKS[number % 2], FAULTS[number // 2 % 3]
        workspace = Workspace(Path(shutil.copytree(crashed, tmp_path / str(number))))
        where = spoil(workspace.private / book, fault, random)
        if said := notice(workspace):
            assert book.partition(".")[0] in said or "witness" in said, said
            noticed += 1
        else:  # a page on the free list holds nothing
            assert tables_of(workspace) == before, f"{book}, {fault} {where}: rows were lost and nobody said so"
            harmless += 1
        restored = restore_snapshot(open_snapshot(tmp_path / "place", "before"), tmp_path / "restored")
        assert tables_of(restored) == before and notice(restored) == ""
        for folder in (workspace.root, restored.root):
            shutil.rmtree(folder)
    assert noticed >= CASES * 2 // 3
    told(record_property, "F7", CASES, CASES, f"ledger or audit log cut short, a page zeroed, -wal deleted: {noticed} noticed by open or verify, {harmless} hit a free page (no row lost), 0 unnoticed; every snapshot brought back all rows")
