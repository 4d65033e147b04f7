"F2: the kernel is killed in the middle of a cell; the runner is killed, interrupted or terminated. Nothing is called done, nobody is left behind, the same command goes on."
import json
import signal
from pathlib import Path

import pytest
from conftest import llmops
from harness import chain, check_nothing_false, draw, kernels_of, killed, no_kernel_is_left, notebook, start, times, told, wait_for

pytestmark = pytest.mark.slow

STEMS = ["90_one", "91_two", "92_three"]
HANGS = "import time, pathlib, os\nmark = pathlib.Path(os.environ['LLMOPS_WORKSPACE']) / 'begun'\nfirst = not mark.exists()\nmark.touch()\ntime.sleep(60 if first else 0)\n(stage.output('out_1') / 'x').write_text('1')"
STATUS = {"kernel": "died", "SIGINT": "stopped", "SIGTERM": "stopped", "SIGKILL": "died"}


def cause(fault: str, runner, workspace: Path) -> None:
    "Kill the kernel, or send the runner a signal."
    if fault == "kernel":
        for kernel in kernels_of(workspace):
            kernel.send_signal(signal.SIGKILL)
    elif fault == "SIGKILL":
        killed(runner)
    else:
        runner.send_signal(getattr(signal, fault))


@pytest.mark.parametrize("fault", STATUS)
@pytest.mark.parametrize("time", range(times(3, 30)))
def test_f2_in_the_middle_of_a_cell(workspace: Path, home: Path, record_property, fault: str, time: int):
    import time as clock

    chain(workspace, STEMS)
    (workspace / "templates" / f"{STEMS[1]}.ipynb").write_text(notebook("two", f"stage.input('out_0')\n{HANGS}"))
    runner = start(workspace, home, "run", "one", "two", "three")
    wait_for(workspace / "begun")
    clock.sleep(draw(f"F2 {fault} {time}").uniform(0, 0.5))
    cause(fault, runner, workspace)
    output, errors = runner.communicate(timeout=60) if fault != "SIGKILL" else ("", "")
    assert runner.returncode == {"kernel": 1, "SIGINT": 130, "SIGTERM": 130, "SIGKILL": -9}[fault], output + errors
    no_kernel_is_left(workspace, 10)
    check_nothing_false(workspace, home)
    assert not (workspace / "runs/main/91_two/receipt.json").exists()
    path = workspace / "runs/main/91_two/notebook.ipynb"
    if path.exists():
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert states[-1] != "completed", states
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0 and "= 90_one" in again.stderr, again.stderr
    told(record_property, "F2", 1, 1, f"{fault}: status {STATUS[fault]}, never done; no kernel after 10 s")


@pytest.mark.parametrize("moment", range(times(2, 30)))
def test_f2_killed_at_any_moment(workspace: Path, home: Path, record_property, moment: int):
    import time as clock

    chain(workspace, STEMS)
    runner = start(workspace, home, "run", "one", "two", "three")
    clock.sleep(draw(f"F2 any {moment}").uniform(0.5, 6.0))
    killed(runner)
    check_nothing_false(workspace, home)
    no_kernel_is_left(workspace)
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0, again.stderr
    check_nothing_false(workspace, home)
    told(record_property, "F2", 1, 1, "runner killed at a random moment; the same command went on")
