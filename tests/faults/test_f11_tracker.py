"F11: W&B is down at the start, in the middle or at the end, answers 500 or 429, or slowly; its own process is killed. The stage does not notice, no row is lost here, and afterwards the service has them all."
import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import llmops
from harness import NIGHTLY, notebook, start, times, told, wait_for
from standin import Service

pytestmark = pytest.mark.slow

KEY, ROWS = "0123456789abcdef0123456789abcdef01234567", 40
BODY = f"""
import os, time, pathlib
root = pathlib.Path(os.environ['LLMOPS_WORKSPACE'])
for step in range({ROWS}):
    stage.log(step=step, loss=1 / (step + 1))
    (root / f'at {{step}}').touch()
    time.sleep(0.1)
(stage.output('counted') / 'x').write_text('x')
"""


def prepare(workspace: Path, address: str) -> None:
    "One stage that logs for four seconds, mirrored to a service."
    (workspace / "settings.ini").write_text(f"[tracking]\nmode = online\naddress = {address}\nentity = me\n")
    (workspace / "templates").mkdir(exist_ok=True)
    (workspace / "templates" / "90_count.ipynb").write_text(notebook("count", BODY))


def kill_tracker(workspace: Path) -> int:
    "kill -9 every wandb-core that works for this workspace; returns how many."
    found = 0
    for process in psutil.process_iter(["name"]):
        try:
            if "wandb-core" in (process.info["name"] or "") and any(str(workspace) in " ".join(parent.cmdline()) for parent in process.parents()):
                process.send_signal(signal.SIGKILL)
                found += 1
        except psutil.Error:
            continue
    return found


CASES = ["down at init", "down during", "down at finish", "wandb-core killed", "answers 500", "answers 429", "slow"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("passage", range(times(1, 10)))
def test_f11_tracker_in_trouble(workspace: Path, home: Path, record_property, case: str, passage: int):
    from llmops_nb.ground.ledger import Ledger, series, sql, stages
    from llmops_nb.ground.settings import Workspace

    service = Service()
    port = service.server.server_port
    prepare(workspace, service.address)
    if case == "down at init":
        service.close()
    service.trouble({"answers 500": "500", "answers 429": "429", "slow": "slow"}.get(case, ""))
    began = time.monotonic()
    runner = start(workspace, home, "run", "count", WANDB_API_KEY=KEY)
    if case in ("down during", "wandb-core killed"):
        wait_for(workspace / "at 15")
        deadline = time.time() + 15
        if case == "down during":
            service.close()
        else:
            while not kill_tracker(workspace) and time.time() < deadline:
                time.sleep(0.2)
    if case == "down at finish":
        wait_for(workspace / f"at {ROWS - 1}")
        service.close()
    output, errors = runner.communicate(timeout=120)
    seconds = time.monotonic() - began
    assert runner.returncode == 0, output + errors
    ledger = Ledger(Workspace(workspace).address("ledger"))
    row = ledger.rows(sql.select(stages))[-1]
    assert row["status"] == "done" and len(ledger.rows(sql.select(series))) == ROWS
    if case.startswith("down"):
        service = Service(port)
    service.trouble("")
    deadline = time.time() + (120 if NIGHTLY else 90)
    while sum(service.history().values()) < ROWS:
        assert time.time() < deadline, f"{service.history()} of {ROWS} rows reached the service"
        llmops(workspace, "sync", home=home, WANDB_API_KEY=KEY)
        time.sleep(1)
    service.close()
    told(record_property, "F11", 1, 1, f"{case}: run done in {seconds:.0f} s (stage {row['seconds']:.1f} s), {ROWS} of {ROWS} rows here, and at the service after sync")
