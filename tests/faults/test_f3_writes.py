"F3: kill -9 in the middle of a write, for everything that is ever written under a final name."
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import SEED, draw, environment, times, told
from writers import CHECKS, KINDS, WRITERS

KILLS = times(10, 100)


def write_until_killed(kind: str, folder: Path, number: int) -> list[str]:
    "Start a writer in a process of its own, kill it at a random moment of its work, and return what it had acknowledged."
    here, there = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(here)
            for told in WRITERS[kind](folder, random.Random(f"{SEED} {kind} {number}")):
                os.write(there, f"{told}\n".encode())
        finally:
            os._exit(1)
    os.close(there)
    with open(here) as acknowledged:
        first = acknowledged.readline()
        time.sleep(draw(f"{kind} {number}").uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        lines = [first, *acknowledged]
    os.waitpid(child, 0)
    return [line.strip() for line in lines if line.endswith("\n")]


def kill_often(kind: str, folder: Path) -> None:
    "All kills of one kind, each in a folder that the ones before have left; checks after each."
    for number in range(KILLS):
        place = folder / str(number // 5)
        place.mkdir(exist_ok=True)
        known = write_until_killed(kind, place, number)
        assert known, f"{kind}: the writer said nothing"
        CHECKS[kind](place, known)
        for left in ("out", "restored"):
            subprocess.run(["rm", "-rf", str(place / left)])


@pytest.mark.parametrize("kind", KINDS)
def test_f3_killed_in_the_middle_of_a_write(tmp_path: Path, home: Path, record_property, kind: str):
    done = subprocess.run([sys.executable, __file__, kind, str(tmp_path)], env=environment(home, PYTHONPATH=os.environ.get("PYTHONPATH", "")), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told(record_property, "F3", KILLS, KILLS, f"{kind}: 0 corrupt under a final name, 0 acknowledged lost")


if __name__ == "__main__":
    if sys.argv[1] in ("checkpoint", "export"):
        import torch

        torch.set_num_threads(1)
    kill_often(sys.argv[1], Path(sys.argv[2]))
