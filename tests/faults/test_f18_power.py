"F18: the power is cut. What a process wrote is recorded call by call, and built again as a disk may show it after a cut at any moment: no receipt, sign-off or audit entry that was acknowledged is lost, and what is left is whole."
import shutil
from pathlib import Path

import pytest
from harness import draw, environment, times, told
from power import MODELS, Disk, build, can_record, play, record

from llmops_nb.ground.audit import open_audit
from llmops_nb.ground.ledger import Ledger, signoffs, sql
from llmops_nb.ground.settings import Workspace
from llmops_nb.notebooks.receipt import engine_key, verify_receipt

CUTS = times(16, 170)


def survivors(folder: Path) -> set[str]:
    "What is left and holds, as it was acknowledged."
    workspace = Workspace(folder / "w")
    log, public = open_audit(workspace), engine_key(workspace).public_hex
    verdict = log.verify()
    assert verdict.ok, verdict
    found = {f"entry {entry.act['details']['number']}" for entry in log.entries("test.act")}
    found |= {f"receipt {verify_receipt(path, [public])['predicate']['number']}" for path in workspace.runs.glob("*/*/receipt.json")}
    rows = Ledger(workspace.address("ledger")).rows(sql.select(signoffs.c.envelope))
    logged = {entry.act["details"]["signoff"] for entry in log.entries("person.test")}
    assert {row["envelope"]["number"] for row in rows} <= logged, "the ledger has a sign-off that the log does not"
    return found | {f"signoff {row['envelope']['number']}" for row in rows}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "The folder that was written, and the record of it."
    if not can_record():
        pytest.skip("strace is not here or may not trace; apt install strace")
    folder = tmp_path_factory.mktemp("power")
    (folder / "disk").mkdir()
    record(Path(__file__).with_name("acknowledge.py"), folder / "log", folder / "disk", environment(folder / "disk" / "home"))
    return folder / "disk", folder / "log"


def test_the_record_is_complete(recorded: tuple[Path, Path]):
    disk = Disk(str(recorded[0]))
    assert [told for told in play(disk, recorded[1]) if told][-1] == "signoff 7"
    kept = {path: bytes(node.data) for path, node in disk.now.items() if node is not None and not path.endswith("-shm")}
    there = {path.relative_to(recorded[0]).as_posix(): path.read_bytes() for path in recorded[0].rglob("*") if path.is_file() and not path.name.endswith("-shm")}
    assert kept == there, {path for path in kept.keys() | there.keys() if kept.get(path) != there.get(path)}


@pytest.mark.parametrize("model", MODELS)
def test_f18_power_is_cut(tmp_path: Path, recorded: tuple[Path, Path], record_property, monkeypatch, model: str):
    random, disk, steps = draw(f"F18 {model}"), Disk(str(recorded[0])), sum(1 for _ in play(Disk(str(recorded[0])), recorded[1]))
    moments, acknowledged, kept = set(random.sample(range(steps), min(CUTS, steps))), set(), 0
    for step, said in enumerate(play(disk, recorded[1])):
        acknowledged |= {said} - {""}
        if step in moments and acknowledged:
            folder = build(tmp_path / f"{step}", disk.after(model, random))
            monkeypatch.setenv("LLMOPS_HOME", str(folder / "home"))
            lost = acknowledged - survivors(folder)
            assert not lost, f"cut after {step} of {steps} calls: lost {sorted(lost)}"
            kept += len(acknowledged)
            shutil.rmtree(folder)
    told(record_property, "F18", len(moments), len(moments), f"power cut at a random call, {model} disk: 0 of {kept} acknowledged receipts, sign-offs and entries lost")
