"""Eight pipelines at once on one workspace: is every write there, and does anybody see a lock?

    python benchmarks/eight_at_once.py [--repeats 5] [--pipelines 8] [--points 200]

Each pipeline is a process of its own with three small stages, each of which logs points to the ledger, one write a point. The peer in the same run, alternating: as many plain processes that write the same number of rows to an SQLite file in the
way that most programs do, a read and a write in one deferred transaction with a 30 s time-out. Checked before anything is printed: the numbers of rows, of stages that are done, and of receipts that verify.
"""
import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))
from harness import environment, notebook, receipts  # noqa: E402

STEMS = ["90_one", "91_two", "92_three"]
PLAIN = """
import sqlite3, sys
connection, lost = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None), 0
for number in range(int(sys.argv[2])):
    try:
        connection.execute("BEGIN")
        count = connection.execute("select count(*) from rows").fetchone()[0]
        connection.execute("insert into rows values (?, ?)", (sys.argv[3] + " " + str(number), count))
        connection.execute("COMMIT")
    except sqlite3.OperationalError:
        lost += 1
        if connection.in_transaction:
            connection.execute("ROLLBACK")
print(lost)
"""


def start_all(commands: list[list[str]], folder: Path, home: Path) -> tuple[list[str], float]:
    "Start the commands together; what they printed, and the seconds until the last had ended. Raises when one failed."
    began = time.perf_counter()
    running = [subprocess.Popen(command, cwd=folder, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands]
    said = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running), said
    return said, time.perf_counter() - began


def ours(folder: Path, pipelines: int, points: int) -> dict:
    "Eight runs of three stages; lost points, lock errors shown, seconds."
    from llmops_nb.ground.ledger import Ledger, series, sql, stages
    from llmops_nb.ground.settings import Workspace, create_workspace

    home, root = folder / "home", create_workspace(folder / "w").root
    os.environ["LLMOPS_HOME"] = str(home)
    (root / "settings.ini").write_text("[tracking]\nmode = disabled\n")
    (root / "templates").mkdir()
    for stem in STEMS:
        body = f"for step in range({points}):\n    stage.log(step=step, loss=step)\n    stage.flush()\n(stage.output('of_{stem}') / 'x').write_text('x')"
        (root / "templates" / f"{stem}.ipynb").write_text(notebook(stem.partition("_")[2], body))
    command = [sys.executable, "-m", "llmops_nb.desk.cli", "run", "one", "two", "three", "--force", "--run"]
    said, seconds = start_all([[*command, f"r{number}"] for number in range(pipelines)], root, home)
    ledger, wanted = Ledger(Workspace(root).address("ledger")), pipelines * len(STEMS)
    done = len(ledger.rows(sql.select(stages).where(stages.c.status == "done")))
    written = len(ledger.rows(sql.select(series)))
    assert done == wanted and sum(len(list(receipts(root, f"r{number}"))) for number in range(pipelines)) == wanted
    return {"lost": wanted * points - written, "writes": wanted * points, "locks": sum("locked" in text for text in said), "seconds": seconds}


def plain(folder: Path, pipelines: int, points: int) -> dict:
    "The peer: deferred transactions."
    sqlite3.connect(folder / "plain.sqlite").executescript("pragma journal_mode=WAL; create table rows (name text, count integer)")
    said, seconds = start_all([[sys.executable, "-c", PLAIN, str(folder / "plain.sqlite"), str(3 * points), str(number)] for number in range(pipelines)], folder, folder)
    written = sqlite3.connect(folder / "plain.sqlite").execute("select count(*) from rows").fetchone()[0]
    return {"lost": pipelines * 3 * points - written, "writes": pipelines * 3 * points, "locks": sum(map(int, said)), "seconds": seconds}


def spread(values: list[float]) -> str:
    "Median, least and most."
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--pipelines", type=int, default=8)
    words.add_argument("--points", type=int, default=200)
    words.add_argument("--json", default="", help="file for the raw figures")
    given = words.parse_args()
    found: dict[str, list[dict]] = {"llmops": [], "deferred transactions": []}
    for _ in range(given.repeats):
        for name, way in (("llmops", ours), ("deferred transactions", plain)):
            with tempfile.TemporaryDirectory() as place:
                found[name].append(way(Path(place), given.pipelines, given.points))
    print(f"{given.pipelines} at once, {given.repeats} times; Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, rows in found.items():
        print(f"{name:<22} writes {rows[0]['writes']}  lost {spread([row['lost'] for row in rows])}  lock errors {spread([row['locks'] for row in rows])}  seconds {spread([row['seconds'] for row in rows])}")
    if given.json:
        Path(given.json).write_text(json.dumps(found))
    sys.exit(any(row["lost"] or row["locks"] for row in found["llmops"]))
