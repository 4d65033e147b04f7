"Every library notebook runs from top to bottom; its asserts are the unit tests."
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook(path: Path, tmp_path: Path):
    environment = {**os.environ, "LLMOPS_HOME": str(tmp_path), "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name("nbdev-test")), str(path), "--n-workers", "0", "--do-print"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Failed On" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]
