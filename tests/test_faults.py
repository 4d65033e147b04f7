"Kills, full disks, read-only folders, bad parameters: nothing is reported done that is not, nothing half-written has a final name, and the same command goes on."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
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


def kernels_of(workspace: Path) -> list[psutil.Process]:
    "The Jupyter kernels that work in a workspace."
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "ipykernel_launcher" in " ".join(process.info["cmdline"] or []) and process.cwd() == str(workspace):
                found.append(process)
        except psutil.Error:
            continue
    return found


def check_nothing_false(workspace: Path) -> None:
    "Whatever is reported done has a receipt that verifies; every file under a final name is whole."
    from llmops_nb.ground.ledger import Ledger, latest_stage
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.receipt import read_receipt

    space = Workspace(workspace)
    ledger, store = Ledger(space.address("ledger")), Store(space.address("store"))
    assert store.verify() == []
    for stem in STAGES:
        row = latest_stage(ledger, "main", stem.partition("_")[2])
        receipt = workspace / "runs" / "main" / stem / "receipt.json"
        if row and row["status"] == "done":
            assert receipt.exists()
        if receipt.exists():
            assert all(store.has(digest) for digest in read_receipt(receipt)["predicate"]["outputs"].values())
        for path in (workspace / "runs").rglob("*.json"):
            json.loads(path.read_text())
        for path in (workspace / "runs").rglob("*.ipynb"):
            json.loads(path.read_text())


@pytest.mark.parametrize("moment", range(6))
def test_killed_runner_goes_on(workspace: Path, home: Path, moment: int):
    chain(workspace)
    runner = start(workspace, home, "run", "one", "two", "three")
    time.sleep(random.Random(moment).uniform(1.5, 6.0))
    runner.kill()
    runner.wait()
    check_nothing_false(workspace)
    deadline = time.time() + 15
    while kernels_of(workspace) and time.time() < deadline:
        time.sleep(0.3)
    assert not kernels_of(workspace), "a kernel outlived its runner"
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0, again.stderr
    check_nothing_false(workspace)
    assert "3 of" in again.stdout or all((workspace / "runs/main" / stem / "receipt.json").exists() for stem in STAGES)


def test_killed_kernel_is_died_and_goes_on(workspace: Path, home: Path):
    chain(workspace)
    write_stage(workspace, STAGES[1], "import time, pathlib\nstage.input('90_one_out')\nif not pathlib.Path('second').exists():\n    pathlib.Path('second').touch()\n    time.sleep(60)")
    runner = start(workspace, home, "run", "one", "two", "three")
    deadline = time.time() + 60
    while not (workspace / "second").exists() and time.time() < deadline:
        time.sleep(0.1)
    for kernel in kernels_of(workspace):
        kernel.send_signal(signal.SIGKILL)
    output, errors = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "died" in output + errors
    check_nothing_false(workspace)
    assert not (workspace / "runs/main/91_two/receipt.json").exists()
    notebook = json.loads((workspace / "runs/main/91_two/notebook.ipynb").read_text())
    assert notebook["cells"][-1]["metadata"]["papermill"]["status"] != "completed"
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0 and "= 90_one" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(workspace: Path, home: Path, number: signal.Signals):
    chain(workspace)
    write_stage(workspace, STAGES[0], "import time, pathlib\npathlib.Path('begun').touch()\ntime.sleep(60)")
    runner = start(workspace, home, "run", "one")
    deadline = time.time() + 60
    while not (workspace / "begun").exists() and time.time() < deadline:
        time.sleep(0.1)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=30)
    assert runner.returncode == 130 and "stopped" in errors
    status = llmops(workspace, "status", "--json", home=home)
    assert next(entry for entry in json.loads(status.stdout) if entry["folder"] == "90_one")["status"] == "stopped"
    deadline = time.time() + 15
    while kernels_of(workspace) and time.time() < deadline:
        time.sleep(0.3)
    assert not kernels_of(workspace)


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


def test_flipped_bit_in_an_artifact_is_refused(workspace: Path, home: Path):
    chain(workspace)
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    blob = next(p for p in (workspace / ".llmops/store/blobs").rglob("*") if p.is_file() and p.read_bytes() == b"x")
    blob.chmod(0o644)
    blob.write_bytes(b"y")
    done = llmops(workspace, "run", "two", home=home)
    assert done.returncode == 1 and "was changed" in done.stdout + done.stderr
    assert llmops(workspace, "doctor", home=home).returncode == 1


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


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere, and setpriv is not installed")
def test_read_only_workspace(workspace: Path, home: Path):
    chain(workspace)
    for path in [workspace, *workspace.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    home.mkdir(exist_ok=True)
    for folder in [home, *home.rglob("*")]:
        folder.chmod(0o777)
    for parent in workspace.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    prefix = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    environment = {**{n: v for n, v in os.environ.items() if not n.startswith("LLMOPS_")}, "LLMOPS_HOME": str(home), "HOME": str(home)}
    done = subprocess.run([*prefix, sys.executable, "-m", "llmops_nb.desk.cli", "run", "one"], cwd=workspace, env=environment, capture_output=True, text=True)
    for path in [workspace, *workspace.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    if "Permission denied" in done.stderr and "llmops_nb" not in done.stderr:
        pytest.skip("the interpreter cannot be read by another user here")
    assert done.returncode == 1 and "cannot be written to" in done.stderr, done.stderr


def test_full_disk(tmp_path: Path, home: Path):
    "On a disk of 600 KB the stage fails loudly, the old result stays whole, and after room is made the run goes on."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        assert llmops(disk, "init", "bot", home=home).returncode == 0
        chain(disk / "bot")
        assert llmops(disk / "bot", "run", "one", home=home).returncode == 0
        (disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(disk).free - 8192))
        full = llmops(disk / "bot", "run", "two", home=home)
        assert full.returncode == 1, full.stdout + full.stderr
        assert "Traceback" not in full.stderr and ("No space left" in full.stderr + full.stdout or "disk" in full.stderr + full.stdout), full.stderr
        (disk / "ballast").unlink()
        check_nothing_false(disk / "bot")
        again = llmops(disk / "bot", "run", "two", home=home)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)])
