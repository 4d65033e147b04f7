"Wrong words, edited notebooks, two commands at once: one clear message before any work is done. Kills, full disks and the like are in faults/."
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import llmops
from test_tracking import write_stage

STAGES = ["90_one", "91_two", "92_three"]


def chain(workspace: Path) -> None:
    "Three small stages that each read what the one before wrote."
    (workspace / "settings.ini").write_text("[tracking]\nmode = disabled\n")
    write_stage(workspace, STAGES[0], "stage.metric('one', 1)")
    write_stage(workspace, STAGES[1], "assert (stage.input('90_one_out') / 'x').read_text() == 'x'\nstage.metric('two', 2)")
    write_stage(workspace, STAGES[2], "assert (stage.input('91_two_out') / 'x').read_text() == 'x'\nstage.metric('three', 3)")


def start(workspace: Path, home: Path, *words: str) -> subprocess.Popen:
    "Start the command line in a process group of its own."
    environment = {**{n: v for n, v in os.environ.items() if not n.startswith(("LLMOPS_", "WANDB_"))}, "LLMOPS_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-m", "llmops_nb.desk.cli", *words], cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_commands_on_one_run(workspace: Path, home: Path):
    chain(workspace)
    write_stage(workspace, STAGES[0], "import time, pathlib\npathlib.Path('begun').touch()\ntime.sleep(4)")
    first = start(workspace, home, "run", "one")
    deadline = time.time() + 60
    while not (workspace / "begun").exists() and time.time() < deadline:
        time.sleep(0.1)
    second = llmops(workspace, "run", "one", home=home)
    assert second.returncode == 1 and "is being executed by process" in second.stderr
    first.communicate(timeout=60)
    assert first.returncode == 0


def test_edited_notebook_is_not_believed(workspace: Path, home: Path):
    chain(workspace)
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    notebook = workspace / "runs/main/90_one/notebook.ipynb"
    notebook.write_text(notebook.read_text().replace('"x"', '"z"').replace("Why?", "Why not?"))
    shown = llmops(workspace, "show", "one", home=home)
    assert shown.returncode == 1 and "edited after the run" in shown.stderr
    again = llmops(workspace, "run", "one", home=home)
    assert again.returncode == 0 and "edited after the run" in again.stderr and "done" in again.stderr


@pytest.mark.parametrize("words, said", [
    (["run", "-p", "learning_rte=1"], "No stage has a parameter"),
    (["run", "-p", "seed"], "is not NAME=VALUE"),
    (["run", "-p", "seed=fast"], "is not an int"),
    (["run", "-p", "data=missing.csv"], "missing.csv"),
    (["run", "-p", "data=builtin:nothing"], "builtin:support"),
    (["run", "-p", "base_model=no/such-folder-here/x"], "no/such-folder-here/x"),
    (["run", "-p", "base_model=builtin:huge"], "builtin:tiny"),
    (["run", "fly"], "There is no stage 'fly'"),
    (["run", "--run", "../up"], "cannot be a run name"),
    (["run", "--from", "42"], "There is no stage"),
    (["show", "finetune"], "has no result"),
    (["sign", "nobody", "--yes"], "no release"),
    (["serve"], "has no deployment"),
])
def test_bad_words_get_one_message_before_work_starts(workspace: Path, home: Path, words: list[str], said: str):
    done = llmops(workspace, *words, home=home)
    assert done.returncode in (1, 2) and said in done.stderr, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 3
    assert not list((workspace / "runs").rglob("notebook.ipynb")) if (workspace / "runs").exists() else True


def test_outside_of_a_workspace(tmp_path: Path, home: Path):
    done = llmops(tmp_path, "run", home=home)
    assert done.returncode == 1 and "llmops init" in done.stderr


def test_wrong_usage(tmp_path: Path, home: Path):
    assert llmops(tmp_path, "walk", home=home).returncode == 2
    assert llmops(tmp_path, "run", "--nonsense", home=home).returncode == 2


def test_init_into_a_file(tmp_path: Path, home: Path):
    (tmp_path / "bot").write_text("x")
    done = llmops(tmp_path, "init", "bot", home=home)
    assert done.returncode == 1 and "is a file" in done.stderr and (tmp_path / "bot").read_text() == "x"
