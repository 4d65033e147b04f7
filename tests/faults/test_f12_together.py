"F12: eight at once. Eight runs in one workspace, eight starts of the same run, eight writers to one ledger, two migrations: nothing is lost, nobody sees a lock, and who has to wait is told."
import multiprocessing
from pathlib import Path

import pytest
from harness import chain, check_nothing_false, start, times, told

pytestmark = pytest.mark.slow

STEMS = ["90_one", "91_two"]
WRITES = times(200, 5000)
WRITERS = times(8, 16)


def write_some(address: str, writer: int) -> None:
    "Add rows, each after reading how many there are: the pattern that fails most with a deferred transaction."
    from llmops_nb.ground.ledger import Ledger, feedback, now, sql

    ledger = Ledger(address)
    for number in range(WRITES):
        with ledger.write() as connection:
            count = connection.execute(sql.select(sql.func.count()).select_from(feedback)).scalar()
            connection.execute(sql.insert(feedback).values(time=now(), request=f"{writer} {number}", rating="up", correction=str(count)))


def test_f12_eight_writers(tmp_path: Path, record_property):
    from llmops_nb.ground.ledger import Ledger, feedback, sql

    address = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    workers = [multiprocessing.get_context("spawn").Process(target=write_some, args=(address, number)) for number in range(WRITERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(900)
    rows = Ledger(address).rows(sql.select(feedback))
    assert all(worker.exitcode == 0 for worker in workers), "a writer saw an error"
    assert len({row["request"] for row in rows}) == len(rows) == WRITERS * WRITES
    assert sorted(int(row["correction"]) for row in rows) == list(range(len(rows))), "every writer saw all that was before"
    told(record_property, "F12", WRITERS, WRITERS, f"{WRITERS * WRITES} of {WRITERS * WRITES} writes of {WRITERS} writers there, 0 lock errors; two of them and more migrated the new ledger at once")


def test_f12_eight_runs_in_one_workspace(workspace: Path, home: Path, record_property):
    chain(workspace, STEMS)
    runners = [start(workspace, home, "run", "one", "two", "--run", f"r{number}") for number in range(8)]
    said = [runner.communicate(timeout=600) for runner in runners]
    assert [runner.returncode for runner in runners] == [0] * 8, said
    assert "locked" not in str(said)
    for number in range(8):
        check_nothing_false(workspace, home, f"r{number}")
        assert all((workspace / f"runs/r{number}" / stem / "receipt.json").exists() for stem in STEMS)
    told(record_property, "F12", 8, 8, "runs at once in one workspace: all done, 0 lock errors shown")


def test_f12_eight_starts_of_one_run(workspace: Path, home: Path, record_property):
    "One of them works; the others are told who does, or come when it is finished and find everything done."
    chain(workspace, STEMS, before="import time; time.sleep(1.5)")
    runners = [start(workspace, home, "run", "one", "two") for _ in range(8)]
    said = [runner.communicate(timeout=600) for runner in runners]
    codes = [runner.returncode for runner in runners]
    assert codes.count(0) >= 1 and set(codes) <= {0, 1}, said
    told_off = [errors for (_, errors), code in zip(said, codes) if code == 1]
    assert all("is being executed by process" in errors and "Traceback" not in errors for errors in told_off), told_off
    assert (workspace / "effects.txt").read_text().split() == STEMS, "every stage was executed once"
    check_nothing_false(workspace, home)
    told(record_property, "F12", 8, 8, f"starts of one run: {codes.count(0)} worked, {len(told_off)} were told by whom the run is executed; every stage executed once")
