"Two processes train as one: the gradients of a step, the whole training, and its resumption, over gloo on this CPU."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = '''
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from llmops_nb.models.base import load_model
from llmops_nb.models.chat import ask_plainly
from llmops_nb.models.devices import join_team
from llmops_nb.models.examples import make_examples
from llmops_nb.models.steps import Settings, learning, make_trainer, settle, step_gradients
from llmops_nb.models.training import train

folder, team = Path(sys.argv[1]), join_team()
report = {}
for name, given in {"lora": {}, "full": {"method": "full"}, "in parts, words hidden": {"micro_tokens": 60, "word_dropout": 0.2, "dropout": 0.1}}.items():
    loaded = load_model("builtin:tiny")
    examples = make_examples(loaded.tokenizer, ask_plainly([f"my card number {i} is lost {'again ' * (i % 5)}" for i in range(16)]), ["card_lost", "refund"] * 8, loaded.context)
    settings = settle(replace(Settings(rank=4, epochs=2, batch_tokens=120, dropout=0.0, word_dropout=0.0), **given), 2, 16)
    trainer = make_trainer(loaded, examples, replace(settings, batch_tokens=4000), team)
    trainer.model.train()
    loss = step_gradients(trainer)
    gradients = {key: weight.grad.clone() for key, weight in learning(trainer.model).items()}
    trainer.undo.close()
    fresh = load_model("builtin:tiny")
    if name == "lora" and team:
        assert train(fresh, examples, examples, settings, folder / "checkpoints", stop_after=3, rest=0, team=team) is None
        torch.distributed.barrier()
        fresh = load_model("builtin:tiny")
    trained = train(fresh, examples, examples, settings, folder / "checkpoints" if name == "lora" and team else None, team=team)
    if team is None:
        from safetensors.torch import save_file
        save_file(gradients, folder / f"{name}.safetensors")
        report[name] = [loss, trained.losses]
    elif team.rank == 0:
        from safetensors.torch import load_file
        alone = load_file(folder / f"{name}.safetensors")
        report[name] = [loss, trained.losses, max((alone[key] - gradients[key]).abs().max().item() for key in alone)]
if team is None or team.rank == 0:
    (folder / ("alone.json" if team is None else "together.json")).write_text(json.dumps(report))
if team:
    torch.distributed.destroy_process_group()
'''


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        done = subprocess.run([sys.executable, *launcher, str(tmp_path / "script.py"), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, together = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "together"))
    for name, (loss, losses) in alone.items():
        assert abs(together[name][0] - loss) < 1e-5 and together[name][2] < 1e-5, (name, together[name])
        assert "hidden" in name or max(abs(a - b) for a, b in zip(losses, together[name][1], strict=True)) < 1e-3, (name, losses, together[name][1])
