"Clearing away: what is referred to stays, whatever happens in the middle and beside it."
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmops_nb.ground import ledger as books
from llmops_nb.ground.ledger import Ledger, now
from llmops_nb.ground.settings import Workspace, create_workspace
from llmops_nb.ground.store import Store
from llmops_nb.notebooks.sweep import referred, sweep

SWEEP = "import sys; from pathlib import Path; from llmops_nb.ground.settings import Workspace; from llmops_nb.notebooks.sweep import sweep\nsweep(Workspace(Path(sys.argv[1])), really=True)"


def keep(ledger: Ledger, store: Store, folder: Path, run: str, stage: str) -> str:
    "Store a folder as the output of a finished stage."
    digest = store.put(folder)
    number = ledger.add(books.stages, dict(run=run, stage=stage, key="", status="done", started=now(), parameters={}))
    ledger.add(books.lineage, dict(stage_id=number, direction="out", name=f"{stage}_made", digest=digest))
    return digest


def age(root: Path, hours: float = 2.0) -> None:
    "Let all files in a folder be old."
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 3600 * hours,) * 2)


def folder_with(folder: Path, *texts: str) -> Path:
    "A folder with a file for each text."
    folder.mkdir(parents=True, exist_ok=True)
    for text in texts:
        (folder / f"{text}.txt").write_text(text * 50)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> tuple[Workspace, Ledger, Store]:
    "A workspace with twelve results of one stage, of which the last counts, and a run beside it."
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    workspace = create_workspace(tmp_path / "w")
    ledger, store = Ledger(workspace.address("ledger")), Store(workspace.address("store"))
    for name in ("main", "other"):
        ledger.add(books.runs, dict(name=name, created=now(), parameters={}, status="done", lease={}))
    for n in range(12):
        keep(ledger, store, folder_with(tmp_path / f"made{n}", "common", f"own{n}"), "main", "count")
    keep(ledger, store, folder_with(tmp_path / "else", "common", "own3"), "other", "count")
    age(workspace.private / "store")
    return workspace, ledger, store


def intact(workspace: Workspace, ledger: Ledger, store: Store) -> None:
    "All that is referred to is whole, and what is in the store is what it says."
    assert all(store.lacks(digest) == "" for digest in referred(workspace, ledger)) and store.verify() == []


def test_only_what_nothing_refers_to_goes(place):
    workspace, ledger, store = place
    found = sweep(workspace)
    assert len([r for r in found.found if r.kind == "manifest"]) == 10 and len([r for r in found.found if r.kind == "blob"]) == 10  # own3 is used by the other run
    assert len(list(store.shelf.keys("manifests"))) == 12, "looking removed something"
    assert len(sweep(workspace, really=True).cleared) == 20 and sweep(workspace).found == []
    intact(workspace, ledger, store)
    assert [entry.act["action"] for entry in __import__("llmops_nb.ground.audit", fromlist=["open_audit"]).open_audit(workspace).entries("gc.")] == ["gc.begin", "gc.end"]


def test_the_young_stay_and_leftovers_of_the_dead_go(place, tmp_path):
    workspace, ledger, store = place
    fresh = store.put(folder_with(tmp_path / "fresh", "fresh"))
    (workspace.private / "work" / "7" / "in").mkdir(parents=True)
    (workspace.private / "store" / "blobs" / ".half.1.abc.tmp").write_text("half")
    os.utime(workspace.private / "store" / "blobs" / ".half.1.abc.tmp", (1e9, 1e9))
    os.utime(workspace.private / "work" / "7", (1e9, 1e9))
    sweep(workspace, really=True)
    assert store.has(fresh) and not (workspace.private / "work" / "7").exists() and not list((workspace.private / "store").rglob("*.tmp"))


@pytest.mark.parametrize("seed", range(4))
def test_killed_in_the_middle_nothing_that_counts_is_lost(place, tmp_path, seed):
    workspace, ledger, store = place
    for n in range(150):
        keep(ledger, store, folder_with(tmp_path / "many", f"many{n}"), "main", "many")
    age(workspace.private / "store")
    before = len(list(store.shelf.keys("blobs")))
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(workspace.root)])
    while process.poll() is None and len(list(store.shelf.keys("blobs"))) > before - random.Random(seed).randrange(1, 100):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    intact(workspace, ledger, store)
    sweep(workspace, really=True)
    intact(workspace, ledger, store)
    assert sweep(workspace).found == []


def test_artifacts_that_are_wanted_again_meanwhile_stay(place, tmp_path):
    workspace, ledger, store = place
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(workspace.root)])
    draw = random.Random(3)
    while process.poll() is None:  # a notebook that is worked in by hand has no lease
        keep(ledger, store, folder_with(tmp_path / f"again{draw.random()}", "common", f"own{draw.randrange(12)}"), "main", f"by_hand{draw.randrange(6)}")
    assert process.returncode == 0
    intact(workspace, ledger, store)


def test_a_run_in_progress_is_left_alone(place):
    from llmops_nb.ground.core import BadInput
    from llmops_nb.notebooks.lease import own_lease

    workspace, ledger, store = place
    ledger.change(books.runs, books.runs.c.name == "main", status="running", lease=own_lease())
    with pytest.raises(BadInput, match="being executed"):
        sweep(workspace, really=True)
    assert len(list(store.shelf.keys("manifests"))) == 12


def test_a_store_at_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    workspace = create_workspace(tmp_path / "w")
    (workspace.root / "settings.ini").write_text(f"[store]\naddress = file://{tmp_path}/remote\n")
    ledger, store = Ledger(workspace.address("ledger")), Store(workspace.address("store"))
    old, new = (keep(ledger, store, folder_with(tmp_path / text, text), "main", "count") for text in ("old", "new"))
    age(tmp_path / "remote")
    assert [r.kind for r in sweep(workspace, really=True).cleared] == ["manifest", "blob"] and not store.has(old) and store.lacks(new) == ""
