"F14: kill -9 in the middle of a snapshot and of a restore; a place with a missing, a flipped and an additional piece. No half snapshot is listed, nothing is restored that is not as it was, and what is restored is equal to the byte."
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from harness import draw, times, told

from llmops_nb.ground.audit import open_audit
from llmops_nb.ground.core import LlmopsError, digest_file
from llmops_nb.ground.ledger import Ledger, feedback, now
from llmops_nb.ground.settings import Workspace, create_workspace
from llmops_nb.ground.store import Store
from llmops_nb.operate.backup import Snapshot, list_snapshots, take_snapshot
from llmops_nb.operate.restore import CHECKS, open_snapshot, restore_snapshot, verify_snapshot
from llmops_nb.operate.seal import make_key_file

ROUNDS = times(20, 300)


@pytest.fixture
def living(tmp_path: Path, home: Path, monkeypatch) -> Workspace:
    "A workspace with a store, books and files."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    workspace, random = create_workspace(tmp_path / "w", {"policy.toml": "[production]\n"}), Random("living")
    for number in range(12):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / "x").write_bytes(random.randbytes(60_000 * (number + 1)))
        Store(workspace.address("store")).put(tmp_path / "source")
    Ledger(workspace.address("ledger")).add(feedback, *(dict(time=now(), request=str(n), rating="up") for n in range(50)))
    open_audit(workspace).append("person.test", "tester")
    return workspace


def change(workspace: Workspace, number: int, random: Random) -> None:
    "Some work between two snapshots."
    (workspace.root / "notes.txt").write_bytes(random.randbytes(400_000))
    Ledger(workspace.address("ledger")).add(feedback, dict(time=now(), request=f"more {number}", rating="up"))


def kill_in(work: Callable[[], object], seconds: float) -> None:
    "Do something in a process of its own and kill it with SIGKILL after so long."
    if not (child := os.fork()):
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def bytes_of(snapshot: Snapshot, root: Path) -> dict[str, str]:
    "The digests of a snapshot's files as they lie below a folder."
    return {path: digest_file(root / path) for path in snapshot.manifest["files"]}


def check_equal(snapshot: Snapshot, restored: Workspace, living: Workspace) -> None:
    "What was restored has every byte of the snapshot and nothing else, and what is no database is as it lies in the living workspace."
    promised = {path: entry["sha256"] for path, entry in snapshot.manifest["files"].items()}
    assert bytes_of(snapshot, restored.root) == promised
    assert {path.relative_to(restored.root).as_posix() for path in restored.root.rglob("*") if path.is_file()} == set(promised)
    plain = {path for path in promised if not path.endswith(".sqlite")}
    assert {path: digest_file(living.root / path) for path in plain} == {path: promised[path] for path in plain}


def test_f14_killed_in_backup_and_restore(tmp_path: Path, living: Workspace, record_property):
    random, place, key, left, waits = draw("F14"), tmp_path / "place", make_key_file(tmp_path / "key"), 0, []
    for number in range(ROUNDS):
        sealed, target = key if number % 2 else "", tmp_path / f"restored {number}"
        change(living, number, random)
        before = list_snapshots(place)
        kill_in(partial(take_snapshot, living, place, f"killed-{number}", sealed), random.uniform(0.0, 0.12))
        listed = list_snapshots(place)
        left += listed == before
        for name in listed[-2:]:
            assert verify_snapshot(open_snapshot(place, name, key)) == [], "a half snapshot was listed"
        snapshot = take_snapshot(living, place, f"whole-{number}", sealed)
        kill_in(partial(restore_snapshot, open_snapshot(place, snapshot.name, sealed), target), random.uniform(0.0, 0.12))
        if target.exists():
            check_equal(snapshot, Workspace(target), living)
            shutil.rmtree(target)
        begun = time.perf_counter()
        restored = restore_snapshot(open_snapshot(place, snapshot.name, sealed), target)
        waits.append(time.perf_counter() - begun)
        check_equal(snapshot, restored, living)
        assert not [path for path in tmp_path.glob(".restored*")], "a killed restore was not cleared away"
        assert [problem for check in CHECKS.values() for problem in check(restored)] == []
        shutil.rmtree(target)
    assert left, "every kill came too late to matter"
    told(record_property, "F14", ROUNDS, ROUNDS, f"killed in backup and in restore ({left} snapshots cut short): 0 half snapshots listed, {ROUNDS} of {ROUNDS} restored equal to the byte; recovery point: the snapshot, recovery time {statistics.median(waits):.2f} s (median, {min(waits):.2f} to {max(waits):.2f})")


def harm(kind: str, piece: Path, random: Random) -> None:
    "Take a piece away, flip one bit of it, or put another beside it."
    piece.parent.chmod(0o755)
    piece.chmod(0o644)
    data = bytearray(piece.read_bytes() or b"\0")
    if kind == "missing":
        piece.unlink()
    elif kind == "flipped":
        place = random.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
        piece.write_bytes(data)
    else:
        piece.with_name(random.randbytes(32).hex()).write_bytes(data)


def test_f14_damaged_place(tmp_path: Path, living: Workspace, record_property):
    random, key, refused = draw("F14 place"), make_key_file(tmp_path / "key"), 0
    for number in range(ROUNDS):
        kind, sealed, place = ("missing", "flipped", "extra")[number % 3], key if number % 2 else "", tmp_path / f"place {number}"
        snapshot = take_snapshot(living, place, "one", sealed)
        path = random.choice(sorted(snapshot.manifest["files"]))
        harm(kind, place / snapshot.archive.name(snapshot.manifest["files"][path]["sha256"]), random)
        target = tmp_path / "elsewhere" / str(number)
        if kind == "extra":
            check_equal(snapshot, restore_snapshot(open_snapshot(place, "one", sealed), target), living)
        else:
            with pytest.raises(LlmopsError, match="missing|changed|cannot be opened"):
                restore_snapshot(open_snapshot(place, "one", sealed), target)
            assert not target.exists()
            refused += 1
        shutil.rmtree(place)
    told(record_property, "F14", ROUNDS, ROUNDS, f"pieces missing or flipped: {refused} refused, nothing restored; additional: {ROUNDS - refused} restored equal to the byte")
