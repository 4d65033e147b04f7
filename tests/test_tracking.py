"W&B can neither stop nor hang a stage, and whatever it missed is sent later, once."
import json
import time
from pathlib import Path

import pytest
from conftest import llmops
from standin import Service

KEY = "0123456789abcdef0123456789abcdef01234567"


def write_stage(workspace: Path, name: str, body: str, parameters: str = "seed: int = 7  # seed") -> None:
    "Give a workspace one small stage of its own."
    code = f"from llmops_nb.ground.stage import open_stage\nstage = open_stage({name.partition('_')[2]!r}, globals())\n{body}\n(stage.output({name + '_out'!r}) / 'x').write_text('x')\nstage.close()"
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# T\n> Why?"},
             {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "source": parameters, "outputs": [], "execution_count": None},
             {"cell_type": "code", "id": "c", "metadata": {}, "source": code, "outputs": [], "execution_count": None}]
    path = workspace / "templates" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}, "nbformat": 4, "nbformat_minor": 5}))


LOG_FIVE = "for i in range(5):\n    stage.log(step=i, loss=1 / (i + 1))\nstage.metric('accuracy', 0.8)"


def test_unreachable_online_finishes_and_sync_sends_once(workspace: Path, home: Path):
    (workspace / "settings.ini").write_text("[tracking]\nmode = online\naddress = http://127.0.0.1:9\nentity = me\n")
    write_stage(workspace, "90_count", LOG_FIVE)
    done = llmops(workspace, "run", "count", home=home, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    unsent = llmops(workspace, "sync", home=home, WANDB_API_KEY=KEY)
    assert unsent.returncode == 1 and "does not answer" in unsent.stderr
    assert "W&B" not in llmops(workspace, "audit", "verify", home=home).stdout.replace("[audit] command in settings.ini, or W&B", ""), "what was not sent is no witness"
    service = Service()
    try:
        (workspace / "settings.ini").write_text(f"[tracking]\nmode = online\naddress = {service.address}\nentity = me\n")
        sent = llmops(workspace, "sync", home=home, WANDB_API_KEY=KEY)
        assert sent.returncode == 0 and "1 of 1 sent" in sent.stdout, sent.stdout + sent.stderr
        rows = service.history()
        assert len(rows) == 1 and sum(rows.values()) >= 5
        assert "; W&B: 2 entries" in llmops(workspace, "audit", "verify", home=home).stdout and "audit/checkpoint" in json.dumps(service.received)
        compared = llmops(workspace, "audit", "verify", "--witness", "wandb", home=home, WANDB_API_KEY=KEY)
        assert compared.returncode == 0 and "witnessed outside up to entry 2" in compared.stdout, compared.stdout + compared.stderr
        before = len(service.received)
        again = llmops(workspace, "sync", home=home, WANDB_API_KEY=KEY)
        assert again.returncode == 0 and "Nothing to send" in again.stdout and len(service.received) == before
    finally:
        service.close()


def test_online_streams_to_a_service_that_answers(workspace: Path, home: Path):
    service = Service()
    try:
        (workspace / "settings.ini").write_text(f"[tracking]\nmode = online\naddress = {service.address}\nentity = me\n")
        write_stage(workspace, "90_count", LOG_FIVE)
        assert llmops(workspace, "run", "count", home=home, WANDB_API_KEY=KEY).returncode == 0
        deadline = time.time() + 40
        while time.time() < deadline and sum(service.history().values()) < 5:
            time.sleep(0.5)
        assert sum(service.history().values()) >= 5
    finally:
        service.close()


@pytest.mark.parametrize("mode", ["disabled", "sideways"])
def test_other_modes(workspace: Path, home: Path, mode: str):
    (workspace / "settings.ini").write_text(f"[tracking]\nmode = {mode}\n")
    write_stage(workspace, "90_count", LOG_FIVE)
    done = llmops(workspace, "run", "count", home=home)
    assert done.returncode == (0 if mode == "disabled" else 1)
    assert mode == "disabled" or "mode = sideways" in done.stderr
