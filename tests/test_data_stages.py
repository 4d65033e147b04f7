"Stages 02 and 03 by the command line: their gates must be able to fail, their reports must not leak, their bytes must not depend on the place."
import json
from pathlib import Path

import pytest
from conftest import artifacts_of, llmops

from llmops_nb.data.support import generate_support

ROWS = 300


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A workspace in which stages 02 and 03 have run on a little built-in data."
    folder = tmp_path_factory.mktemp("prepared")
    assert llmops(folder, "init", "bot", home=folder / "home").returncode == 0
    done = llmops(folder / "bot", "run", "explore", "prepare", "-p", f"limit={ROWS}", home=folder / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bot"


@pytest.mark.slow
def test_no_report_shows_personal_data(prepared: Path):
    "Every planted piece of personal data is looked for in everything that people open."
    planted = {span["value"] for span in generate_support(rows=ROWS).truth["personal_data"] if len(span["value"]) > 7}
    assert len(planted) > 30
    opened = [path for path in (prepared / "runs").rglob("*") if path.is_file() and path.suffix in (".html", ".ipynb", ".json", ".md")]
    shown = [(value, path.name) for path in opened for text in [path.read_text(encoding="utf-8", errors="replace")] for value in planted if value in text]
    assert len(opened) >= 8 and shown == []


@pytest.mark.slow
def test_the_vault_is_sealed_and_its_key_elsewhere(prepared: Path):
    sealed = list((prepared / ".llmops" / "vault").glob("*.sealed"))
    key = prepared.parent / "home" / "vault.key"
    assert len(sealed) == 1 and sealed[0].stat().st_mode & 0o077 == 0
    assert key.stat().st_mode & 0o077 == 0 and not list(prepared.rglob("vault.key"))
    values = [span["value"] for span in generate_support(rows=ROWS).truth["personal_data"]]
    assert not any(value.encode() in sealed[0].read_bytes() for value in values)


@pytest.mark.slow
def test_another_place_gives_the_same_bytes(prepared: Path, workspace: Path, home: Path):
    done = llmops(workspace, "run", "explore", "prepare", "-p", f"limit={ROWS}", home=home, PYTHONHASHSEED="123", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts_of(workspace) == artifacts_of(prepared)


def write_rows(path: Path, count: int, labelled: bool = True) -> Path:
    "A CSV of different questions."
    words = "card transfer refund rate fee limit account branch statement loan".split()
    rows = [f"Could you tell me about {words[i % 10]} {words[i // 10 % 10]} {words[i // 100 % 10]} number {i * 7919 % 10007}?" + (f",{words[i % 3]}" if labelled else "") for i in range(count)]
    path.write_text(("text,label\n" if labelled else "text\n") + "\n".join(rows) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count, labelled, gate", [(60, True, "enough records"), (150, False, "there is something to learn")])
def test_gates_of_explore_can_fail(workspace: Path, home: Path, count: int, labelled: bool, gate: str):
    write_rows(workspace / "mine.csv", count, labelled)
    done = llmops(workspace, "run", "explore", "-p", "data=mine.csv", *(["-p", "label_column=label"] if labelled else []), home=home)
    assert done.returncode == 3 and gate in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_rejected_rows_are_kept_with_their_lines(workspace: Path, home: Path):
    path = write_rows(workspace / "mine.csv", 150)
    path.write_text(path.read_text() + "only one value\n")
    done = llmops(workspace, "run", "explore", "-p", "data=mine.csv", "-p", "label_column=label", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((workspace / "runs" / "main" / "02_explore" / "tables" / "rejected_rows.json").read_text())
    assert table["data"] == [["152", "1 values, the header has 2"]]


@pytest.mark.parametrize("words, message", [
    (["data=nowhere.csv"], "There is no file"), (["data=mine.csv", "text_column=question"], "has no column 'question'"), (["data=empty.csv"], "is empty"),
    (["data=broken.jsonl"], "line 2: broken JSON"), (["data=mine.csv", "test_rows=mine.csv"], "line 1"), (["data=builtin:other"], "builtin:support"),
], ids=["missing file", "wrong column", "empty file", "broken lines", "test rows", "unknown builtin"])
def test_bad_data_stops_before_a_kernel_starts(workspace: Path, home: Path, words: list[str], message: str):
    write_rows(workspace / "mine.csv", 150)
    (workspace / "empty.csv").write_text("")
    (workspace / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n{"text"\n')
    done = llmops(workspace, "run", "explore", *[part for word in words for part in ("-p", word)], home=home)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (workspace / "runs" / "main").exists()
