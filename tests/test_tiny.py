"The built-in model: the shipped bytes are those its receipt names, and its notebook makes the same bytes twice."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TINY = ROOT / "llmops_nb" / "models" / "tiny"


def test_shipped_bytes_are_those_of_the_receipt():
    from llmops_nb.ground.core import digest_file

    receipt = json.loads((TINY / "receipt.json").read_text())
    shipped = {path.name: digest_file(path) for path in sorted(TINY.iterdir()) if path.name != "receipt.json" and path.is_file()}
    assert shipped == receipt["files"] and (TINY / "model.safetensors").stat().st_size <= 4_000_000


def test_the_notebook_has_the_parameters_of_the_receipt():
    from llmops_nb.notebooks.parameters import parameters_of

    receipt = json.loads((TINY / "receipt.json").read_text())
    defaults = {p.name: p.default for p in parameters_of(ROOT / "nbs" / "30_models" / "tiny_training.ipynb")}
    assert defaults["seed"] == receipt["seed"] and {name: defaults[name] for name in receipt["parameters"]} == receipt["parameters"]


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes(tmp_path: Path):
    "With few steps; a whole training takes minutes and is the notebook itself."
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"}
    for name in ("one", "two, elsewhere"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar", str(ROOT / "nbs/30_models/tiny_training.ipynb"), str(tmp_path / name / "out.ipynb"),
                   "-p", "steps", "20", "-p", "messages", "1500", "-p", "folder", str(tmp_path / name / "model"), "-k", "python3"]
        done = subprocess.run(command, cwd=tmp_path / name, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = ({p.name: p.read_bytes() for p in sorted((tmp_path / name / "model").iterdir())} for name in ("one", "two, elsewhere"))
    assert first == second and "model.safetensors" in first
