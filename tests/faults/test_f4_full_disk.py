"F4: the disk is full, at each kind of write and with every amount of room left. Loud, naming the file; the old version stays; with room again, the work goes on."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import llmops
from harness import chain, check_nothing_false, draw, environment, times, told
from writers import KINDS

pytestmark = pytest.mark.slow

SWEEP = times(20, 200)
SIZE = 4_000_000
ROOM = {"notebook": 300_000, "receipt": 20_000, "object": 3_000_000, "checkpoint": 3_000_000, "ledger": 1_000_000, "export": 3_000_000, "backup": 2_500_000, "audit": 200_000}  # most that is left free
LEAST = {"backup": 800_000}  # the workspace itself has to fit before it can be copied


@pytest.fixture
def disk(tmp_path: Path):
    "A file system of its own with a few megabytes."
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)])


PROGRAM = """
import sys, random, itertools
from pathlib import Path
from writers import WRITERS, CHECKS
kind, folder = sys.argv[1], Path(sys.argv[2])
known = []
try:
    for told in itertools.islice(WRITERS[kind](folder, random.Random(int(sys.argv[3]))), 200):
        known.append(told)
except Exception as error:
    print(repr(error)[:600], file=sys.stderr)
print(" ".join(known))
"""
CHECK = "import sys; from pathlib import Path; from writers import CHECKS; CHECKS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3].split())"


def run(program: str, home: Path, *words: str) -> subprocess.CompletedProcess:
    "A small Python program beside the writers."
    paths = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run([sys.executable, "-c", program, *words], env=environment(home, PYTHONPATH=paths), capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("number", range(SWEEP))
def test_f4_no_room_at_a_write(disk: Path, home: Path, tmp_path: Path, record_property, number: int):
    "Write until there is no room, with a different amount of room each time; what was acknowledged must be there, and writing must work again afterwards."
    kind, chance = KINDS[number % len(KINDS)], draw(f"F4 {number}")
    (disk / "work").mkdir()
    (disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(disk).free - chance.randrange(LEAST.get(kind, 0), ROOM[kind])))
    full = run(PROGRAM, home, kind, str(disk / "work"), str(number))
    known = full.stdout.strip()
    if full.stderr.strip():
        assert str(disk) in full.stderr, f"{kind}: the message names no file: {full.stderr}"
    (disk / "ballast").unlink()
    whole = tmp_path / "whole"
    shutil.copytree(disk / "work", whole)
    checked = run(CHECK, home, kind, str(whole), known)
    assert checked.returncode == 0, f"{kind}: {checked.stderr[-1500:]}"
    told(record_property, "F4", 1, 1, f"{kind}: {'loud' if full.stderr else 'there was room'}, {len(known.split())} acknowledged writes, 0 lost")


def test_f4_a_run_on_a_full_disk(disk: Path, home: Path, record_property):
    "A stage fails with one message, the results so far stay whole, and with room again the run goes on."
    assert llmops(disk, "init", "bot", home=home).returncode == 0
    chain(disk / "bot", ["90_one", "91_two"])
    assert llmops(disk / "bot", "run", "one", home=home).returncode == 0
    (disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(disk).free - 8192))
    full = llmops(disk / "bot", "run", "two", home=home)
    said = full.stdout + full.stderr
    assert full.returncode == 1 and "Traceback" not in said and ("No space left" in said or "disk" in said), said
    (disk / "ballast").unlink()
    check_nothing_false(disk / "bot", home)
    assert llmops(disk / "bot", "run", "two", home=home).returncode == 0
    told(record_property, "F4", 1, 1, "a run on a full disk: one message, went on when there was room")
