"The search for settings: killed at any moment it ends the same, its limit holds, every trial is in the ledger and in W&B's offline files."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmops_nb.ground.core import BadInput
from llmops_nb.models.search import Limit, Plan, front, search
from llmops_nb.models.space import KINDS, Past, Span, propose

SPACE = {"rate": Span(1e-3, 1e-1, log=True), "size": (1, 2, 4)}
SCRIPT = """
import json, sys
from pathlib import Path
from llmops_nb.ground.journal import Journal
from llmops_nb.models.search import Plan
from llmops_nb.models.space import Span
from llmops_nb.models.training import Settings
from llmops_nb.models.tuning import Common, tune
folder = Path(sys.argv[1])
common = Common(sys.argv[2], "builtin:tiny", "", folder / "trials", ("lora",), Settings(epochs=4, label_epochs=0, batch_tokens=128), 1)
space = {"learning_rate": Span(1e-3, 2e-2, log=True), "rank": (4, 8)}
found = tune(common, Plan(trials=3, finish=2), space, Journal(folder / "search.jsonl"), lambda state, trial: print("part", trial.number, flush=True))
print(json.dumps([[t.settings, t.state, {p: [r["value"], r["tokens"], r["curve"]] for p, r in t.results.items()}] for t in found.trials]))
"""


def pretend(number: int, settings: dict, part: float) -> dict:
    "A training that is a formula."
    return {"value": settings["size"] * part - abs(settings["rate"] - 0.02), "tokens": 100 * part, "seconds": part, "curve": []}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Sixty short records of three labels."
    from llmops_nb.data.records import save_dataset

    topics = {"card_lost": ("I lost my card", "my card is gone", "card stolen"), "refund": ("where is my refund", "refund not there", "no refund yet"), "pin": ("change my PIN", "I forgot my PIN", "new PIN please")}
    rows = [{"id": f"{label}{i}{k}", "text": f"{start} {text}", "label": label, "target": label, "reply": "", "split": ("train", "valid", "train", "test")[k]}
            for label, texts in topics.items() for i, text in enumerate(texts) for k, start in enumerate(("", "Hi,", "Please:", "Hello,"))]
    folder = tmp_path_factory.mktemp("data") / "dataset"
    save_dataset(folder, rows, {"seed": 7, "knowledge": []})
    return folder


def start(folder: Path, dataset: Path) -> subprocess.Popen:
    "A search of three real trainings in a process of its own."
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(dataset)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> list:
    "What a search found, when it is over."
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def test_killed_in_a_trial_it_ends_the_same(tmp_path: Path, dataset: Path):
    undisturbed, killed = start(tmp_path / "a", dataset), start(tmp_path / "b", dataset)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "b").glob("trials/*/checkpoint-*/MANIFEST.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list((tmp_path / "b").glob("trials/*/checkpoint-*")), "it was killed after a checkpoint"
    assert finish(start(tmp_path / "b", dataset)) == finish(undisturbed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_searches_the_same(kind: str):
    plan = Plan(trials=8, kind=kind)
    one, two = (search(SPACE, plan, pretend, lambda settings: 100.0) for _ in range(2))
    assert one == two and one.best.state == "done"


@pytest.mark.parametrize("tokens", [150, 333, 1000])
def test_the_limit_is_hard(tokens: float):
    found = search(SPACE, Plan(trials=500, limit=Limit(tokens=tokens)), pretend, lambda settings: 100.0)
    assert found.used("tokens") <= tokens and found.done and found.ended == "the limit is reached"


def test_a_limit_below_one_training_is_said():
    with pytest.raises(BadInput, match="no trial was finished"):
        search(SPACE, Plan(limit=Limit(tokens=50)), pretend, lambda settings: 100.0).best  # noqa: B018


def test_the_first_trial_is_what_would_be_done_anyway():
    first = {"rate": 0.05, "size": 2}
    assert propose("bayes", SPACE, [], 1, first) == first
    found = search(SPACE, Plan(trials=5), pretend, lambda settings: 100.0, first)
    assert found.trials[0].settings == first and found.score(found.best) >= found.score(found.trials[0], 0)


def test_nothing_is_tried_twice():
    found = search({"size": (1, 2, 4)}, Plan(trials=50), pretend_size, lambda settings: 100.0)
    assert sorted(trial.settings["size"] for trial in found.trials) == [1, 2, 4] and found.ended == "every combination was tried"


def pretend_size(number: int, settings: dict, part: float) -> dict:
    "A training that knows its size only."
    return {"value": settings["size"] * part, "tokens": 100 * part, "seconds": part, "curve": []}


def test_the_front_holds_what_nothing_beats():
    found = search(SPACE, Plan(trials=12, aims=2), pretend, lambda settings: 100.0 * settings["size"])
    kept = front(found.trials)
    assert all(not any(other.whole <= one.whole and other.last["value"] > one.last["value"] for other in found.done) for one in kept)


def test_a_crowd_finds_the_same_values_as_one():
    def order(number: int, settings: dict, part: float) -> tuple[str, dict]:
        return "llmops_nb.models.search:pretend", {"settings": settings, "part": part}

    found = search(SPACE, Plan(trials=5, workers=2), pretend, lambda settings: 1000.0, order=order)
    assert len(found.trials) == 5 and all(trial.results for trial in found.trials)


def test_a_bad_space_is_named():
    with pytest.raises(BadInput, match="learning_rate cannot be drawn"):
        search({"learning_rate": Span(0.0, 1.0, log=True)}, Plan(), pretend, lambda settings: 1.0)
    with pytest.raises(BadInput, match="not a way to search"):
        propose("guess", SPACE, [Past({})], 1)


def test_every_trial_is_a_run_of_its_own(tmp_path: Path):
    from types import SimpleNamespace

    from llmops_nb.ground import ledger as books
    from llmops_nb.ground.settings import create_workspace
    from llmops_nb.ground.tracking import start_mirror
    from llmops_nb.models.choice import note_trial

    workspace = create_workspace(tmp_path / "bot")
    ledger = books.Ledger(workspace.address("ledger"))
    mirror = start_mirror(workspace, "main", after=0)
    stage = SimpleNamespace(run="main", name="finetune", parameters={}, exploratory=False, ledger=ledger)
    found = search(SPACE, Plan(trials=2, finish=1), lambda number, settings, part: pretend(number, settings, part) | {"curve": [[1, 2.5, 0.1], [2, 1.5, 0.4]]}, lambda settings: 100.0)
    for trial in found.trials + found.trials:
        note_trial(stage, found, trial)
    assert mirror.close(patience=100)
    rows = ledger.rows(books.sql.select(books.mirrors))
    assert len(rows) == 2 and {row["state"] for row in rows} == {"kept"} and {row["rows"] for row in rows} == {2}
    kept = [path for row in rows for path in Path(row["folder"]).glob("*.wandb")]
    assert len(kept) == 2 and all(b"first lines right" in path.read_bytes() for path in kept)
