"F9: a training is killed at one step after the other, answers at one batch after the other; each time the next process goes on, and the end is the same to the last bit."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import environment, times, told

pytestmark = pytest.mark.slow

KILLS = {"lora": times(6, 10), "full": times(6, 10), "dpo": times(6, 12), "answers": times(4, 8)}


@pytest.mark.parametrize("kind", KILLS)
@pytest.mark.parametrize("passage", range(times(1, 5)))
def test_f9_resumed_is_the_same(tmp_path: Path, home: Path, record_property, kind: str, passage: int):
    program = Path(__file__).with_name("trainings.py")
    more = environment(home, PYTHONPATH=os.environ.get("PYTHONPATH", ""), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, str(program), kind, str(tmp_path / "checkpoints"), str(KILLS[kind])], env=more, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == KILLS[kind] and found["same_losses"] and found["same_weights"], found
    what = "answers, equal to the bit" if kind == "answers" else f"{kind}: 0 of {found['steps']} steps differ, weights equal, {found['repeated']} steps done twice"
    told(record_property, "F9", found["kills"], KILLS[kind], what)
