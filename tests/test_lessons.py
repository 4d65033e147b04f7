"Every lesson runs from top to bottom as a learner would run it, with little data, and its own check says that all is right."
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "nbs" / "course").glob("[0-9][0-9]_*.ipynb"))
SMALL = {"rows": 200}  # lesson parameters in tests
PROMISED = {"01_first_run": ["has no column 'text'", "exit code: 1", "nothing changed", "Right:"]}  # what the prose of a lesson says one will see


def execute(path: Path) -> str:
    "Everything the lesson prints, with its parameters set to small values."
    notebook = nbformat.read(path, as_version=4)
    for place, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            names = [line.partition(":")[0] for line in cell.source.splitlines()]
            given = [f"{name} = {SMALL[name]!r}" for name in names if name in SMALL]
            notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(given)))
            break
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return "\n".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    printed = execute(path)
    assert "Not yet" not in printed and "Not quite" not in printed and "Traceback" not in printed, printed[-3000:]
    assert [words for words in PROMISED[path.stem] if words not in printed] == [], printed[-3000:]
