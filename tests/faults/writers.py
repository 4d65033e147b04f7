"""One writer for each kind of thing that must never be half-written: writes in a loop, and acknowledges what is safe.

A writer is a generator function (folder, random numbers) that yields the acknowledgement after each write; its check is called after the kill with the acknowledgements and raises when one of them is lost, or when something under a final name is not whole.
"""
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmops_nb.ground.core import digest_file, write_atomic


def write_notebook(folder: Path, draw: random.Random) -> Iterator[str]:
    for number in range(10**6):
        text = json.dumps({"number": number, "cells": ["x" * draw.randrange(300_000)]})
        write_atomic(folder / "notebook.ipynb", text)
        yield str(number)


def check_notebook(folder: Path, known: list[str]) -> None:
    assert not known or json.loads((folder / "notebook.ipynb").read_text())["number"] >= int(known[-1])


def write_receipt(folder: Path, draw: random.Random) -> Iterator[str]:
    from llmops_nb.ground.signing import service_key
    from llmops_nb.notebooks import receipt

    key = service_key("workspace-test", folder / "keys")
    for number in range(10**6):
        receipt.write_receipt(folder / "receipt.json", {"outputs": {}, "observed": {}}, {"number": number, "outputs": {}, "observed": {}, "filler": "x" * draw.randrange(20_000)}, key)
        yield str(number)


def check_receipt(folder: Path, known: list[str]) -> None:
    from llmops_nb.ground.signing import service_key
    from llmops_nb.notebooks.receipt import verify_receipt

    if known:
        public = service_key("workspace-test", folder / "keys").public_hex
        assert verify_receipt(folder / "receipt.json", [public])["predicate"]["number"] >= int(known[-1])


def write_object(folder: Path, draw: random.Random) -> Iterator[str]:
    from llmops_nb.ground.store import Store

    store, source = Store(folder / "store"), Path(tempfile.mkdtemp())
    for _ in range(10**6):
        for name in "ab":
            (source / name).write_bytes(draw.randbytes(draw.randrange(1, 400_000)))
        yield store.put(source)


def check_object(folder: Path, known: list[str]) -> None:
    from llmops_nb.ground.store import Store

    store = Store(folder / "store")
    assert store.verify() == []
    for digest in known:
        store.get(digest, folder / "out" / digest)


def write_checkpoint(folder: Path, draw: random.Random) -> Iterator[str]:
    import torch
    from llmops_nb.models.checkpoints import save_checkpoint

    for step in range(1, 10**6):
        tensors = {name: {"a": torch.full((draw.randrange(1, 100_000),), float(step))} for name in ("weights", "optimizer", "random")}
        save_checkpoint(folder / "checkpoints", step, tensors, {"losses": []}, {"fingerprint": "x"})
        yield str(step)


def check_checkpoint(folder: Path, known: list[str]) -> None:
    from llmops_nb.models.checkpoints import checkpoints, newest_checkpoint, verify_checkpoint

    for path in checkpoints(folder / "checkpoints"):
        verify_checkpoint(path)
    if known:
        assert int(newest_checkpoint(folder / "checkpoints", "x").name.removeprefix("checkpoint-")) >= int(known[-1])


def write_ledger(folder: Path, draw: random.Random) -> Iterator[str]:
    from llmops_nb.ground.ledger import Ledger, feedback, now

    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    for number in range(10**6):
        ledger.add(feedback, dict(time=now(), request=str(number), rating="up", correction="x" * draw.randrange(5000)))
        yield str(number)


def check_ledger(folder: Path, known: list[str]) -> None:
    from llmops_nb.ground.ledger import Ledger, feedback, sql

    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    assert ledger.rows(sql.text("pragma integrity_check")) == [{"integrity_check": "ok"}]
    assert set(known) <= {row["request"] for row in ledger.rows(sql.select(feedback.c.request))}


def write_export(folder: Path, draw: random.Random) -> Iterator[str]:
    import torch
    from llmops_nb.ground.store import Store
    from safetensors.torch import save_file

    store, out = Store(folder / "store"), Path(tempfile.mkdtemp())
    for number in range(10**6):
        save_file({"a": torch.full((200_000,), float(number))}, out / "model.safetensors")
        (out / "training.json").write_text(json.dumps({"number": number}))
        yield store.put(out)


check_export = check_object


def write_backup(folder: Path, draw: random.Random) -> Iterator[str]:
    from llmops_nb.ground.settings import Workspace, create_workspace
    from llmops_nb.operate.backup import list_snapshots, take_snapshot

    if not (folder / "w").exists():
        create_workspace(folder / "w")
        for number in range(6):
            (folder / "w" / f"data{number}.bin").write_bytes(draw.randbytes(100_000))
    for number in range(len(list_snapshots(folder / "snapshots")), 10**6):
        (folder / "w" / "new.bin").write_bytes(draw.randbytes(100_000))
        take_snapshot(Workspace(folder / "w"), folder / "snapshots", f"s{number}")
        yield f"s{number}"


def check_backup(folder: Path, known: list[str]) -> None:
    from llmops_nb.operate.backup import list_snapshots
    from llmops_nb.operate.restore import open_snapshot, restore_snapshot, verify_snapshot

    listed = list_snapshots(folder / "snapshots")
    assert set(known) <= set(listed)
    for name in listed:
        assert verify_snapshot(open_snapshot(folder / "snapshots", name)) == []
    if listed:
        restore_snapshot(open_snapshot(folder / "snapshots", listed[-1]), folder / "restored")
        assert all(digest_file(folder / "restored" / f"data{n}.bin") == digest_file(folder / "w" / f"data{n}.bin") for n in range(6))


def write_audit(folder: Path, draw: random.Random) -> Iterator[str]:
    from llmops_nb.ground.audit import open_audit
    from llmops_nb.ground.settings import create_workspace

    log = open_audit(create_workspace(folder / "w"))
    for number in range(10**6):
        log.append("test.write", "tester", details={"number": number, "filler": "x" * draw.randrange(2000)})
        yield str(number)


def check_audit(folder: Path, known: list[str]) -> None:
    from llmops_nb.ground.audit import open_audit
    from llmops_nb.ground.settings import Workspace

    log = open_audit(Workspace(folder / "w"))
    assert (verdict := log.verify()).ok, verdict
    assert set(known) <= {str(entry.act["details"]["number"]) for entry in log.entries("test.write")}


KINDS = ["notebook", "receipt", "object", "checkpoint", "ledger", "export", "backup", "audit"]
WRITERS = {kind: globals()[f"write_{kind}"] for kind in KINDS}
CHECKS = {kind: globals()[f"check_{kind}"] for kind in KINDS}
