"F9: a training is killed at one step after the other, answers at one batch after the other; each time the next process goes on, and the end is the same to the last bit."
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import llmops
from harness import environment, killed, no_kernel_is_left, notebook, receipts, start, times, told

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


ANSWERS = """
import os, time, pathlib
from llmops_nb.models.base import load_model
from llmops_nb.models.chat import ask_plainly
from llmops_nb.models.generate import answer_all
root, told = pathlib.Path(os.environ['LLMOPS_WORKSPACE']), []

def tell(done, total):
    told.append(done)
    with open(root / 'batches.txt', 'a') as file:
        file.write(f'{done} ')
    while len(told) == 3 and (root / 'hang').exists():
        time.sleep(0.1)

loaded = load_model('builtin:tiny', journal=stage.journal('answers'))
answers = answer_all(loaded, ask_plainly([f'my card {n} is lost' for n in range(200)]), 8, batch_tokens=60, on_batch=tell)
(stage.output('answers') / 'answers.txt').write_text('\\n'.join(f'{one.text!r} {one.logprob.hex()}' for one in answers))
"""


def test_f9_a_killed_stage_goes_on_at_the_batch(workspace: Path, home: Path, record_property, monkeypatch):
    "A stage whose runner is killed asks only what was not answered, and its artifact has the digest of one that was never killed."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    (workspace / "settings.ini").write_text("[tracking]\nmode = disabled\n")
    (workspace / "templates").mkdir()
    (workspace / "templates" / "90_answer.ipynb").write_text(notebook("answer", ANSWERS))
    (workspace / "hang").touch()
    runner = start(workspace, home, "run", "answer")
    deadline = time.time() + 120
    while not (workspace / "batches.txt").exists() or len((workspace / "batches.txt").read_text().split()) < 3:
        assert time.time() < deadline and runner.poll() is None
        time.sleep(0.1)
    killed(runner)
    no_kernel_is_left(workspace)
    journal = workspace / "runs/main/90_answer/checkpoints/answers.jsonl"
    noted = journal.read_bytes().count(b"\n")
    (workspace / "hang").unlink()
    began = time.monotonic()
    again = llmops(workspace, "run", "answer", home=home)
    assert again.returncode == 0 and noted >= 3, again.stderr
    assert not journal.exists(), "a stage that is done keeps no journal"
    other = llmops(workspace, "run", "answer", "--run", "whole", "--force", home=home)
    assert other.returncode == 0, other.stderr
    resumed, whole = (dict(receipts(workspace, run))["90_answer"]["outputs"] for run in ("main", "whole"))
    assert resumed == whole
    told(record_property, "F9", 1, 1, f"stage killed after {noted} batches: the next execution ({time.monotonic() - began:.0f} s with the comparison) gave the same digest")
