"What the fault tests share: how often, a chain of small stages, processes that kill themselves, and what must hold after any fault."
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

SEED = int(os.environ.get("LLMOPS_SEED", "7"))
NIGHTLY = os.environ.get("LLMOPS_FAULTS") == "nightly"
LIFECYCLE = ["01_objectives", "02_explore", "03_prepare", "04_prompts", "05_select", "06_finetune", "07_evaluate", "08_secure", "09_govern", "10_deploy", "11_monitor", "12_improve", "13_recover"]


def times(here: int, nightly: int) -> int:
    "How often to cause a fault: in every test run, and in `make soak`."
    return nightly if NIGHTLY else here


def draw(name: str) -> random.Random:
    "Random numbers of one test: the same for the same seed."
    return random.Random(f"{SEED} {name}")


def told(record: Callable, fault: str, survived: int, tried: int, rest: str) -> None:
    "Note the line that the test run prints at its end."
    record("survived", f"{fault:<4} {survived} of {tried} survived; {rest} (seed {SEED})")


def notebook(stage: str, body: str) -> str:
    "A stage template with the given code between opening and closing."
    code = f"from llmops_nb.ground.stage import open_stage\nstage = open_stage({stage!r}, globals())\n{body}\nstage.close()"
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# {stage}\n> Why?"},
             {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "source": "seed: int = 7  # seed", "outputs": [], "execution_count": None},
             {"cell_type": "code", "id": "c", "metadata": {}, "source": code, "outputs": [], "execution_count": None}]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def chain(workspace: Path, stems: list[str], before: str = "", tracking: str = "disabled") -> None:
    "Give a workspace small stages, each of which reads what the one before wrote and leaves a line in effects.txt; they replace built-in ones of the same name."
    (workspace / "settings.ini").write_text(f"[tracking]\nmode = {tracking}\n")
    (workspace / "templates").mkdir(exist_ok=True)
    for place, stem in enumerate(stems):
        name = stem.partition("_")[2]
        reads = f"assert (stage.input('out_{place - 1}') / 'x').read_text() == '{place - 1}'" if place else ""
        effect = f"import os; file = open(os.environ['LLMOPS_WORKSPACE'] + '/effects.txt', 'a'); file.write('{stem}\\n'); file.close()"
        body = f"{before}\n{reads}\n{effect}\nstage.metric('place', {place})\n(stage.output('out_{place}') / 'x').write_text('{place}')"
        (workspace / "templates" / f"{stem}.ipynb").write_text(notebook(name, body))


def environment(home: Path, **more: str) -> dict[str, str]:
    "The environment of a command line with a home of its own."
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "WANDB_"))}
    return {**kept, "LLMOPS_HOME": str(home), **more}


def start(workspace: Path, home: Path, *words: str, program: tuple[str, ...] = ("-m", "llmops_nb.desk.cli"), **more: str) -> subprocess.Popen:
    "Start the command line, or another program, in a workspace."
    return subprocess.Popen([sys.executable, *program, *words], cwd=workspace, env=environment(home, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, seconds: float = 60.0) -> None:
    "Wait until a stage has made a file."
    deadline = time.time() + seconds
    while not path.exists():
        assert time.time() < deadline, f"{path.name} did not appear within {seconds:.0f} s"
        time.sleep(0.05)


def is_running(process: psutil.Process) -> bool:
    "Whether a process lives: neither gone nor a zombie that nobody has asked for its end yet."
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kernels_of(workspace: Path) -> list[psutil.Process]:
    "The Jupyter kernels, forked or ordinary, that work in a workspace."
    found = []
    for process in psutil.process_iter():
        try:
            kernel = process.name() == "llmops-kernel" or "ipykernel_launcher" in " ".join(process.cmdline())
            if kernel and process.cwd() == str(workspace) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def no_kernel_is_left(workspace: Path, seconds: float = 15.0) -> None:
    "Wait until no kernel of the workspace lives."
    deadline = time.time() + seconds
    while left := kernels_of(workspace):
        assert time.time() < deadline, f"{len(left)} kernels outlived their runner: {left}"
        time.sleep(0.2)


def receipts(workspace: Path, run: str = "main") -> Iterator[tuple[str, dict]]:
    "Stage folder and predicate of every receipt of a run whose signature, outputs and notebook hold; raises for one that does not."
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.receipt import engine_key, verify_receipt

    space = Workspace(workspace)
    for path in sorted((space.runs / run).glob("*/receipt.json")):
        yield path.parent.name, verify_receipt(path, [engine_key(space).public_hex], Store(space.address("store")))["predicate"]


def check_nothing_false(workspace: Path, home: Path, run: str = "main") -> None:
    "Whatever the ledger calls done has a receipt that verifies, what is stored is whole, and every JSON file under a final name can be read."
    from llmops_nb.ground.ledger import Ledger, latest_stage
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.store import Store

    os.environ["LLMOPS_HOME"] = str(home)
    space = Workspace(workspace)
    ledger = Ledger(space.address("ledger"))
    assert Store(space.address("store")).verify() == []
    sealed = dict(receipts(workspace, run))
    for path in sorted((workspace / "templates").glob("*.ipynb")):
        row = latest_stage(ledger, run, path.stem.partition("_")[2])
        assert not row or row["status"] != "done" or path.stem in sealed, f"{path.stem} is called done without a receipt"
    for path in [*(workspace / "runs").rglob("*.json"), *(workspace / "runs").rglob("*.ipynb")]:
        if not path.name.startswith("."):
            json.loads(path.read_text())


def killed(runner: subprocess.Popen) -> None:
    "kill -9 a process and wait for its end."
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
